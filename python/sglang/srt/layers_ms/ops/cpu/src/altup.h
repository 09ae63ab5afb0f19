// Streams of a token, side by side in a row, and activations that are sparse: of Gemma 3n.
#pragma once
#include <algorithm>
#include <cmath>

#include "elementwise.h"
#include "kernels.h"

namespace KERNEL_ISA {

template <typename T>
void take_stream_as(const calls::take_stream& a) {
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      std::copy_n(in<T>(a.x) + row * a.columns + a.index * a.size, a.size, out<T>(a.out) + row * a.size);
  });
}

template <typename T>
void mix_streams_as(const calls::mix_streams& a) {
  const int64_t streams = a.streams, size = a.columns / streams;
  over_rows(a.tokens, a.columns * streams, [&](int64_t first, int64_t last) {
    for (int64_t at = first * streams; at < last * streams; ++at) {
      const T *row = in<T>(a.x) + at / streams * a.columns, *own = in<T>(a.x) + at * size;
      const T* weights = in<T>(a.weights) + at * streams;
      T* to = out<T>(a.out) + at * size;
      over(
          size,
          [&](int64_t i) {
            f32x16 total = load(own + i);
            for (int64_t j = 0; j < streams; ++j) total += load(row + j * size + i) * to_float(weights[j]);
            store(to + i, total);
          },
          [&](int64_t i) {
            float total = to_float(own[i]);
            for (int64_t j = 0; j < streams; ++j) total += to_float(row[j * size + i]) * to_float(weights[j]);
            to[i] = from_float<T>(total);
          });
    }
  });
}

template <typename T>
void add_to_streams_as(const calls::add_to_streams& a) {
  const int64_t streams = a.streams, size = a.size;
  over_rows(a.tokens, a.columns, [&](int64_t first, int64_t last) {
    for (int64_t at = first * streams; at < last * streams; ++at) {
      const T *x = in<T>(a.x) + at * size, *y = in<T>(a.y) + at / streams * size;
      const float weight = a.weights ? to_float(in<T>(a.weights)[at]) : 0.0f;
      const float factor = at % streams < a.first ? 0.0f : weight + a.offset;
      T* to = out<T>(a.out) + at * size;
      over(
          size, [&](int64_t i) { store(to + i, load(x + i) + load(y + i) * factor); },
          [&](int64_t i) { to[i] = from_float<T>(to_float(x[i]) + to_float(y[i]) * factor); });
    }
  });
}

template <typename T>
void scale_columns_as(const calls::scale_columns& a) {
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    for (int64_t at = first * a.size; at < last * a.size; at += a.size)
      scale_columns(in<T>(a.x) + at, in<T>(a.factors), out<T>(a.out) + at, a.size, 1.0f, 0.0f);
  });
}

template <typename T>
void match_magnitude_as(const calls::match_magnitude& a) {
  const float size = static_cast<float>(a.size);
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    for (int64_t at = first * a.size; at < last * a.size; at += a.size) {
      const T* x = in<T>(a.x) + at;
      T* to = out<T>(a.out) + at;
      const float found = std::max(sum_of_squares(x, a.size) / size, a.eps);
      const float factor = std::sqrt(sum_of_squares(in<T>(a.like) + at, a.size) / size / found);
      over(
          a.size, [&](int64_t i) { store(to + i, load(x + i) * factor); },
          [&](int64_t i) { to[i] = from_float<T>(to_float(x[i]) * factor); });
    }
  });
}

template <typename T>
void gate_moments_as(const calls::gate_moments& a) {
  const int64_t size = a.columns / 2;
  over_rows(a.tokens, a.columns, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T* gate = in<T>(a.gate_up) + row * a.columns;
      f32x16 values{};
      float rest = 0;
      over(size, [&](int64_t i) { values += load(gate + i); }, [&](int64_t i) { rest += to_float(gate[i]); });
      a.out[2 * row] = sum(values) + rest;
      a.out[2 * row + 1] = sum_of_squares(gate, size);
    }
  });
}

template <typename T>
void sparse_gelu_and_mul_as(const calls::sparse_gelu_and_mul& a) {
  const int64_t size = a.columns / 2;
  const float count = static_cast<float>(a.count);
  over_rows(a.tokens, size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T *gate = in<T>(a.gate_up) + row * a.columns, *up = gate + size;
      T* to = out<T>(a.out) + row * size;
      const float mean = a.moments[2 * row] / count;
      const float variance = std::max(a.moments[2 * row + 1] / count - mean * mean, 0.0f);
      const float cutoff = mean + a.deviations * std::sqrt(variance);
      const auto value = [&](f32x16 x) {
        const f32x16 above = x - cutoff, zero{};
        return activate(kGeluTanh, above > zero ? above : zero);
      };
      over(
          size, [&](int64_t i) { store(to + i, value(load(gate + i)) * load(up + i)); },
          [&](int64_t i) { to[i] = from_float<T>(value(splat(to_float(gate[i])))[0] * to_float(up[i])); });
    }
  });
}

}  // namespace KERNEL_ISA

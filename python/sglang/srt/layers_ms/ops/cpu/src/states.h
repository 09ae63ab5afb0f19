// Layers with a state: each request goes on from what its slot holds, and leaves there what the next step goes on from.
#pragma once
#include <algorithm>
#include <vector>

#include "elementwise.h"
#include "scratch.h"

namespace KERNEL_ISA {

constexpr int kMaxWindow = 15;  // earlier values of a channel

// The first row of each request.
inline std::vector<int64_t> first_rows(const int32_t* query_lens, int64_t requests) {
  std::vector<int64_t> rows(requests);
  for (int64_t i = 1; i < requests; ++i) rows[i] = rows[i - 1] + query_lens[i - 1];
  return rows;
}

template <typename T>
inline f32x16 load_upto16(const T* p, int64_t count) {
  return count >= 16 ? load(p) : load_part(p, count);
}

template <typename T>
inline void store_upto16(T* p, f32x16 x, int64_t count) {
  if (count >= 16) return store(p, x);
  for (int64_t i = 0; i < count; ++i) p[i] = from_float<T>(x[i]);
}

// x as a cache of C holds it: a token has the same effect whether it is read of the step or of a state.
template <typename C>
inline f32x16 rounded_to(f32x16 x) {
  C held[16];
  store(held, x);
  return load(held);
}
template <>
inline f32x16 rounded_to<float>(f32x16 x) {
  return x;
}

// A second slot of a request, and behind how many of its tokens of the step the state is left there: 0: nowhere.
template <typename Call>
inline int64_t tracked(const Call& a, int64_t request) {
  return a.track_slots[request] < 0 ? 0 : a.track_lens[request];
}

// Where the state behind each token of a request goes, `size` values a token; null: there is one state, the last.
template <typename State, typename Call>
State* intermediate_of(const Call& a, int64_t request, int64_t size) {
  if (!a.intermediate || a.intermediate_rows[request] < 0) return nullptr;
  return static_cast<State*>(a.intermediate) + a.intermediate_rows[request] * a.drafts * size;
}

// Up to 16 channels from `first` on, of the tokens of one request; behind `kept` of them the state is left in `copy`.
template <typename T, typename C, bool gated>
void conv_channels(const calls::causal_conv& a, int64_t row, int64_t tokens, C* state, C* intermediate, int64_t first,
                   C* copy, int64_t kept) {
  const int64_t count = std::min<int64_t>(16, a.channels - first), window = a.window, width = a.width;
  const T *weight = in<T>(a.weight) + first * width, *bias = in<T>(a.bias);
  f32x16 past[kMaxWindow], taps[kMaxWindow + 1];
  for (int64_t j = 0; j < window; ++j)
    for (int64_t i = 0; i < 16; ++i) past[j][i] = i < count ? to_float(state[(first + i) * window + j]) : 0.0f;
  for (int64_t j = 0; j < width; ++j)
    for (int64_t i = 0; i < 16; ++i) taps[j][i] = i < count ? to_float(weight[i * width + j]) : 0.0f;
  const f32x16 start = bias ? load_upto16(bias + first, count) : f32x16{};
  auto leave = [&](C* to) {
    for (int64_t j = 0; j < window; ++j)
      for (int64_t i = 0; i < count; ++i) to[(first + i) * window + j] = from_float<C>(past[j][i]);
  };
  for (int64_t t = 0; t < tokens; ++t) {
    const T* x = in<T>(a.x) + (row + t) * a.columns + first;
    f32x16 value = load_upto16(gated ? x + 2 * a.channels : x, count);
    if (gated) value *= load_upto16(x, count);
    value = rounded_to<C>(value);
    f32x16 y = start;
    for (int64_t j = 0; j < window; ++j) y += taps[j] * past[j];
    y += taps[window] * value;
    for (int64_t j = 0; j + 1 < window; ++j) past[j] = past[j + 1];
    past[window - 1] = value;
    if (t + 1 == kept) leave(copy);
    y = gated ? y * load_upto16(x + a.channels, count) : activate(kSilu, y);
    store_upto16(out<T>(a.out) + (row + t) * a.channels + first, y, count);
    if (intermediate) leave(intermediate + t * a.channels * window);
  }
  if (!intermediate) leave(state);
}

template <typename T, typename C>
void causal_conv_as(const calls::causal_conv& a) {
  const auto rows = first_rows(a.query_lens, a.requests);
  // As many channels a task as are worth a thread.
  const int64_t mean = std::max<int64_t>(1, a.tokens / std::max<int64_t>(1, a.requests));
  const int64_t vectors = std::max<int64_t>(1, kValuesPerTask / (16 * a.width * mean)), piece = 16 * vectors;
  const int64_t pieces = (a.channels + piece - 1) / piece;
  pool::each(a.requests * pieces, [&](int64_t task) {
    const int64_t request = task / pieces, first = task % pieces * piece;
    C* state = static_cast<C*>(a.state) + a.state_slots[request] * a.channels * a.window;
    const int64_t kept = tracked(a, request);
    C* copy = static_cast<C*>(a.state) + (kept ? a.track_slots[request] : 0) * a.channels * a.window;
    C* apart = intermediate_of<C>(a, request, a.channels * a.window);
    for (int64_t channel = first; channel < std::min(a.channels, first + piece); channel += 16) {
      if (a.gated)
        conv_channels<T, C, true>(a, rows[request], a.query_lens[request], state, apart, channel, copy, kept);
      else
        conv_channels<T, C, false>(a, rows[request], a.query_lens[request], state, apart, channel, copy, kept);
    }
  });
}

inline f32x16 sigmoid(f32x16 x) { return 1.0f / (1.0f + exp(-x)); }

template <typename T>
void sigmoid_gate_as(const calls::sigmoid_gate& a) {
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    const int64_t at = first * a.size, count = (last - first) * a.size;
    const T *x = in<T>(a.x) + at, *gate = in<T>(a.gate) + at;
    T* y = out<T>(a.out) + at;
    for (int64_t i = 0; i < count; i += 16) {
      const int64_t rest = count - i;
      store_upto16(y + i, load_upto16(x + i, rest) * sigmoid(load_upto16(gate + i, rest)), rest);
    }
  });
}

// x * silu(gate), of up to 16 values.
template <typename T>
inline f32x16 gated_upto16(const T* x, const T* gate, int64_t count) {
  return load_upto16(x, count) * activate(kSilu, load_upto16(gate, count));
}

template <typename T>
void gated_squares_as(const calls::gated_squares& a) {
  over_rows(a.tokens, a.columns, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T *x = in<T>(a.x) + row * a.columns, *gate = in<T>(a.gate) + row * a.columns;
      f32x16 squares{};
      for (int64_t i = 0; i < a.columns; i += 16) {
        const f32x16 value = gated_upto16(x + i, gate + i, a.columns - i);
        squares += value * value;
      }
      std::fill(a.out + row * a.groups, a.out + (row + 1) * a.groups, 0.0f);
      a.out[row * a.groups + a.own] = sum(squares);
    }
  });
}

template <typename T>
void gated_norm_tp_as(const calls::gated_norm_tp& a) {
  over_rows(a.tokens, a.columns, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T *x = in<T>(a.x) + row * a.columns, *gate = in<T>(a.gate) + row * a.columns, *weight = in<T>(a.weight);
      const float factor = inverse_root(a.sums[row * a.groups + a.own], static_cast<float>(a.group), a.eps);
      for (int64_t i = 0; i < a.columns; i += 16) {
        const int64_t rest = a.columns - i;
        const f32x16 value = gated_upto16(x + i, gate + i, rest) * factor * load_upto16(weight + i, rest);
        store_upto16(out<T>(a.out) + row * a.columns + i, value, rest);
      }
    }
  });
}

template <typename T>
void gated_norm_as(const calls::gated_norm& a) {
  over_rows(a.tokens * (a.columns / a.group), a.group, [&](int64_t first, int64_t last) {
    float* line = scratch<Purpose::gated_row, float>(a.group + 16);
    for (int64_t task = first; task < last; ++task) {
      const int64_t at = task * a.group;
      const T *x = in<T>(a.x) + at, *gate = in<T>(a.gate) + at, *weight = in<T>(a.weight) + at % a.weights;
      f32x16 squares{};
      for (int64_t i = 0; i < a.group; i += 16) {
        const int64_t rest = a.group - i;
        f32x16 value = load_upto16(x + i, rest);
        if (a.gate_first) {
          const f32x16 g = load_upto16(gate + i, rest);
          value *= a.sigmoid ? sigmoid(g) : activate(kSilu, g);
        }
        squares += value * value;
        store(line + i, value);
      }
      const float factor = inverse_root(sum(squares), static_cast<float>(a.group), a.eps);
      for (int64_t i = 0; i < a.group; i += 16) {
        const int64_t rest = a.group - i;
        f32x16 value = load(line + i) * factor * load_upto16(weight + i, rest);
        if (!a.gate_first) {
          const f32x16 g = load_upto16(gate + i, rest);
          value *= a.sigmoid ? sigmoid(g) : activate(kSilu, g);
        }
        store_upto16(out<T>(a.out) + at + i, value, rest);
      }
    }
  });
}

}  // namespace KERNEL_ISA

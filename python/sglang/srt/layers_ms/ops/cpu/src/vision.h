// What vision towers compute beside products and norms: attention within segments, activations, rows by their index.
#pragma once
#include <algorithm>
#include <limits>

#include "elementwise.h"
#include "kernels.h"
#include "scratch.h"

namespace KERNEL_ISA {

template <typename T>
void activate_as(const calls::activate& a) {
  const T* x = in<T>(a.x);
  T* y = out<T>(a.out);
  const auto value = [&](f32x16 v) {
    if (a.kind == 3) return v / (1.0f + exp(-1.702f * v));  // quick_gelu
    if (a.kind == 6) return 2.0f / (1.0f + exp(-2.0f * v)) - 1.0f;
    return activate(static_cast<int>(a.kind), v);
  };
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    over((last - first) * a.size,
         [&](int64_t i) { store(y + first * a.size + i, value(load(x + first * a.size + i))); },
         [&](int64_t i) {
           const int64_t at = first * a.size + i;
           y[at] = from_float<T>(value(splat(to_float(x[at])))[0]);
         });
  });
}

template <typename T>
void take_rows_as(const calls::take_rows& a) {
  const T* x = in<T>(a.x);
  T* y = out<T>(a.out);
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      if (a.rows[row] < 0)
        std::memset(static_cast<void*>(y + row * a.size), 0, a.size * sizeof(T));
      else
        std::memcpy(static_cast<void*>(y + row * a.size), x + a.rows[row] * a.size, a.size * sizeof(T));
    }
  });
}

template <typename T>
void put_rows_as(const calls::put_rows& a) {
  T* y = out<T>(a.out);
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T* from = a.mask[row] ? in<T>(a.rows) : in<T>(a.x);
      std::memcpy(static_cast<void*>(y + row * a.size), from + row * a.size, a.size * sizeof(T));
    }
  });
}

template <typename T>
void mrope_as(const calls::mrope& a) {
  const RMS rms{a.eps, 0.0f};
  const int32_t* places[] = {a.t, a.h, a.w};
  over_rows(a.tokens, a.columns, [&](int64_t first, int64_t last) {
    float* head = scratch<Purpose::line, float>(a.size + 2 * a.half + 48);
    float *cos = head + a.size + 16, *sin = cos + a.half + 16;
    for (int64_t row = first; row < last; ++row) {
      for (int64_t i = 0; i < a.half; ++i) {
        const int64_t at = places[a.axes[i]][row] * a.half + i;
        cos[i] = a.cos[at], sin[i] = a.sin[at];
      }
      const T* from = in<T>(a.qkv) + row * a.columns;
      T* to = out<T>(a.out) + row * a.columns;
      const int64_t turned = (a.heads + a.kv_heads) * a.size;
      for (int64_t i = 0; i < a.heads + a.kv_heads; ++i) {
        widen_head(from + i * a.size, head, in<T>(i < a.heads ? a.q_norm : a.k_norm), rms, a.size);
        rotate(head, cos, sin, a.half, false);
        narrow(head, to + i * a.size, a.size);
      }
      std::memcpy(static_cast<void*>(to + turned), from + turned, (a.columns - turned) * sizeof(T));
    }
  });
}

constexpr int64_t kSegmentQueries = 128;  // of a task
constexpr int64_t kSegmentKeys = 128;     // taken together

// V registers of columns of M rows: c = a * b, or where `adds` c += a * b; a [M, k], b [k, columns].
template <int M, int V, bool adds>
inline void multiply_columns(const float* a, int64_t a_width, const float* b, int64_t b_width, float* c,
                             int64_t c_width, int64_t k) {
  Lanes total[M][V];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) total[m][v] = adds ? load_lanes(c + m * c_width + v * kLanes) : Lanes{};
  for (int64_t i = 0; i < k; ++i) {
    Lanes column[V];
    for (int v = 0; v < V; ++v) column[v] = load_lanes(b + i * b_width + v * kLanes);
    for (int m = 0; m < M; ++m) {
      const Lanes factor = splat_lanes(a[m * a_width + i]);
      for (int v = 0; v < V; ++v) total[m][v] += factor * column[v];
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) store_lanes(c + m * c_width + v * kLanes, total[m][v]);
}

// The same of all rows, and of columns that are whole vectors of 16.
template <bool adds>
inline void multiply_rows(const float* a, int64_t a_width, const float* b, int64_t b_width, float* c, int64_t c_width,
                          int64_t rows, int64_t k, int64_t columns) {
  constexpr int V = kRegisters == 32 ? 4 : 2;
  int64_t j = 0;
  const auto pass = [&](auto v) {
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4)
      multiply_columns<4, v.value, adds>(a + row * a_width, a_width, b + j, b_width, c + row * c_width + j, c_width, k);
    for (; row < rows; ++row)
      multiply_columns<1, v.value, adds>(a + row * a_width, a_width, b + j, b_width, c + row * c_width + j, c_width, k);
    j += v.value * kLanes;
  };
  while (j + V * kLanes <= columns) pass(std::integral_constant<int, V>{});
  while (j < columns) pass(std::integral_constant<int, 1>{});
}

// A head of a row in float32, rotated if there are tables, times `factor`.
template <typename T>
inline void rotated_head(const calls::segment_attention& a, const T* from, int64_t row, float factor, float* to) {
  widen(from, to, a.head_dim);
  if (a.half) rotate(to, a.cos + row * a.half, a.sin + row * a.half, a.half, false);
  for (int64_t i = 0; i < a.head_dim; ++i) to[i] *= factor;
}

// Scores [count keys] of a row -> weights; what is known of earlier keys is brought to the same scale.
inline void segment_softmax(float* scores, int64_t count, int64_t padded, float& most, float& weight, float* values,
                            int64_t width) {
  float top = most;
  for (int64_t j = 0; j < count; ++j) top = std::max(top, scores[j]);
  std::fill(scores + count, scores + padded, -std::numeric_limits<float>::infinity());
  f32x16 total{};
  for (int64_t j = 0; j < padded; j += 16) {
    const f32x16 score = load(scores + j), one = exp(score - top);
    const f32x16 kept = score == -std::numeric_limits<float>::infinity() ? f32x16{} : one;
    store(scores + j, kept);
    total += kept;
  }
  const float before = top == most ? 1.0f : exp(splat(most - top))[0];
  if (before != 1.0f)
    for (int64_t i = 0; i < width; i += 16) store(values + i, load(values + i) * before);
  weight = weight * before + sum(total);
  most = top;
}

// Queries [first, last) of a head over the rows [begin, end) of their segment.
template <typename T>
inline void attend_to_segment(const calls::segment_attention& a, int64_t head, int64_t begin, int64_t end,
                              int64_t first, int64_t last) {
  const int64_t size = a.head_dim, width = (size + 15) / 16 * 16, queries = last - first, stride = a.heads * size;
  const T* qkv = in<T>(a.qkv) + head * size;
  float* q = scratch<Purpose::q, float>(kSegmentQueries * width);
  float* line = scratch<Purpose::line, float>(width);
  float* keys = scratch<Purpose::k, float>(width * kSegmentKeys);  // [size, kSegmentKeys]
  float* values = scratch<Purpose::v, float>(kSegmentKeys * width);
  float* scores = scratch<Purpose::scores, float>(kSegmentQueries * kSegmentKeys);
  float* found = scratch<Purpose::found, float>(kSegmentQueries * width);
  float most[kSegmentQueries], weight[kSegmentQueries] = {};
  std::fill(most, most + queries, -std::numeric_limits<float>::max());
  std::fill(found, found + queries * width, 0.0f);
  for (int64_t i = 0; i < queries; ++i)
    rotated_head(a, qkv + (first + i) * a.columns, first + i, a.scale, q + i * width);
  for (int64_t key = begin; key < end; key += kSegmentKeys) {
    const int64_t count = std::min(kSegmentKeys, end - key), padded = (count + 15) / 16 * 16;
    for (int64_t j = 0; j < padded; ++j) {
      const int64_t row = std::min(key + j, end - 1);
      rotated_head(a, qkv + row * a.columns + stride, row, 1.0f, line);
      for (int64_t i = 0; i < size; ++i) keys[i * kSegmentKeys + j] = line[i];
      widen(qkv + row * a.columns + 2 * stride, values + j * width, size);
    }
    multiply_rows<false>(q, width, keys, kSegmentKeys, scores, kSegmentKeys, queries, size, padded);
    for (int64_t i = 0; i < queries; ++i)
      segment_softmax(scores + i * kSegmentKeys, count, padded, most[i], weight[i], found + i * width, width);
    multiply_rows<true>(scores, kSegmentKeys, values, width, found, width, queries, count, width);
  }
  for (int64_t i = 0; i < queries; ++i) {
    for (int64_t j = 0; j < size; ++j) found[i * width + j] /= weight[i];
    narrow(found + i * width, out<T>(a.out) + (first + i) * stride + head * size, size);
  }
}

template <typename T>
void segment_attention_as(const calls::segment_attention& a) {
  struct Part {
    int64_t begin, end, first;
  };
  std::vector<Part> parts;
  for (int64_t segment = 0; segment + 1 < a.ends; ++segment)
    for (int64_t first = a.bounds[segment]; first < a.bounds[segment + 1]; first += kSegmentQueries)
      parts.push_back({a.bounds[segment], a.bounds[segment + 1], first});
  pool::each(static_cast<int64_t>(parts.size()) * a.heads, [&](int64_t task) {
    const Part& part = parts[task / a.heads];
    const int64_t last = std::min(part.first + kSegmentQueries, part.end);
    attend_to_segment<T>(a, task % a.heads, part.begin, part.end, part.first, last);
  });
}

}  // namespace KERNEL_ISA

// Attention of all rows of a segment to each other, online softmax: blocks of queries meet blocks of keys in products.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "elementwise.h"
#include "kernels.h"
#include "scratch.h"
#include "segment_tiles.h"

namespace KERNEL_ISA {

constexpr int64_t kSegmentQueries = 512;                   // of a task: keys are rotated once for all of them
constexpr int64_t kSegmentKeys = 128, kSegmentRows = 128;  // that meet in a product
constexpr int64_t kTileKeys = 256, kTileRows = 32;         // the same where they meet in tiles

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
  std::fill(scores + count, scores + padded, -std::numeric_limits<float>::infinity());
  f32x16 tops = load(scores);
  for (int64_t j = 16; j < padded; j += 16) tops = load(scores + j) > tops ? load(scores + j) : tops;
  const float top = std::max(most, largest(tops));
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
  float* scores = scratch<Purpose::scores, float>(kSegmentRows * kSegmentKeys);
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
    for (int64_t row = 0; row < queries; row += kSegmentRows) {
      const int64_t rows = std::min(kSegmentRows, queries - row);
      float* sums = found + row * width;
      multiply_rows<false>(q + row * width, width, keys, kSegmentKeys, scores, kSegmentKeys, rows, size, padded);
      for (int64_t i = 0; i < rows; ++i)
        segment_softmax(scores + i * kSegmentKeys, count, padded, most[row + i], weight[row + i], sums + i * width,
                        width);
      multiply_rows<true>(scores, kSegmentKeys, values, width, sums, width, rows, count, width);
    }
  }
  for (int64_t i = 0; i < queries; ++i) {
    for (int64_t j = 0; j < size; ++j) found[i * width + j] /= weight[i];
    narrow(found + i * width, out<T>(a.out) + (first + i) * stride + head * size, size);
  }
}

#if defined(__AVX512F__)
// The same of bfloat16, by tiles. Queries and keys are rounded when they are rotated, weights before they meet values.
inline void attend_by_tiles(const calls::segment_attention& a, int64_t head, int64_t begin, int64_t end, int64_t first,
                            int64_t last) {
  const int64_t size = a.head_dim, width = (size + 31) / 32 * 32, queries = last - first, stride = a.heads * size;
  const int64_t rows = (queries + 31) / 32 * 32, most_keys = std::min(kTileKeys, (end - begin + 31) / 32 * 32);
  const bf16* qkv = in<bf16>(a.qkv) + head * size;
  bf16* q = lines<Purpose::q, bf16>(rows * width);
  bf16* line = lines<Purpose::line, bf16>(16 * width);
  float* wide = lines<Purpose::rows, float>(width);
  bf16* keys = lines<Purpose::k, bf16>(width * most_keys);
  bf16* values = lines<Purpose::v, bf16>(most_keys * width);
  bf16* weights = lines<Purpose::weights, bf16>(kTileRows * kTileKeys);
  float* scores = lines<Purpose::scores, float>(kTileRows * kTileKeys);
  float* found = lines<Purpose::found, float>(rows * width);
  float most[kSegmentQueries], weight[kSegmentQueries] = {};
  std::fill(most, most + queries, -std::numeric_limits<float>::max());
  std::fill(found, found + rows * width, 0.0f);
  std::fill(q, q + rows * width, bf16{});
  std::fill(line, line + 16 * width, bf16{});
  for (int64_t i = 0; i < queries; ++i) {
    rotated_head(a, qkv + (first + i) * a.columns, first + i, 1.0f, wide);
    narrow(wide, q + i * width, size);
  }
  const amx::Registers registers;
  for (int64_t key = begin; key < end; key += kTileKeys) {
    const int64_t count = std::min(kTileKeys, end - key), padded = (count + 31) / 32 * 32;
    for (int64_t j = 0; j < padded; j += 16) {
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t row = std::min(key + j + i, end - 1);
        rotated_head(a, qkv + row * a.columns + stride, row, 1.0f, wide);
        narrow(wide, line + i * width, size);
      }
      amx::pack_columns(line, width, keys + j * width);
    }
    for (int64_t j = 0; j < padded; j += 2) {
      for (int64_t i = 0; i < 2; ++i)  // of keys that there are not, weights are nothing
        std::copy_n(qkv + std::min(key + j + i, end - 1) * a.columns + 2 * stride, size, line + i * width);
      amx::pack_rows(line, line + width, width, j, padded, values);
    }
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t some = std::min(kTileRows, rows - row);
      const amx::Packed of_keys{16 * width, 16}, of_values{16 * padded, 16};
      amx::multiply<false>(q + row * width, width, keys, of_keys, scores, kTileKeys, some, width, padded);
      for (int64_t i = row; i < std::min(row + some, queries); ++i) {
        float* own = scores + (i - row) * kTileKeys;
        std::fill(own + count, own + padded, -std::numeric_limits<float>::infinity());
        amx::weigh(own, padded, a.scale, weights + (i - row) * kTileKeys, most[i], weight[i], found + i * width, width);
      }
      amx::multiply<true>(weights, kTileKeys, values, of_values, found + row * width, width, some, padded, width);
    }
  }
  for (int64_t i = 0; i < queries; ++i)
    narrow(found + i * width, out<bf16>(a.out) + (first + i) * stride + head * size, size, 1.0f / weight[i]);
}
#endif

// Whether a segment's queries and keys meet in tiles.
template <typename T>
inline bool by_tiles() {
#if defined(__AVX512F__)
  if (std::is_same_v<T, bf16>) return bf16_tiles;
#endif
  return false;
}

template <typename T>
void segment_attention_as(const calls::segment_attention& a) {
  struct Part {
    int64_t begin, end, first;
  };
  [[maybe_unused]] const bool tiles = by_tiles<T>();
  std::vector<Part> parts;
  for (int64_t segment = 0; segment + 1 < a.ends; ++segment)
    for (int64_t first = a.bounds[segment]; first < a.bounds[segment + 1]; first += kSegmentQueries)
      parts.push_back({a.bounds[segment], a.bounds[segment + 1], first});
  pool::each(static_cast<int64_t>(parts.size()) * a.heads, [&](int64_t task) {
    const Part& part = parts[task / a.heads];
    const int64_t head = task % a.heads, last = std::min(part.first + kSegmentQueries, part.end);
#if defined(__AVX512F__)
    if (tiles) return attend_by_tiles(a, head, part.begin, part.end, part.first, last);
#endif
    attend_to_segment<T>(a, head, part.begin, part.end, part.first, last);
  });
}

}  // namespace KERNEL_ISA

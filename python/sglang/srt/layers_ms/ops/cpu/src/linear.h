// Matrix products on packed weights.
//
// Columns of the product are taken 16 at a time. A packed group of 16 weight rows is [k / 2][16][2] for bfloat16, so
// that one 64-byte load holds a pair of consecutive k for 16 columns (what AVX-512's dot product wants), and [k][16]
// for the others. The rows after the last whole group stay as they are, as do matrices of odd k.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "simd.h"
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace KERNEL_ISA {

constexpr int kGroup = 16;
constexpr int kMostRows = 6;     // rows of x, and
constexpr int kMostGroups = 4;   // groups of columns, that fit the registers together
constexpr int64_t kRowBlock = 96;  // rows of x a task takes

template <typename T>
inline bool packable(int64_t k) { return k % 2 == 0; }

template <typename T>
inline int64_t packed_index(int64_t row, int64_t column) { return column * kGroup + row; }
template <>
inline int64_t packed_index<bf16>(int64_t row, int64_t column) {
  return (column / 2) * 2 * kGroup + row * 2 + column % 2;
}

template <typename T, bool forward>
void repack(void* weight, int64_t n, int64_t k) {
  if (!packable<T>(k)) return;
  T* data = static_cast<T*>(weight);
  pool::each(n / kGroup, [&](int64_t group) {
    T* rows = data + group * kGroup * k;
    std::vector<T> old(rows, rows + kGroup * k);
    for (int64_t row = 0; row < kGroup; ++row)
      for (int64_t column = 0; column < k; ++column) {
        const int64_t plain = row * k + column, packed = packed_index<T>(row, column);
        forward ? rows[packed] = old[plain] : rows[plain] = old[packed];
      }
  });
}

template <typename T>
struct Multiply;  // acc[M][G] += x[M][k...] * w[G][k...], STEP values of k at a time

template <>
struct Multiply<float> {
  static constexpr int kStep = 1;
  template <int M, int G>
  static inline void step(f32x16 (&acc)[M][G], const float* x, int64_t k, const float* w, int64_t stride) {
    f32x16 column[G];
    for (int g = 0; g < G; ++g) column[g] = load(w + g * stride);
    for (int m = 0; m < M; ++m)
      for (int g = 0; g < G; ++g) acc[m][g] += splat(x[m * k]) * column[g];
  }
};

template <>
struct Multiply<f16> {
  static constexpr int kStep = 1;
  template <int M, int G>
  static inline void step(f32x16 (&acc)[M][G], const f16* x, int64_t k, const f16* w, int64_t stride) {
    f32x16 column[G];
    for (int g = 0; g < G; ++g) column[g] = load(w + g * stride);
    for (int m = 0; m < M; ++m)
      for (int g = 0; g < G; ++g) acc[m][g] += splat(to_float(x[m * k])) * column[g];
  }
};

template <>
struct Multiply<bf16> {
  static constexpr int kStep = 2;
  template <int M, int G>
  static inline void step(f32x16 (&acc)[M][G], const bf16* x, int64_t k, const bf16* w, int64_t stride) {
#if defined(__AVX512BF16__)
    __m512bh pairs[G];
    for (int g = 0; g < G; ++g) pairs[g] = (__m512bh)_mm512_loadu_si512(w + g * stride);
    for (int m = 0; m < M; ++m) {
      int pair;
      std::memcpy(&pair, x + m * k, 4);
      const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
      for (int g = 0; g < G; ++g) acc[m][g] = (f32x16)_mm512_dpbf16_ps((__m512)acc[m][g], both, pairs[g]);
    }
#else
    for (int g = 0; g < G; ++g) {
      u32x16 pairs;
      std::memcpy(&pairs, w + g * stride, sizeof(pairs));
      const u32x16 low = pairs << 16, high = pairs & 0xffff0000u;
      for (int m = 0; m < M; ++m) {
        acc[m][g] += splat(to_float(x[m * k])) * (f32x16)low;
        acc[m][g] += splat(to_float(x[m * k + 1])) * (f32x16)high;
      }
    }
#endif
  }
};

template <typename T, typename Y, int M, int G>
inline void tile(const T* x, const T* w, const T* bias, Y* y, int64_t k, int64_t n) {
  f32x16 acc[M][G];
  for (int m = 0; m < M; ++m)
    for (int g = 0; g < G; ++g) acc[m][g] = bias ? load(bias + g * kGroup) : f32x16{};
  for (int64_t i = 0; i < k; i += Multiply<T>::kStep)
    Multiply<T>::template step<M, G>(acc, x + i, k, w + i * kGroup, k * kGroup);
  for (int m = 0; m < M; ++m)
    for (int g = 0; g < G; ++g) store(y + m * n + g * kGroup, acc[m][g]);
}

template <typename T, typename Y, int G, int M = kMostRows>
inline void tiles(int64_t rows, const T* x, const T* w, const T* bias, Y* y, int64_t k, int64_t n) {
  for (; rows >= M; rows -= M, x += M * k, y += M * n) tile<T, Y, M, G>(x, w, bias, y, k, n);
  if constexpr (M > 1) {
    if (rows > 0) tiles<T, Y, G, M - 1>(rows, x, w, bias, y, k, n);
  }
}

// found[M] = x[M] * one row of a row-major matrix.
template <int M, typename T>
inline void dots(const T* x, const T* w, int64_t k, float* found) {
  int64_t i = 0;
  float rest[M] = {};
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, bf16>) {
    __m512 pairs[M] = {};
    for (; i + 32 <= k; i += 32) {
      const __m512bh row = (__m512bh)_mm512_loadu_si512(w + i);
      for (int m = 0; m < M; ++m)
        pairs[m] = _mm512_dpbf16_ps(pairs[m], row, (__m512bh)_mm512_loadu_si512(x + m * k + i));
    }
    for (int m = 0; m < M; ++m) rest[m] = sum((f32x16)pairs[m]);
  }
#endif
  f32x16 total[M] = {};
  for (; i + 16 <= k; i += 16) {
    const f32x16 row = load(w + i);
    for (int m = 0; m < M; ++m) total[m] += row * load(x + m * k + i);
  }
  for (; i < k; ++i)
    for (int m = 0; m < M; ++m) rest[m] += to_float(w[i]) * to_float(x[m * k + i]);
  for (int m = 0; m < M; ++m) found[m] = sum(total[m]) + rest[m];
}

template <int M, typename T, typename F>
inline void all_dots(const T* x, const T* w, int64_t rows, int64_t k, F&& keep, int64_t row = 0) {
  for (; row + M <= rows; row += M) {
    float found[M];
    dots<M>(x + row * k, w, k, found);
    for (int m = 0; m < M; ++m) keep(row + m, found[m]);
  }
  if constexpr (M > 1) all_dots<M / 2>(x, w, rows, k, keep, row);
}

constexpr int64_t kLogitRows = 256;  // rows of the weight a task takes

template <typename T>
void logits_as(const T* x, const T* w, float* y, int64_t rows, int64_t k, int64_t n) {
  constexpr int64_t kTogether = 64;  // rows of x that stay in the cache while a piece of the weight passes
  pool::each((n + kLogitRows - 1) / kLogitRows, [&](int64_t task) {
    for (int64_t first = 0; first < rows; first += kTogether) {
      const int64_t count = std::min(kTogether, rows - first);
      for (int64_t column = task * kLogitRows; column < std::min(n, (task + 1) * kLogitRows); ++column)
        all_dots<8>(x + first * k, w + column * k, count, k,
                    [&](int64_t row, float found) { y[(first + row) * n + column] = found; });
    }
  });
}

template <typename T, typename Y>
void linear_as(const T* x, const T* w, const T* bias, Y* y, int64_t rows, int64_t k, int64_t n) {
  const int64_t packed = packable<T>(k) ? n / kGroup * kGroup : 0;
  const int64_t wide = kGroup * kMostGroups, columns = (packed + wide - 1) / wide;
  const int64_t row_blocks = (rows + kRowBlock - 1) / kRowBlock;
  // Neighbouring tasks share their columns: the weights of one are still in the cache for the next.
  pool::each(columns * row_blocks, [&](int64_t task) {
    const int64_t first = task / row_blocks * wide, row = task % row_blocks * kRowBlock;
    const int64_t count = std::min(kRowBlock, rows - row);
    const T *xs = x + row * k, *ws = w + first * k, *bs = bias ? bias + first : nullptr;
    Y* ys = y + row * n + first;
    switch (std::min(wide, packed - first) / kGroup) {
      case 4: return tiles<T, Y, 4>(count, xs, ws, bs, ys, k, n);
      case 3: return tiles<T, Y, 3>(count, xs, ws, bs, ys, k, n);
      case 2: return tiles<T, Y, 2>(count, xs, ws, bs, ys, k, n);
      default: return tiles<T, Y, 1>(count, xs, ws, bs, ys, k, n);
    }
  });
  if (packed == n) return;
  pool::each(n - packed, [&](int64_t task) {
    const int64_t column = packed + task;
    const float start = bias ? to_float(bias[column]) : 0.0f;
    all_dots<8>(x, w + column * k, rows, k,
                [&](int64_t row, float found) { y[row * n + column] = from_float<Y>(start + found); });
  });
}

}  // namespace KERNEL_ISA

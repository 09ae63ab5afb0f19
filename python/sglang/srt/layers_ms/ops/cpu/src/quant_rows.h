// Rows of x as they meet quantized matrices: with their sums by group, or rounded to int8.
#pragma once
#include "elementwise.h"
#include "lines.h"
#include "quant_decode.h"

namespace KERNEL_ISA {

constexpr int64_t kRowGroup = 32;  // columns of a row with a step of their own, of Activations::int8_group

// What a product wants of all rows, made before its tasks begin. Segments: columns that share a factor in the matrix
// and a step in the row.
struct PreparedRows {
  const void* x;            // as its decoder wants them
  int64_t stride;           // of x
  const float* sums;        // of each segment of columns, as they are multiplied; null: nobody wants them
  const int32_t* int_sums;  // rounded rows: of each segment's integers
  const int32_t* starts;    // rounded rows: what each segment's sums of products begin at, so that they are of values
  const float* steps;       // rounded rows: of each segment
  int64_t segment, segments;
};

inline int64_t segment_of(int64_t group, Activations activations) {
  return activations == Activations::int8_group ? std::min(group, kRowGroup) : group;
}

// The largest absolute value: of bits, since as integers NaN is larger than all numbers, and so is not lost.
template <typename T>
inline float largest_of(const T* x, int64_t count) {
  typedef int32_t i32x8 __attribute__((vector_size(32)));
  typedef int32_t i32x4 __attribute__((vector_size(16)));
  i32x16 most{};
  const auto take = [&](f32x16 values) {
    const i32x16 size = (i32x16)values & 0x7fffffff;
    most = size > most ? size : most;
  };
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) take(load(x + i));
  if (i < count) take(load_part(x + i, count - i));
  const i32x8 a = __builtin_shufflevector(most, most, 0, 1, 2, 3, 4, 5, 6, 7);
  const i32x8 b = __builtin_shufflevector(most, most, 8, 9, 10, 11, 12, 13, 14, 15), eight = a > b ? a : b;
  const i32x4 c = __builtin_shufflevector(eight, eight, 0, 1, 2, 3);
  const i32x4 d = __builtin_shufflevector(eight, eight, 4, 5, 6, 7), four = c > d ? c : d;
  const int32_t bits = std::max(std::max(four[0], four[1]), std::max(four[2], four[3]));
  float found;
  std::memcpy(&found, &bits, 4);
  return found;
}

// To the nearest integer, of equal ones the even one: of what is less than 2^22.
inline f32x16 rounded(f32x16 x) {
  const f32x16 shifter = splat(0x1.8p23f);
  return (x + shifter) - shifter;
}

// The same within int8, moved by an offset; NaN becomes any.
inline f32x16 rounded_within(f32x16 x, float offset) {
  const f32x16 low = splat(-128), high = splat(127), far = splat(1024);
  x = x < -far ? -far : x;
  x = rounded(x > far ? far : x) + offset;
  x = x < low ? low : x;
  return x > high ? high : x;
}

// As for float16 (simd.h), GCC 12 narrows each value by itself unless it is told how.
inline void store_rounded(int16_t* to, i32x16 x, int) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)x));
#elif defined(__AVX2__)
  typedef int32_t i32x8 __attribute__((vector_size(32)));
  const i32x8 low = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
  const i32x8 high = __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m256i packed = _mm256_packs_epi32((__m256i)low, (__m256i)high);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
#else
  typedef int16_t i16x16 __attribute__((vector_size(32), aligned(2)));
  *reinterpret_cast<i16x16*>(to) = __builtin_convertvector(x, i16x16);
#endif
}
inline void store_rounded(int8_t* to, i32x16 x, int bits) {  // in the order of the codes in a word
  typedef int8_t i8x16 __attribute__((vector_size(16), aligned(1)));
#if defined(__AVX512F__)
  const i8x16 bytes = (i8x16)_mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)x);
#else
  const i8x16 bytes = __builtin_convertvector(x, i8x16);
#endif
  *reinterpret_cast<i8x16*>(to) =
      bits == 8 ? __builtin_shufflevector(bytes, bytes, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15)
                : __builtin_shufflevector(bytes, bytes, 0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
}

// Some columns of a row, rounded with a step -> their sum. Zeros are written up to a multiple of 16 columns. given: a
// product whose step and offset are given, so that values may lie outside of int8; null: none do.
template <typename T, typename Row>
inline int32_t round_columns(const T* x, int64_t count, float step, const QuantProduct* given, int bits, Row* to) {
  f32x16 total{};
  const auto take = [&](f32x16 values, int64_t i) {
    total += values;  // whole numbers: exact
    store_rounded(to + i, __builtin_convertvector(values, i32x16), bits);
  };
  const auto round = [&](f32x16 values) {
    return given ? rounded_within(values / step, given->input_offset) : rounded(values / step);
  };
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) take(round(load(x + i)), i);
  if (i < count) {
    f32x16 last = round(load_part(x + i, count - i));
    for (int64_t j = count - i; j < 16; ++j) last[j] = 0;
    take(last, i);
  }
  return static_cast<int32_t>(sum(total));
}

inline float step_of(float largest) { return std::max(largest, 1e-30f) / 127; }

// What is taken off each code as integers are, unless each group has a zero point.
template <typename D>
inline uint32_t surplus_of(const QuantMatrix& a) {
  const bool centers = a.offset && a.offset_type == Storage::u8;
  return centers ? 0 : static_cast<uint32_t>(zero_of(a.kind) + center_of(a.kind) - D::kTaken);
}

// One row, and what PreparedRows has of each of its segments.
template <typename D, typename T>
inline void round_row(const QuantProduct& a, const T* x, typename D::Row* to, float* steps, float* sums,
                      int32_t* int_sums, int32_t* starts) {
  const uint32_t surplus = surplus_of<D>(a.weight);
  const int64_t k = a.weight.k, segment = segment_of(a.weight.group, a.activations);
  const bool given = a.activations == Activations::int8_static, own = a.activations == Activations::int8_group;
  float step = given ? a.input_scale : own ? 0 : step_of(largest_of(x, k));
  for (int64_t first = 0; first < k; first += segment) {
    const int64_t count = std::min(segment, k - first);
    if (own && first % kRowGroup == 0) step = step_of(largest_of(x + first, std::min(kRowGroup, k - first)));
    const int32_t sum = round_columns(x + first, count, step, given ? &a : nullptr, D::kBits, to + first);
    *int_sums++ = sum;
    *starts++ = static_cast<int32_t>(-surplus * static_cast<uint32_t>(sum));  // of what is no number it wraps
    *sums++ = static_cast<float>(sum) * step;
    *steps++ = step;
  }
}

// How far apart rounded rows are, and how many more than there are may be read. A tile reads 16 rows, which a first
// cache would not hold at distances of some powers of two.
#if defined(__AMX_INT8__) || defined(__ARM_FEATURE_MATMUL_INT8)
constexpr int64_t kSpareRows = 15;
inline int64_t rounded_stride(int64_t k) { return ((k + 63) / 64 | 1) * 64; }
#else
constexpr int64_t kSpareRows = 0;
inline int64_t rounded_stride(int64_t k) { return (k + 15) / 16 * 16; }
#endif

template <typename D, typename T>
inline PreparedRows round_rows(const QuantProduct& a, const void* values) {
  using Row = typename D::Row;
  const T* x = in<T>(values);
  const int64_t k = a.weight.k, stride = rounded_stride(k), segment = segment_of(a.weight.group, a.activations);
  const int64_t segments = (k + segment - 1) / segment, held = a.rows + kSpareRows, all = held * segments;
  Row* rows = lines<Purpose::rounded_rows, Row>(held * stride);
  float* steps = scratch<Purpose::row_steps, float>(2 * all);
  int32_t* sums = scratch<Purpose::row_sums, int32_t>(2 * all);
  over_rows(a.rows, k, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t own = row * segments;
      round_row<D>(a, x + row * k, rows + row * stride, steps + own, steps + all + own, sums + own, sums + all + own);
    }
  });
  return {rows, stride, steps + all, sums, sums + all, steps, segment, segments};
}

// Rows of bfloat16 that are not rounded meet tiles (quant_tiles_bf16.h), which have so many columns.
#if defined(__AMX_BF16__) && defined(BF16_PAIRS)
#define BF16_TILES
constexpr int64_t kTileColumns = 32;
inline int64_t tile_columns(const QuantMatrix& a) {
  return a.groups() > 1 && a.group % kTileColumns ? kTileColumns / 2 : kTileColumns;
}
#endif

// Columns that are multiplied together.
template <typename T>
inline int64_t columns_met(const QuantMatrix& a) {
#if defined(BF16_TILES)
  if (std::is_same_v<T, bf16>) return tile_columns(a);
#endif
  return columns_together(a.kind);
}

// x with zeros behind each row, for columns that the last words of codes, or the last tiles, have and the matrix has
// not.
template <typename T>
inline const T* padded_rows(const T* x, int64_t rows, int64_t k, int64_t stride) {
  T* found = lines<Purpose::padded_rows, T>(rows * stride);
  over_rows(rows, k, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      std::copy_n(x + row * k, k, found + row * stride);
      std::fill_n(found + row * stride + k, stride - k, T{});
    }
  });
  return found;
}

// Rows as they are, with the sums of their groups of columns where the matrix has offsets.
template <typename T>
inline PreparedRows rows_with_sums(const QuantProduct& of, const void* values) {
  const QuantMatrix& a = of.weight;
  const T* x = in<T>(values);
  const int64_t rows = of.rows, groups = a.groups();
  float* sums = a.offset ? scratch<Purpose::row_steps, float>(rows * groups) : nullptr;
  const auto sum_of = [&](const T* columns, int64_t count) {
    f32x16 total{};
    for (int64_t i = 0; i < count; i += 16)
      total += count - i < 16 ? load_part(columns + i, count - i) : load(columns + i);
    return sum(total);
  };
  over_rows(sums ? rows : 0, a.k, [&](int64_t first, int64_t last) {
    for (int64_t i = first * groups; i < last * groups; ++i) {
      const int64_t column = i % groups * a.group;
      sums[i] = sum_of(x + i / groups * a.k + column, std::min(a.group, a.k - column));
    }
  });
  const int64_t together = columns_met<T>(a), unit = std::max<int64_t>(16, together);
  const bool whole = a.k % together == 0;
  const int64_t stride = whole ? a.k : (a.k + unit - 1) / unit * unit;
  return {whole ? x : padded_rows(x, rows, a.k, stride), stride, sums, nullptr, nullptr, nullptr, a.group, groups};
}

}  // namespace KERNEL_ISA

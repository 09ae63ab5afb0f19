// Products and weights of attention within segments by AMX: tiles of 16 rows of 32 bfloat16 values, where there are
// any.
//
// Packed matrices are tiles of 32 of their rows and 16 of their columns, pairs of rows together, those of the same
// columns one after the other. Widths, rows and columns are whole multiples of 32.
#pragma once
#include "attention.h"

#if defined(__AVX512F__)
namespace KERNEL_ISA {
namespace amx {

// Sixteen keys [16, width] as the columns of a packed matrix.
inline void pack_columns(const bf16* keys, int64_t width, bf16* packed) {
  for (int64_t d = 0; d < width; d += 32) {
    u32x16 rows[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) std::memcpy(&rows[i], keys + i * width + d, sizeof(u32x16));
    transpose(rows);
    std::memcpy(static_cast<void*>(packed + d * 16), rows, sizeof(rows));
  }
}

// Rows `row` and `row` + 1 of a packed matrix of so many rows.
inline void pack_rows(const bf16* even, const bf16* odd, int64_t width, int64_t row, int64_t rows, bf16* packed) {
  for (int64_t d = 0; d < width; d += 16) {
    const u32x16 low = __builtin_convertvector(*reinterpret_cast<const u16x16*>(even + d), u32x16);
    const u32x16 high = __builtin_convertvector(*reinterpret_cast<const u16x16*>(odd + d), u32x16);
    const u32x16 pairs = low | high << 16;
    std::memcpy(static_cast<void*>(packed + d * rows + row * 16), &pairs, sizeof(pairs));
  }
}

// Scores [keys] of a query -> weights; what is known of earlier keys is brought to the same scale.
WITH_TILES inline void weigh(const float* scores, int64_t keys, float scale, bf16* weights, float& most, float& weight,
                             float* values, int64_t width) {
  f32x16 top = load(scores);
  for (int64_t j = 16; j < keys; j += 16) top = load(scores + j) > top ? load(scores + j) : top;
  const float known = most, found = std::max(known, largest(top) * scale);
  f32x16 total{};
  for (int64_t j = 0; j < keys; j += 16) {
    const f32x16 one = exp(load(scores + j) * scale - found);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + j), (__m256i)_mm512_cvtneps_pbh((__m512)one));
    total += one;
  }
  most = found;
  const float before = known == found ? 1.0f : exp(splat(known - found))[0];
  weight = weight * before + sum(total);
  if (before == 1.0f) return;
  for (int64_t i = 0; i < width; i += 16) store(values + i, load(values + i) * before);
}

}  // namespace amx
}  // namespace KERNEL_ISA
#endif

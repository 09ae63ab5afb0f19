// Products and weights of attention within segments by AMX: tiles of 16 rows of 32 bfloat16 values, where there are
// any.
//
// Packed matrices are tiles of 32 of their rows and 16 of their columns, pairs of rows together, those of the same
// columns one after the other. Widths, rows and columns are whole multiples of 32.
#pragma once
#include "amx.h"
#include "attention.h"

#if defined(__AVX512F__)
namespace KERNEL_ISA {
namespace amx {

// c [rows, columns] = a [rows, k] * b, packed, or where `adds` c += a * b.
template <bool adds>
WITH_TILES void multiply(const bf16* a, int64_t a_width, const bf16* b, float* c, int64_t c_width, int64_t rows,
                         int64_t k, int64_t columns) {
  const int64_t a_bytes = a_width * sizeof(bf16), c_bytes = c_width * sizeof(float);
  for (int64_t j = 0; j < columns; j += 32) {
    const bf16 *left = b + j * k, *right = left + 16 * k;
    for (int64_t i = 0; i < rows; i += 32) {
      const bf16 *upper = a + i * a_width, *lower = upper + 16 * a_width;
      float *above = c + i * c_width + j, *below = above + 16 * c_width;
      if (adds) {
        _tile_loadd(0, above, c_bytes);
        _tile_loadd(1, above + 16, c_bytes);
        _tile_loadd(2, below, c_bytes);
        _tile_loadd(3, below + 16, c_bytes);
      } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
      }
      for (int64_t d = 0; d < k; d += 32) {
        _tile_loadd(4, upper + d, a_bytes);
        _tile_loadd(6, left + d * 16, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, right + d * 16, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, lower + d, a_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, above, c_bytes);
      _tile_stored(1, above + 16, c_bytes);
      _tile_stored(2, below, c_bytes);
      _tile_stored(3, below + 16, c_bytes);
    }
  }
}

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

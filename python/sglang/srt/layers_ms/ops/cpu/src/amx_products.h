// Products of matrices of bfloat16 by AMX, for attention.h and segment_tiles.h.
#pragma once
#include "amx.h"

#if defined(__AVX512F__)
namespace KERNEL_ISA {
namespace amx {

// How a packed matrix lies in memory: values between tiles of neighboring columns, and how many columns lie between
// pairs of rows.
struct Packed {
  int64_t next, columns;
};

// c [rows, columns] = a [rows, k] * b, packed, or where `adds` c += a * b; all but k whole multiples of 32, too.
template <bool adds>
WITH_TILES void multiply(const bf16* a, int64_t a_width, const bf16* b, Packed packed, float* c, int64_t c_width,
                         int64_t rows, int64_t k, int64_t columns) {
  const int64_t a_bytes = a_width * sizeof(bf16), c_bytes = c_width * sizeof(float);
  const int64_t b_bytes = packed.columns * 2 * sizeof(bf16);
  for (int64_t j = 0; j < columns; j += 32) {
    const bf16 *left = b + j / 16 * packed.next, *right = left + packed.next;
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
      for (int64_t d = 0; d < k; d += kWidth) {
        _tile_loadd(4, upper + d, a_bytes);
        _tile_loadd(6, left + d * packed.columns, b_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, right + d * packed.columns, b_bytes);
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

}  // namespace amx
}  // namespace KERNEL_ISA
#endif

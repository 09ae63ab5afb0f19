// Products of bfloat16 rows with packed weights (linear.h) by AMX: 16 rows meet a tile of them in the time of one.
//
// A packed block of G * 16 columns is, from pair of k to pair of k, G tiles side by side. A row's sums are added in the
// same order whatever rows are beside it, and in that of oneDNN.
#pragma once
#include "amx.h"

#if defined(__AVX512F__)
namespace KERNEL_ISA {
namespace amx {

constexpr int64_t kAhead = 8192;  // bytes: how far ahead memory is fetched

// sums [rows, G * 16] = x [rows, k] * a block; rows of x lie `stride` apart. There are as many as the tiles have.
template <int G>
WITH_TILES void sums_of_tiles(const bf16* x, int64_t stride, const bf16* w, int64_t k, float* sums) {
  constexpr int64_t kBytes = G * 64, kPart = G * kRows * kWidth;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t i = 0; i < k; i += kWidth, w += kPart) {
    const char* ahead = reinterpret_cast<const char*>(w) + kAhead;
    for (int line = 0; line < G * kRows; ++line) __builtin_prefetch(ahead + line * 64);
    _tile_loadd(4, x + i, stride * sizeof(bf16));
    _tile_loadd(6, w, kBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (G > 1) {
      _tile_loadd(7, w + kWidth, kBytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(6, w + 2 * kWidth, kBytes);
      _tile_dpbf16ps(2, 4, 6);
      _tile_loadd(7, w + 3 * kWidth, kBytes);
      _tile_dpbf16ps(3, 4, 7);
    }
  }
  _tile_stored(0, sums, kBytes);
  if constexpr (G > 1) {
    _tile_stored(1, sums + kRows, kBytes);
    _tile_stored(2, sums + 2 * kRows, kBytes);
    _tile_stored(3, sums + 3 * kRows, kBytes);
  }
}

// The same of 17 to 32 rows, whose two tiles meet two of columns at a time.
WITH_TILES inline void sums_of_more_tiles(const bf16* x, int64_t stride, const bf16* w, int64_t k, float* sums) {
  constexpr int64_t kBytes = 4 * 64, kPart = 4 * kRows * kWidth;
  const bf16* below = x + kRows * stride;
  float* lower = sums + kRows * 4 * kRows;
  for (int half = 0; half < 2; ++half, w += 2 * kWidth, sums += 2 * kRows, lower += 2 * kRows) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const bf16* part = w;
    for (int64_t i = 0; i < k; i += kWidth, part += kPart) {
      const char* ahead = reinterpret_cast<const char*>(part) + kAhead;
      for (int line = 0; line < kRows; ++line) {
        __builtin_prefetch(ahead + line * kBytes);
        __builtin_prefetch(ahead + line * kBytes + 64);
      }
      _tile_loadd(4, x + i, stride * sizeof(bf16));
      _tile_loadd(6, part, kBytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, part + kWidth, kBytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, below + i, stride * sizeof(bf16));
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, kBytes);
    _tile_stored(1, sums + kRows, kBytes);
    _tile_stored(2, lower, kBytes);
    _tile_stored(3, lower + kRows, kBytes);
  }
}

// y [rows, n] = x [rows, k] * a block + bias (may be null); k is a multiple of 32.
template <int G, typename Y>
void product(int64_t rows, const bf16* x, const bf16* w, const bf16* bias, Y* y, int64_t k, int64_t n) {
  static_assert(G == 1 || G == 4);
  constexpr int64_t kMost = G == 4 ? 2 * kRows : kRows;
  alignas(64) float sums[kMost * G * 16];
  for (int64_t row = 0; row < rows; row += kMost) {
    const int64_t count = std::min(kMost, rows - row);
    const Registers registers(std::min(kRows, count), std::max<int64_t>(0, count - kRows));
    count > kRows ? sums_of_more_tiles(x + row * k, k, w, k, sums) : sums_of_tiles<G>(x + row * k, k, w, k, sums);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t g = 0; g < G * 16; g += 16)
        store(y + (row + i) * n + g, load(sums + i * G * 16 + g) + (bias ? load(bias + g) : f32x16{}));
  }
}

}  // namespace amx
}  // namespace KERNEL_ISA
#endif

// Tiles of bfloat16 values of Intel's AMX, for amx_products.h and linear_tiles.h.
#pragma once
#include "kernels.h"
#include "simd.h"

#if defined(__AVX512F__)
// Functions of a file that is compiled for processors without tiles; called where `bf16_tiles` is true.
#define WITH_TILES __attribute__((target("amx-tile,amx-bf16,avx512bf16")))

namespace KERNEL_ISA {
namespace amx {

constexpr int64_t kRows = 16, kWidth = 32;  // rows of a tile, and values of each

// What LDTILECFG reads: palette 1, and of each of eight tiles 64 bytes a row. Tiles 0 to 3 are sums, 4 and 5 of what
// is multiplied from the left, 6 and 7 of what is on the right. 4 has `upper` rows, and 5, with the sums 2 and 3, has
// `lower`, or as many as 4 where there are none.
struct alignas(64) Shapes {
  uint8_t palette = 1, start_row = 0, none[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {};
  Shapes(int64_t upper, int64_t lower) {
    const int64_t below = lower ? lower : upper, of_tiles[] = {upper, upper, below, below, upper, below, kRows, kRows};
    for (int tile = 0; tile < 8; ++tile) rows[tile] = static_cast<uint8_t>(of_tiles[tile]);
  }
};

// This thread's tiles, as long as it lives.
class Registers {
 public:
  WITH_TILES explicit Registers(int64_t upper = kRows, int64_t lower = 0) {
    const Shapes shapes(upper, lower);
    asm volatile("" : : "r"(&shapes) : "memory");  // GCC 12 takes the instruction to read the first 8 bytes alone
    _tile_loadconfig(&shapes);
  }
  WITH_TILES ~Registers() { _tile_release(); }
  Registers(const Registers&) = delete;
};

}  // namespace amx
}  // namespace KERNEL_ISA
#endif

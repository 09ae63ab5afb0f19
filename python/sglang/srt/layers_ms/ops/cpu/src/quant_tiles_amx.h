// Tiles of Intel's AMX: 16 rows of 64 columns times 64 columns of 16 rows of the matrix, in the time in which vectors
// meet two rows; part of quant_tiles.h.
#pragma once

namespace KERNEL_ISA {

constexpr int64_t kTile = 16;         // rows of a tile of sums, and its columns
constexpr int64_t kLine = 4 * kTile;  // bytes of a tile's line

// _tile_loadconfig's memory: 0 to 3 are sums, 4 and 5 are of x, 6 and 7 of codes.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
  explicit TileShapes(int64_t words, int64_t rows_of_x = kTile) {
    for (int i = 0; i < 8; ++i) {
      rows[i] = static_cast<uint8_t>(i < 6 ? rows_of_x : words);
      bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? 4 * words : 64);
    }
  }
};

// Word i of 16 rows of the matrix: the lines of a tile lie together. A first cache would not hold lines that are 256
// bytes apart, as words of 64 rows are (quant_layout.h).
ALWAYS_INLINE void place(Bits operand, int64_t i, int p, int64_t words, uint32_t* to) {
  *reinterpret_cast<Bits*>(to + (p * words + i) * kTile) = operand;
}

template <bool has_starts>
ALWAYS_INLINE void multiply_tiles_0() {
  if constexpr (has_starts)
    _tile_dpbsud(0, 4, 6);
  else
    _tile_dpbssd(0, 4, 6);
}

// 16 rows from `row` on and 16 columns, segment by segment; sums of one are added up while the next one is multiplied.
template <bool has_starts, Offsets offsets>
void meet_segments(const TileProduct& t, int64_t row, int64_t column, float* sums) {
  alignas(64) int32_t products[2][kTile * kTile];
  Lanes total[kTile] = {};
  const int8_t* x = t.x + row * t.stride;
  const uint32_t* operands = t.operands + column * t.words.all;
  int64_t left = t.segments_a_group, group = 0;
  for (int64_t segment = 0; segment <= t.segments; ++segment) {
    if (segment < t.segments) {
      const int64_t first = segment * t.words.segment, last = std::min(first + t.words.segment, t.words.all);
      _tile_zero(0);
      for (int64_t word = first; word < last; word += t.step) {
        _tile_loadd(4, x + 4 * word, t.stride);
        _tile_loadd(6, operands + word * kTile, kLine);
        multiply_tiles_0<has_starts>();
      }
      _tile_stored(0, products[segment % 2], 4 * kTile);
    }
    if (segment == 0) continue;
    const int32_t* before = products[(segment - 1) % 2];
    const Factors& factors = t.factors[group / kFactors];
    const int64_t at = group % kFactors * kBlock + column, own = (t.row + row) * t.segments + segment - 1;
#pragma GCC unroll 16
    for (int64_t m = 0; m < kTile; ++m)
      total[m] = add_worth<has_starts, offsets>(t.rows, load_bits(before + m * kTile), factors.scale + at,
                                                factors.offset + at, own + m * t.segments, total[m]);
    if (--left == 0) left = t.segments_a_group, ++group;
  }
  const int64_t count = std::min(kTile, t.count - row);
#pragma GCC unroll 16
  for (int64_t m = 0; m < kTile; ++m)  // by order: else GCC 12 keeps all totals in memory
    if (m < count) store_lanes(sums + (row + m) * kBlock + column, total[m]);
}

// 32 rows, or 16, and 32 columns of one segment.
template <bool has_starts, int row_tiles>
ALWAYS_INLINE void multiply_whole(const TileProduct& t, int64_t row, int64_t column, int32_t (&products)[4][256]) {
  const int8_t* x = t.x + row * t.stride;
  const uint32_t *operands = t.operands + column * t.words.all, *next = operands + kTile * t.words.all;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t word = 0; word < t.words.all; word += t.step) {
    _tile_loadd(4, x + 4 * word, t.stride);
    _tile_loadd(6, operands + word * kTile, kLine);
    multiply_tiles_0<has_starts>();
    _tile_loadd(7, next + word * kTile, kLine);
    if constexpr (has_starts)
      _tile_dpbsud(1, 4, 7);
    else
      _tile_dpbssd(1, 4, 7);
    if constexpr (row_tiles == 2) {
      _tile_loadd(5, x + kTile * t.stride + 4 * word, t.stride);
      if constexpr (has_starts) {
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
      } else {
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
      }
    }
  }
  _tile_stored(0, products[0], 4 * kTile);
  _tile_stored(1, products[1], 4 * kTile);
  if constexpr (row_tiles == 2) {
    _tile_stored(2, products[2], 4 * kTile);
    _tile_stored(3, products[3], 4 * kTile);
  }
}

template <bool has_starts, Offsets offsets>
void meet_whole(const TileProduct& t, int64_t row, int64_t column, float* sums) {
  alignas(64) int32_t products[4][kTile * kTile];
  const int64_t count = std::min(2 * kTile, t.count - row);
  if (count > kTile)
    multiply_whole<has_starts, 2>(t, row, column, products);
  else
    multiply_whole<has_starts, 1>(t, row, column, products);
  for (int64_t m = 0; m < count; ++m)
    for (int64_t right = 0; right < 2; ++right) {
      const int64_t from = column + right * kTile;
      const int32_t* of_row = products[m / kTile * 2 + right] + m % kTile * kTile;
      const Lanes total = add_worth<has_starts, offsets>(t.rows, load_bits(of_row), t.factors->scale + from,
                                                         t.factors->offset + from, t.row + row + m, Lanes{});
      store_lanes(sums + (row + m) * kBlock + from, total);
    }
}

// sums [count][64].
template <bool has_starts, Offsets offsets>
void meet_tiles(const TileProduct& t, float* sums) {
  const TileShapes shapes(t.step);
  asm volatile("" : : "r"(&shapes) : "memory");  // GCC 12 does not know that these, and tiles, are read
  _tile_loadconfig(&shapes);
  const int64_t tiles = t.segments == 1 ? 2 : 1;
  for (int64_t column = 0; column < kBlock; column += tiles * kTile)
    for (int64_t row = 0; row < t.count; row += tiles * kTile)
      tiles == 2 ? meet_whole<has_starts, offsets>(t, row, column, sums)
                 : meet_segments<has_starts, offsets>(t, row, column, sums);
  _tile_release();
}

}  // namespace KERNEL_ISA

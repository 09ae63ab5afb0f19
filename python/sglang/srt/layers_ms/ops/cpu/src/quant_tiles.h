// Rows that are rounded to int8 meet a block of codes by tiles: AMX multiplies 16 rows of 64 columns by 64 columns of
// 16 rows of the matrix, in the time in which vectors meet two rows.
//
// Sums of products are those of quant_product.h, integers, and they are added up in the same order: each bit is the
// same. Codes of a block are made bytes before, so that the lines of a tile lie together. A first cache would not hold
// lines that are 256 bytes apart, as words of 64 rows are (quant_layout.h).
#pragma once
#include "quant_block.h"

#if defined(__AMX_INT8__)
#define INT8_TILES

namespace KERNEL_ISA {

constexpr int64_t kTile = 16;           // rows of a tile of sums, and its columns
constexpr int64_t kTileWords = 16;      // words of each row in a tile that is multiplied, at most
constexpr int64_t kLeastWords = 4;      // and at least: vectors are quicker with less
constexpr int64_t kLine = 4 * kTile;    // bytes of a tile's line
constexpr int64_t kLeastTileRows = 16;  // tried on Sapphire Rapids: from 12 rows of W8A8 on, 16 of GGUF

// _tile_loadconfig's memory: 0 to 3 are sums, 4 and 5 are of x, 6 and 7 of codes.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
  explicit TileShapes(int64_t words) {
    for (int i = 0; i < 8; ++i) {
      rows[i] = static_cast<uint8_t>(i < 6 ? kTile : words);
      bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? 4 * words : 64);
    }
  }
};

enum class Offsets { none, added, centers };  // of a group: as Finish has them

// Words of bytes that each row of a matrix has, and those of each segment but the last.
struct RowWords {
  int64_t all, segment;
  RowWords(const QuantMatrix& a, const PreparedRows& rows)
      : all(bits_of(a.kind) == 8 ? (a.k + 3) / 4 : (a.k + 7) / 8 * 2), segment(std::min(all, (rows.segment + 3) / 4)) {}
  // The most of them that divide each segment.
  int64_t together() const {
    const int64_t last = all % segment;
    for (int64_t words = kTileWords; words > 1; --words)
      if (segment % words == 0 && last % words == 0) return words;
    return 1;
  }
};

// Some rows of x, and a block, as tiles have them.
struct TileProduct {
  const int8_t* x;
  int64_t stride;           // of x
  const uint8_t* operands;  // [4][words][16] words
  const Factors* factors;   // of each kFactors groups
  const PreparedRows& rows;
  int64_t row, count;  // the first row, and how many
  RowWords words;
  int64_t segments, segments_a_group;
  int64_t step = words.together();
};

template <bool is_signed>
ALWAYS_INLINE void multiply_tiles_0() {
  if constexpr (is_signed)
    _tile_dpbssd(0, 4, 6);
  else
    _tile_dpbsud(0, 4, 6);
}

// total + what 16 sums of a segment of one row are worth. at: the group's factors; of_row: where rows have their own.
template <bool is_signed, Offsets offsets>
ALWAYS_INLINE Lanes add_worth(const PreparedRows& rows, const int32_t* sums, const float* scales, const float* offset,
                              int64_t of_row, Lanes total) {
  Bits whole = load_bits(sums);
  if constexpr (!is_signed) whole += static_cast<uint32_t>(rows.starts[of_row]);
  if constexpr (offsets == Offsets::centers) whole -= load_bits(offset) * static_cast<uint32_t>(rows.int_sums[of_row]);
  const Lanes scale = load_lanes(scales) * rows.steps[of_row];
  total = multiply_add(__builtin_convertvector((Ints)whole, Lanes), scale, total);
  if constexpr (offsets == Offsets::added)
    total = multiply_add(load_lanes(offset), splat_lanes(rows.sums[of_row]), total);
  return total;
}

// 16 rows from `row` on and 16 columns, segment by segment; sums of one are added up while the next one is multiplied.
template <bool is_signed, Offsets offsets>
void meet_segments(const TileProduct& t, int64_t row, int64_t column, float* sums) {
  alignas(64) int32_t products[2][kTile * kTile];
  Lanes total[kTile] = {};
  const int8_t* x = t.x + row * t.stride;
  const uint8_t* operands = t.operands + column * 4 * t.words.all;
  int64_t left = t.segments_a_group, group = 0;
  for (int64_t segment = 0; segment <= t.segments; ++segment) {
    if (segment < t.segments) {
      const int64_t first = segment * t.words.segment, last = std::min(first + t.words.segment, t.words.all);
      _tile_zero(0);
      for (int64_t word = first; word < last; word += t.step) {
        _tile_loadd(4, x + 4 * word, t.stride);
        _tile_loadd(6, operands + word * kLine, kLine);
        multiply_tiles_0<is_signed>();
      }
      _tile_stored(0, products[segment % 2], 4 * kTile);
    }
    if (segment == 0) continue;
    const int32_t* before = products[(segment - 1) % 2];
    const Factors& factors = t.factors[group / kFactors];
    const int64_t at = group % kFactors * kBlock + column, own = (t.row + row) * t.segments + segment - 1;
#pragma GCC unroll 16
    for (int64_t m = 0; m < kTile; ++m)
      total[m] = add_worth<is_signed, offsets>(t.rows, before + m * kTile, factors.scale + at, factors.offset + at,
                                               own + m * t.segments, total[m]);
    if (--left == 0) left = t.segments_a_group, ++group;
  }
  const int64_t count = std::min(kTile, t.count - row);
#pragma GCC unroll 16
  for (int64_t m = 0; m < kTile; ++m)  // by order: else GCC 12 keeps all totals in memory
    if (m < count) store_lanes(sums + (row + m) * kBlock + column, total[m]);
}

// 32 rows, or 16, and 32 columns of one segment.
template <bool is_signed, int row_tiles>
ALWAYS_INLINE void multiply_whole(const TileProduct& t, int64_t row, int64_t column, int32_t (&products)[4][256]) {
  const int8_t* x = t.x + row * t.stride;
  const uint8_t *operands = t.operands + column * 4 * t.words.all, *next = operands + kLine * t.words.all;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t word = 0; word < t.words.all; word += t.step) {
    _tile_loadd(4, x + 4 * word, t.stride);
    _tile_loadd(6, operands + word * kLine, kLine);
    multiply_tiles_0<is_signed>();
    _tile_loadd(7, next + word * kLine, kLine);
    if constexpr (is_signed)
      _tile_dpbssd(1, 4, 7);
    else
      _tile_dpbsud(1, 4, 7);
    if constexpr (row_tiles == 2) {
      _tile_loadd(5, x + kTile * t.stride + 4 * word, t.stride);
      if constexpr (is_signed) {
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
      } else {
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
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

template <bool is_signed, Offsets offsets>
void meet_whole(const TileProduct& t, int64_t row, int64_t column, float* sums) {
  alignas(64) int32_t products[4][kTile * kTile];
  const int64_t count = std::min(2 * kTile, t.count - row);
  if (count > kTile)
    multiply_whole<is_signed, 2>(t, row, column, products);
  else
    multiply_whole<is_signed, 1>(t, row, column, products);
  for (int64_t m = 0; m < count; ++m)
    for (int64_t right = 0; right < 2; ++right) {
      const int64_t from = column + right * kTile;
      const int32_t* of_row = products[m / kTile * 2 + right] + m % kTile * kTile;
      const Lanes total = add_worth<is_signed, offsets>(t.rows, of_row, t.factors->scale + from,
                                                        t.factors->offset + from, t.row + row + m, Lanes{});
      store_lanes(sums + (row + m) * kBlock + from, total);
    }
}

// sums [count][64].
template <bool is_signed, Offsets offsets>
void meet_tiles_with(const TileProduct& t, float* sums) {
  const int64_t tiles = t.segments == 1 ? 2 : 1;
  for (int64_t column = 0; column < kBlock; column += tiles * kTile)
    for (int64_t row = 0; row < t.count; row += tiles * kTile)
      tiles == 2 ? meet_whole<is_signed, offsets>(t, row, column, sums)
                 : meet_segments<is_signed, offsets>(t, row, column, sums);
}

template <bool is_signed>
void meet_tiles(const TileProduct& t, Offsets offsets, float* sums) {
  const TileShapes shapes(t.step);
  asm volatile("" : : "r"(&shapes) : "memory");  // GCC 12 does not know that these, and tiles, are read
  _tile_loadconfig(&shapes);
  switch (offsets) {
    case Offsets::none: meet_tiles_with<is_signed, Offsets::none>(t, sums); break;
    case Offsets::added: meet_tiles_with<is_signed, Offsets::added>(t, sums); break;
    case Offsets::centers: meet_tiles_with<is_signed, Offsets::centers>(t, sums); break;
  }
  _tile_release();
}

// The codes of a block as bytes, of which `taken` is taken off: tiles of 16 rows of the matrix, [4][words][16] words.
template <typename D>
const uint8_t* bytes_of_codes(const D& d, const uint8_t* codes, int64_t k, int64_t words, uint32_t taken) {
  const int64_t most = (words + D::kOperands - 1) / D::kOperands * D::kOperands;
  uint32_t* to = scratch<Purpose::tile_codes, uint32_t>(most * kBlock);
  const auto surplus = (Bytes)(Bits{} + taken * 0x01010101u);
  each_operand(d, codes, k, [=](Bits operand, int64_t i, int p) {
    if (i < words) *reinterpret_cast<Bits*>(to + (p * words + i) * kTile) = (Bits)((Bytes)operand - surplus);
  });
  return reinterpret_cast<const uint8_t*>(to);
}

// Whether so many rows of x meet a matrix by tiles.
inline bool by_tiles(const QuantMatrix& a, const PreparedRows& rows, int64_t count) {
  const RowWords words(a, rows);
  return count >= kLeastTileRows && words.together() >= std::min(words.all, kLeastWords);
}

// sums [count][64] = rows of x, from `row` on, times a block.
template <typename D>
void multiply_by_tiles(const D& d, const Finish<D>& finish, const int8_t* x, int64_t row, int64_t count, float* sums) {
  const QuantMatrix& a = finish.a;
  const PreparedRows& rows = finish.rows;
  const int64_t groups = a.groups();
  Factors* factors = scratch<Purpose::tile_factors, Factors>((groups + kFactors - 1) / kFactors);
  for (int64_t group = 0; group < groups; group += kFactors) finish.load(group, factors[group / kFactors]);
  // With a sign, unless a code, or what it is looked up as, has eight bits and a zero point is yet to be taken off.
  const bool is_signed = a.kind != Codes::uint8 && !(finish.centers && (D::kBits == 8 || in_table(a.kind)));
  const RowWords words(a, rows);
  const uint8_t* operands = bytes_of_codes(d, finish.block.codes, a.k, words.all, is_signed ? surplus_of<D>(a) : 0);
  const int64_t segments_a_group = groups == 1 ? rows.segments : a.group / rows.segment;
  const TileProduct t{x, rows.stride, operands, factors, rows, row, count, words, rows.segments, segments_a_group};
  const Offsets offsets = finish.centers ? Offsets::centers : finish.adds ? Offsets::added : Offsets::none;
  is_signed ? meet_tiles<true>(t, offsets, sums) : meet_tiles<false>(t, offsets, sums);
}

}  // namespace KERNEL_ISA
#endif

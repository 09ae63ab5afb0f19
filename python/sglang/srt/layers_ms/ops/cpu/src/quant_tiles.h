// Rows that are rounded to int8 meet a block of codes by tiles: matrix instructions multiply some rows by as many of
// the block's, several times as fast as vectors do.
//
// Sums of products are those of quant_product.h, integers, and they are added up in the same order: each bit is the
// same. Codes of a block are made bytes before, in the order that a tile has them.
#pragma once
#include "quant_block.h"

#if defined(__AMX_INT8__) || defined(__ARM_FEATURE_MATMUL_INT8)
#define INT8_TILES

namespace KERNEL_ISA {

// Words of each row in a tile that is multiplied, at most and at least, and the rows that are worth it.
#if defined(__AMX_INT8__)
constexpr int64_t kTileWords = 16, kLeastWords = 4, kLeastTileRows = 16;  // tried on Sapphire Rapids
#else
constexpr int64_t kTileWords = 2, kLeastWords = 2, kLeastTileRows = 4;
#endif

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
  int64_t stride;            // of x
  const uint32_t* operands;  // bytes of codes, as `place` lays them
  const Factors* factors;    // of each kFactors groups
  const PreparedRows& rows;
  int64_t row, count;  // the first row, and how many
  RowWords words;
  int64_t segments, segments_a_group;
  int64_t step = words.together();
};

// total + what some sums of a segment of one row are worth. scales, offset: of the group; of_row: where rows have their
// own.
template <bool has_starts, Offsets offsets>
ALWAYS_INLINE Lanes add_worth(const PreparedRows& rows, Bits whole, const float* scales, const float* offset,
                              int64_t of_row, Lanes total) {
  if constexpr (has_starts) whole += static_cast<uint32_t>(rows.starts[of_row]);
  if constexpr (offsets == Offsets::centers) whole -= load_bits(offset) * static_cast<uint32_t>(rows.int_sums[of_row]);
  const Lanes scale = load_lanes(scales) * rows.steps[of_row];
  total = multiply_add(__builtin_convertvector((Ints)whole, Lanes), scale, total);
  if constexpr (offsets == Offsets::added)
    total = multiply_add(load_lanes(offset), splat_lanes(rows.sums[of_row]), total);
  return total;
}

}  // namespace KERNEL_ISA

#if defined(__AMX_INT8__)
#include "quant_tiles_amx.h"
#else
#include "quant_tiles_neon.h"
#endif

namespace KERNEL_ISA {

// The codes of a block as bytes, of which `taken` is taken off, as `place` lays them.
template <typename D>
const uint32_t* bytes_of_codes(const D& d, const uint8_t* codes, int64_t k, int64_t words, uint32_t taken) {
  const int64_t most = (words + D::kOperands - 1) / D::kOperands * D::kOperands;
  uint32_t* to = lines<Purpose::tile_codes, uint32_t>(most * kBlock);
  const auto surplus = (Bytes)(Bits{} + taken * 0x01010101u);
  each_operand(d, codes, k, [=](Bits operand, int64_t i, int p) {
    if (i < words) place((Bits)((Bytes)operand - surplus), i, p, words, to);
  });
  return to;
}

template <bool has_starts>
void meet_with_offsets(const TileProduct& t, bool centers, bool adds, float* sums) {
  if (centers) return meet_tiles<has_starts, Offsets::centers>(t, sums);
  adds ? meet_tiles<has_starts, Offsets::added>(t, sums) : meet_tiles<has_starts, Offsets::none>(t, sums);
}

// Whether so many rows of x meet a matrix by tiles.
inline bool by_tiles(const QuantMatrix& a, const PreparedRows& rows, int64_t count) {
  const RowWords words(a, rows);
  return count >= kLeastTileRows && words.together() >= kLeastWords;
}

// sums [count][64] = rows of x, from `row` on, times a block.
template <typename D>
void multiply_by_tiles(const D& d, const Finish<D>& finish, const int8_t* x, int64_t row, int64_t count, float* sums) {
  const QuantMatrix& a = finish.a;
  const PreparedRows& rows = finish.rows;
  const int64_t groups = a.groups();
  Factors* factors = scratch<Purpose::tile_factors, Factors>((groups + kFactors - 1) / kFactors);
  for (int64_t group = 0; group < groups; group += kFactors) finish.load(group, factors[group / kFactors]);
  // Codes without a sign: such of eight bits, and, where instructions take them, such from which a zero point is yet to
  // be taken that are eight bits, or are looked up as such.
  const bool long_centers = D::kTaken == 0 && finish.centers && (D::kBits == 8 || in_table(a.kind));
  const bool has_starts = (a.kind == Codes::uint8 && (D::kTaken == 0 || !finish.centers)) || long_centers;
  const RowWords words(a, rows);
  const uint32_t taken = has_starts ? 0 : surplus_of<D>(a);
  const uint32_t* operands = bytes_of_codes(d, finish.block.codes, a.k, words.all, taken);
  const int64_t segments_a_group = groups == 1 ? rows.segments : a.group / rows.segment;
  const TileProduct t{x, rows.stride, operands, factors, rows, row, count, words, rows.segments, segments_a_group};
  has_starts ? meet_with_offsets<true>(t, finish.centers, finish.adds, sums)
             : meet_with_offsets<false>(t, finish.centers, finish.adds, sums);
}

}  // namespace KERNEL_ISA
#endif

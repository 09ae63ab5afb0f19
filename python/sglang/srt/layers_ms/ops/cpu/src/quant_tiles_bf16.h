// Rows of bfloat16 that are not rounded meet a block by tiles of Intel's AMX: 16 rows, or fewer, of 32 columns times 32
// columns of 16 rows of the matrix.
//
// A part of the block's codes is decoded into the first cache, and met by all rows. A tile instruction adds up the even
// and the odd columns apart, and then both to what is there; sums of a segment of columns begin at zero, go on tile
// after tile, and are multiplied by its factor at its end. One row alone meets codes that are cheap to decode by
// vectors, which add up in the same order: no row depends on those beside it.
#pragma once
#include "quant_tiles.h"

#if defined(BF16_TILES)
namespace KERNEL_ISA {

constexpr int64_t kFewBytes = 4096;      // of codes that few rows meet together, as memory is fetched so far ahead
constexpr int64_t kPartColumns = 128;    // of a block that are decoded for many rows, and
constexpr int64_t kLongColumns = 256;    // the same of segments that are as long, the most
constexpr int64_t kMostTiledRows = 192;  // that meet a part: the second cache keeps them, and decoding takes a tenth
constexpr int kColumnTiles = kBlock / kTile;

// How many of all rows a task takes: as many as others, in whole tiles.
inline int64_t tiled_rows(int64_t rows) {
  const int64_t tasks = (rows + kMostTiledRows - 1) / kMostTiledRows, each = (rows + tasks - 1) / tasks;
  return (each + kTile - 1) / kTile * kTile;
}

// Of groups whose factors are powers of two: what a pair of codes of 16 rows of the matrix gains to be multiplied.
struct Powers {
  Bits steps[kColumnTiles];  // of exponents, in both halves
  Powers(const void* scale, int64_t group) {
    for (int p = 0; p < kColumnTiles; ++p) {
      const Bits step = (Bits)((load_bytes(scale, group * kBlock + p * kTile) - 127) << 7) & 0xffffu;
      steps[p] = step | step << 16;
    }
  }
  ALWAYS_INLINE Bits multiply(Bits pairs, int p) const {
    const __m512i halves = (__m512i)pairs;
    const __mmask32 numbers = _mm512_test_epi16_mask(halves, _mm512_set1_epi16(0x7fff));  // others are zeros
    return (Bits)_mm512_mask_add_epi16(halves, numbers, halves, (__m512i)steps[p]);
  }
};

// Whether all factors of a block are such powers, and codes times them numbers that bfloat16 has.
inline bool has_powers(const QuantMatrix& a, const QuantBlock& block) {
  if (a.scale_type != Storage::u8 || block.offset || a.kind != Codes::e2m1 || a.group % kTileColumns) return false;
  constexpr int kMost = 60;  // far from the least and the greatest
  Bits far{}, inside[kColumnTiles];
  for (int64_t i = 0; i < kBlock; ++i) inside[i / kTile][i % kTile] = i < block.width ? ~0u : 0u;
  for (int64_t at = 0; at < a.groups() * kBlock; at += kBlock)
    for (int p = 0; p < kColumnTiles; ++p)
      far |= (Bits)((Bits)(load_bytes(block.scale, at + p * kTile) - (127 - kMost)) > 2u * kMost) & inside[p];
  return _mm512_test_epi32_mask((__m512i)far, (__m512i)far) == 0;
}

// Columns of a block as tiles have them, so many together: [columns / together][4][together / 2][16 rows of the matrix]
// pairs, and zeros up to whole tiles. `apart`: how far from tiles to tiles. factors_of: column -> what multiplies pairs
// of those that are together with it.
template <typename D, typename F>
ALWAYS_INLINE void decode_pairs(const D& decoder, const uint8_t* codes, int64_t columns, int64_t together,
                                int64_t apart, uint32_t* to, F&& factors_of) {
  constexpr int64_t kStep = D::kOperands * D::kPer;
  const D d = decoder;
  const int64_t pairs = together / 2;
  for (int64_t first = 0; first < columns; first += together, to += apart) {
    const int64_t some = std::min(columns - first, together);
    const auto factors = factors_of(first);
    each_operand(d, codes, some,
                 [&](Bits operand, int64_t i, int p) { place(factors.multiply(operand, p), i, p, pairs, to); });
    for (int64_t i = (some + kStep - 1) / kStep * D::kOperands; i < pairs; ++i)
      for (int p = 0; p < kColumnTiles; ++p) place(Bits{}, i, p, pairs, to);
    codes += together * kBlock * D::kBits / 8;
  }
}

struct NoFactors {
  ALWAYS_INLINE static Bits multiply(Bits pairs, int) { return pairs; }
};

// Tiles 0 to 3 += those rows of x, whose columns begin at x, times as many columns of a part, of all terms.
template <int terms>
ALWAYS_INLINE void multiply_pairs(const bf16* x, int64_t stride, const uint32_t* operands, int64_t columns,
                                  int64_t together) {
  const int64_t tile = together / 2 * kTile;
  for (int64_t i = 0; i < columns; i += together) {
    _tile_loadd(4, x + i, stride * static_cast<int64_t>(sizeof(bf16)));
#pragma GCC unroll 2
    for (int term = 0; term < terms; ++term, operands += kColumnTiles * tile) {
      _tile_loadd(6, operands, kLine);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, operands + tile, kLine);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(6, operands + 2 * tile, kLine);
      _tile_dpbf16ps(2, 4, 6);
      _tile_loadd(7, operands + 3 * tile, kLine);
      _tile_dpbf16ps(3, 4, 7);
    }
  }
}

// [16][64]
ALWAYS_INLINE void load_sums(const float* from) {
  _tile_loadd(0, from, 4 * kBlock);
  _tile_loadd(1, from + kTile, 4 * kBlock);
  _tile_loadd(2, from + 2 * kTile, 4 * kBlock);
  _tile_loadd(3, from + 3 * kTile, 4 * kBlock);
}
ALWAYS_INLINE void keep_sums(float* to) {
  _tile_stored(0, to, 4 * kBlock);
  _tile_stored(1, to + kTile, 4 * kBlock);
  _tile_stored(2, to + 2 * kTile, 4 * kBlock);
  _tile_stored(3, to + 3 * kTile, 4 * kBlock);
}
ALWAYS_INLINE void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// sums [count][64] += what the sums of a segment are worth. row_sums: null where matrices have no offsets; `apart`: how
// far from row to row.
ALWAYS_INLINE void add_segment(const float* products, const float* scale, const float* offset, const float* row_sums,
                               int64_t apart, int64_t count, float* sums) {
  Lanes scales[kColumnTiles], offsets[kColumnTiles];
#pragma GCC unroll 4
  for (int p = 0; p < kColumnTiles; ++p)
    scales[p] = load_lanes(scale + p * kTile), offsets[p] = load_lanes(offset + p * kTile);
  for (int64_t m = 0; m < count; ++m, products += kBlock, sums += kBlock)
#pragma GCC unroll 4
    for (int p = 0; p < kColumnTiles; ++p) {
      Lanes total = multiply_add(load_lanes(products + p * kTile), scales[p], load_lanes(sums + p * kTile));
      if (row_sums) total = multiply_add(offsets[p], splat_lanes(row_sums[m * apart]), total);
      store_lanes(sums + p * kTile, total);
    }
}

// The shapes of tiles that this thread has while it multiplies.
class TileRegisters {
 public:
  explicit TileRegisters(int64_t columns) : columns_(columns) {}
  ~TileRegisters() { _tile_release(); }
  void shape(int64_t rows) {
    if (rows == rows_) return;
    const TileShapes shapes(columns_ / 2, rows_ = rows);
    asm volatile("" : : "r"(&shapes) : "memory");  // as in meet_tiles
    _tile_loadconfig(&shapes);
  }

 private:
  int64_t columns_, rows_ = 0;
};

// Columns of k that are decoded together: whole segments, or a part of one.
template <typename D>
int64_t part_columns(int64_t segment, int64_t count) {
  const int64_t many = segment < kLongColumns ? kPartColumns : kLongColumns;
  const int64_t room = count > kTile ? many : kFewBytes * 8 / D::kBits / kBlock / kTileColumns * kTileColumns;
  return segment < room ? room / segment * segment : room;
}

// sums [64] += one row of x times a block, as tiles add it up. powers: whether these have the factors, which are powers
// of two; then sums times them are sums of products with them, to the bit.
template <typename D, bool powers>
__attribute__((noinline)) void meet_one(const QuantMatrix& a, const QuantBlock& block, const PreparedRows& rows,
                                        int64_t row, float* sums) {
  constexpr int kStep = D::kOperands;
  const D d(a.kind);
  const Finish<D> finish{a, block, rows};
  const int64_t segment = rows.segment, together = tile_columns(a);
  float* x = lines<Purpose::wide_rows, float>(rows.stride);
  widen(in<bf16>(rows.x) + row * rows.stride, x, rows.stride);
  const uint8_t* codes = block.codes;
  Factors factors;
  Lanes total[kColumnTiles] = {};
  for (int64_t own = 0, from = 0; own < rows.segments; ++own, from += segment) {
    if (own % kFactors == 0) finish.load(own, factors);
    const int64_t end = std::min(a.k, from + segment), factor = own % kFactors * kBlock;
    for (int64_t first = from; first < end; first += together) {
      const int64_t last = std::min(end, first + together);
      Lanes even[kColumnTiles] = {}, odd[kColumnTiles] = {};
      for (int64_t i = first; i < last; i += kStep, codes += 4 * kBlock)
#pragma GCC unroll 4
        for (int p = 0; p < kColumnTiles; ++p) {
          fetch<1>(codes + p * 4 * kLanes + kDistance);
          const auto words = d.unpack(codes + p * 4 * kLanes);
#pragma GCC unroll 8
          for (int t = 0; t < kStep; ++t) {
            Lanes& to = t % 2 ? odd[p] : even[p];
            to = multiply_add(d.operand(words, t), splat_lanes(x[i + t]), to);
          }
        }
#pragma GCC unroll 4
      for (int p = 0; p < kColumnTiles; ++p) {
        const Lanes both = even[p] + odd[p];
        if constexpr (powers)
          total[p] = multiply_add(both, load_lanes(factors.scale + factor + p * kLanes), total[p]);
        else
          total[p] += both;
      }
    }
    if (powers) continue;
    alignas(64) float products[kBlock];
#pragma GCC unroll 4
    for (int p = 0; p < kColumnTiles; ++p) store_lanes(products + p * kLanes, total[p]), total[p] = Lanes{};
    add_segment(products, factors.scale + factor, factors.offset + factor,
                block.offset ? rows.sums + row * rows.segments + own : nullptr, rows.segments, 1, sums);
  }
#pragma GCC unroll 4
  for (int p = 0; powers && p < kColumnTiles; ++p) store_lanes(sums + p * kLanes, total[p]);
}

// A block that rows meet by tiles. terms: numbers of bfloat16 that a value is the sum of.
template <typename D, int terms>
class TiledBlock {
 public:
  TiledBlock(const QuantMatrix& a, const QuantBlock& block, const PreparedRows& rows, bool has_powers)
      : a_(a), block_(block), rows_(rows), has_powers_(has_powers), finish_{a, block, rows}, registers_(together_) {}

  // sums [count][64] += rows of x, from `first` on, times the block.
  void multiply(int64_t first, int64_t count, float* sums) {
    alignas(64) float open[kMostTiledRows * kBlock];  // sums of a segment that goes on
    for (int64_t size = part_columns<D>(segment_, count); to_ < a_.k;) {
      from_ = to_, to_ = std::min(a_.k, from_ + size);
      for (int term = 0; term < terms; ++term) decode(term);
      if (!has_powers_) finish_.load(from_ / segment_, factors_);
      asm volatile("" : : "r"(operands_) : "memory");  // GCC 12 does not know that tiles are read
      for (int64_t row = 0; row < count; row += kTile)
        meet(first + row, std::min(kTile, count - row), open + row * kBlock, sums + row * kBlock);
    }
  }

 private:
  void decode(int term) {
    const uint8_t* codes = block_.codes + from_ * kBlock * D::kBits / 8;
    uint32_t* to = operands_ + term * kBlock * together_ / 2;
    if constexpr (terms > 1) {
      return decode_pairs(D(a_.kind, term), codes, to_ - from_, together_, apart_, to,
                          [](int64_t) { return NoFactors(); });
    } else {
      if (!has_powers_)
        return decode_pairs(D(a_.kind), codes, to_ - from_, together_, apart_, to, [](int64_t) { return NoFactors(); });
      decode_pairs(D(a_.kind), codes, to_ - from_, together_, apart_, to,
                   [this](int64_t column) { return Powers(block_.scale, (from_ + column) / a_.group); });
    }
  }

  // Some rows, at most 16, and what is decoded.
  void meet(int64_t row, int64_t count, float* open, float* sums) {
    registers_.shape(count);
    const bf16* x = in<bf16>(rows_.x) + row * rows_.stride;
    alignas(64) float products[kTile * kBlock];
    for (int64_t at = from_; at < to_;) {
      const int64_t own = at / segment_, end = std::min(a_.k, (own + 1) * segment_), until = std::min(end, to_);
      at % segment_ ? load_sums(open) : zero_sums();
      multiply_pairs<terms>(x + at, rows_.stride, operands_ + (at - from_) / together_ * apart_, until - at, together_);
      keep_sums(until < end ? open : has_powers_ ? sums : products);
      const int64_t factor = (own - from_ / segment_) * kBlock;
      if (until == end && !has_powers_)
        add_segment(products, factors_.scale + factor, factors_.offset + factor,
                    block_.offset ? rows_.sums + row * rows_.segments + own : nullptr, rows_.segments, count, sums);
      at = until;
    }
  }

  const QuantMatrix& a_;
  const QuantBlock& block_;
  const PreparedRows& rows_;
  const bool has_powers_;  // which are in what is decoded
  const Finish<D> finish_;
  const int64_t segment_ = has_powers_ ? a_.k : rows_.segment, together_ = tile_columns(a_),
                apart_ = terms * kBlock * together_ / 2;
  uint32_t* const operands_ = lines<Purpose::tile_codes, uint32_t>(terms * kBlock * kLongColumns / 2);
  TileRegisters registers_;
  int64_t from_ = 0, to_ = 0;  // columns that are decoded
  Factors factors_;
};

// sums [count][64] = rows of x, from `first` on, times a block. One: decoder for one row alone, or void.
template <typename D, int terms, typename One>
void multiply_by_pairs(const QuantMatrix& a, const QuantBlock& block, const PreparedRows& rows, int64_t first,
                       int64_t count, float* sums) {
  const bool powers = terms == 1 && has_powers(a, block);
  std::fill(sums, sums + count * kBlock, 0.0f);
  if constexpr (!std::is_void_v<One>)
    if (count == 1) {
      if constexpr (One::kBits == 4)
        if (powers) return meet_one<One, true>(a, block, rows, first, sums);
      return meet_one<One, false>(a, block, rows, first, sums);
    }
  TiledBlock<D, terms>(a, block, rows, powers).multiply(first, count, sums);
}

}  // namespace KERNEL_ISA
#endif

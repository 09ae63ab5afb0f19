// Tiles of aarch64's int8 matrix multiplication: two rows of eight columns times eight columns of two rows of the
// matrix; part of quant_tiles.h.
#pragma once

namespace KERNEL_ISA {

constexpr int kRowPairs = 4;  // rows that are met together, two by two, and four of the matrix

// Word i of four rows of the matrix: [pair of rows][words / 2][2 rows][2 words].
ALWAYS_INLINE void place(Bits operand, int64_t i, int p, int64_t words, uint32_t* to) {
  for (int row = 0; row < kLanes; ++row)
    to[(p * 2 + row / 2) * 2 * words + i / 2 * 4 + row % 2 * 2 + i % 2] = operand[row];
}

// Eight rows from `row` on, and four columns.
template <bool has_starts, Offsets offsets>
void meet_part(const TileProduct& t, int64_t row, int64_t column, float* sums) {
  Lanes total[2 * kRowPairs] = {};
  const int8_t* x = t.x + row * t.stride;
  const auto* left = reinterpret_cast<const int8_t*>(t.operands + column * t.words.all);
  const int8_t* right = left + 8 * t.words.all;
  for (int64_t segment = 0; segment < t.segments; ++segment) {
    const int64_t first = segment * t.words.segment, last = std::min(first + t.words.segment, t.words.all);
    int32x4_t products[kRowPairs][2] = {};  // of two columns, each of two rows
    for (int64_t word = first; word < last; word += 2) {
      const int8x16_t codes[] = {vld1q_s8(left + 8 * word), vld1q_s8(right + 8 * word)};
#pragma GCC unroll 4
      for (int pair = 0; pair < kRowPairs; ++pair) {
        const int8_t* own = x + 2 * pair * t.stride + 4 * word;
        const int8x16_t rows = vcombine_s8(vld1_s8(own), vld1_s8(own + t.stride));
        products[pair][0] = vmmlaq_s32(products[pair][0], codes[0], rows);
        products[pair][1] = vmmlaq_s32(products[pair][1], codes[1], rows);
      }
    }
    const int64_t group = segment / t.segments_a_group, at = group % kFactors * kBlock + column;
    const Factors& factors = t.factors[group / kFactors];
#pragma GCC unroll 8
    for (int m = 0; m < 2 * kRowPairs; ++m) {
      const int32x4_t(&both)[2] = products[m / 2];
      const Bits whole = (Bits)(m % 2 ? vuzp2q_s32(both[0], both[1]) : vuzp1q_s32(both[0], both[1]));
      total[m] = add_worth<has_starts, offsets>(t.rows, whole, factors.scale + at, factors.offset + at,
                                                (t.row + row + m) * t.segments + segment, total[m]);
    }
  }
  const int64_t count = std::min<int64_t>(2 * kRowPairs, t.count - row);
#pragma GCC unroll 8
  for (int m = 0; m < 2 * kRowPairs; ++m)
    if (m < count) store_lanes(sums + (row + m) * kBlock + column, total[m]);
}

// sums [count][64].
template <bool has_starts, Offsets offsets>
void meet_tiles(const TileProduct& t, float* sums) {
  for (int64_t column = 0; column < kBlock; column += kLanes)
    for (int64_t row = 0; row < t.count; row += 2 * kRowPairs) meet_part<has_starts, offsets>(t, row, column, sums);
}

}  // namespace KERNEL_ISA

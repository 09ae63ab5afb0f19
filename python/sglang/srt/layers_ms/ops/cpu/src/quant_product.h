// Products with quantized matrices.
//
// Rows of x meet 64 columns of the product at a time. Few rows meet codes that are decoded in registers, while memory
// is read at its speed; more rows meet a part of the block that is decoded once, into the first cache. Sums of a group
// of columns that share a factor are multiplied by it and added up in memory: kept in registers they would leave too
// few.
#pragma once
#include "elementwise.h"
#include "linear.h"
#include "quant_tiles_bf16.h"

namespace KERNEL_ISA {

// Bytes of operands that are decoded together, and how many rows are worth it: more the less there is to decoding.
constexpr int64_t kDecodedBytes = 16384;
constexpr int64_t rows_in_registers(int bits) { return bits == 4 ? 32 : kMostRows; }

// Columns [first, last) of k of a block, whose codes or operands begin at `codes`.
struct KRange {
  int64_t first, last;
  const uint8_t* codes;
  float* carried;  // [rows][64]: sums of a group that ends in a later part; null: there is none
};

// `count` rows of some columns as they are multiplied, and how far apart they are then.
template <typename Row, typename T>
inline std::pair<const Row*, int64_t> rows_of(const T* x, int64_t count, int64_t stride, int64_t columns) {
  if constexpr (std::is_same_v<T, Row>)
    return {x, stride};
  else {
    const int64_t apart = (columns + kGroup - 1) / kGroup * kGroup;
    float* wide = scratch<Purpose::wide_rows, float>(kMostRows * apart);
    for (int64_t row = 0; row < count; ++row) widen(x + row * stride, wide + row * apart, columns);
    return {wide, apart};
  }
}

// sums [M][64] += M rows, from `row` on, whose values of these columns begin at x, times a part of a block.
template <int M, typename D>
inline void meet(const D& d, const Finish<D>& finish, const typename D::Row* x, int64_t stride, int64_t row,
                 const KRange& some, float* sums, float* carried) {
  using Sum = typename D::Sum;
  constexpr int G = groups_at_once(M, 4, D::kSums), P = G * kParts, kStep = D::kOperands * D::kPer;
  // Whether values of x stay in registers for all columns, beside sums and tables. GCC 12 would not ask.
  constexpr bool kShares = M == 1 || D::kOperands == 1 || M * (D::kOperands + P) + D::kTables + 5 <= kRegisters;
  const int64_t segment = finish.rows.segment;
  for (int first = 0; first < 4; first += G) {
    const uint8_t* codes = some.codes + first * 4 * kGroup;
    Factors factors;
    int64_t loaded = 0;
    for (int64_t from = some.first; from < some.last;) {
      const int64_t end = (from / segment + 1) * segment, to = std::min(some.last, end);
      const int64_t group = from / finish.a.group;
      if (group >= loaded + kFactors || from == some.first) finish.load(loaded = group, factors);
      Sum part[M][P] = {};
      if constexpr (D::kInteger) {
        const int64_t segments = finish.rows.segments;
        const int32_t* starts = finish.rows.starts + row * segments + from / segment;
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) part[m][p] = (Sum)(Bits{} + static_cast<uint32_t>(starts[m * segments]));
      }
      float* kept = carried ? carried + first * kGroup : nullptr;
      if (carried && from % segment)
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) part[m][p] = (Sum)load_lanes(kept + m * kBlock + p * kLanes);
      for (int64_t i = from - some.first; i < to - some.first; i += kStep, codes += D::kWords * 4 * kBlock) {
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
          if (p % kParts == 0) fetch<D::kWords>(codes + p * 4 * kLanes + kDistance);
          const auto words = d.unpack(codes + p * 4 * kLanes);
          const typename D::Row* own = x + i;
          if (!kShares) asm volatile("" : "+r"(own));  // values of x are read again
#pragma GCC unroll 32
          for (int t = 0; t < D::kOperands; ++t) {
            const typename D::Operand operand = d.operand(words, t);
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) part[m][p] = D::add(part[m][p], operand, own + m * stride + t * D::kPer);
          }
        }
      }
      if (carried && to < end && to < finish.a.k)
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) store_lanes(kept + m * kBlock + p * kLanes, (Lanes)part[m][p]);
      else
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p)
          finish.add(factors, (group - loaded) * kBlock, from / segment, first * kGroup + p * kLanes, part, p, row,
                     sums);
      from = to;
    }
  }
}

// All rows, from `first` on, as many in each pass as in the others. Their columns of this part begin at x.
template <typename D, typename T>
inline void meet_all(const D& d, const Finish<D>& finish, const T* x, int64_t stride, int64_t first, int64_t rows,
                     const KRange& part, float* sums) {
  const int64_t count = (rows + kMostRows - 1) / kMostRows, width = part.last - part.first;
  for (int64_t pass = 0, done = 0; pass < count; ++pass) {
    const int64_t taken = rows / count + (pass < rows % count);
    float* carried = part.carried ? part.carried + done * kBlock : nullptr;
    const auto [row, apart] = rows_of<typename D::Row>(x + done * stride, taken, stride, width);
    with_rows(taken, [&, row = row, apart = apart](auto m) {
      meet<m.value>(d, finish, row, apart, first + done, part, sums + done * kBlock, carried);
    });
    done += taken;
  }
}

// sums [count][64] = rows of x, from `first` on, times a block. T: of the rows as they were prepared.
template <typename D, typename T>
void multiply_block(const QuantMatrix& a, const QuantBlock& block, const PreparedRows& rows, int64_t first,
                    int64_t count, float* sums) {
  const D d(a.kind);
  const T* x = in<T>(rows.x) + first * rows.stride;
#if defined(INT8_TILES)
  if constexpr (D::kInteger)
    if (by_tiles(a, rows, count)) return multiply_by_tiles(d, Finish<D>{a, block, rows}, x, first, count, sums);
#endif
  std::fill(sums, sums + count * kBlock, 0.0f);
  if (D::kInteger || count <= rows_in_registers(D::kBits)) {
    const KRange whole{0, a.k, block.codes, nullptr};
    return meet_all(d, Finish<D>{a, block, rows}, x, rows.stride, first, count, whole, sums);
  }
  if constexpr (!D::kInteger) {
    constexpr int64_t kRoom = kDecodedBytes / (4 * kBlock) * D::kPer;  // columns
    const int64_t size = rows.segment < kRoom ? kRoom / rows.segment * rows.segment : kRoom;
    alignas(64) uint32_t operands[kDecodedBytes / 4];
    float carried[kRowBlock * kBlock];
    for (int64_t from = 0; from < a.k; from += size) {
      const int64_t to = std::min(a.k, from + size);
      each_operand(d, block.codes + from * kBlock * D::kBits / 8, to - from, [&](Bits operand, int64_t i, int p) {
        *reinterpret_cast<Bits*>(operands + i * kBlock + p * kLanes) = operand;
      });
      const KRange part{from, to, reinterpret_cast<const uint8_t*>(operands), carried};
      using Known = Decoded<typename D::Row>;
      const Finish<Known> finish{a, block, rows};
      meet_all(Known(), finish, x + from, rows.stride, first, count, part, sums);
    }
  }
}

// How rows of one type meet codes of one kind.
struct Meeting {
  PreparedRows (*prepare)(const QuantProduct&, const void* x);
  void (*multiply)(const QuantMatrix&, const QuantBlock&, const PreparedRows&, int64_t first, int64_t count,
                   float* sums);
  // How many of all rows a task takes while others take the other columns; null: kRowBlock, and tasks that share a
  // block follow each other.
  int64_t (*rows_of_task)(int64_t rows);
};

template <typename D, typename T>
Meeting meeting() {
  if constexpr (D::kInteger)
    return {round_rows<D, T>, multiply_block<D, typename D::Row>, nullptr};
  else
    return {rows_with_sums<T>, multiply_block<D, T>, nullptr};
}

#if defined(BF16_TILES)
constexpr int64_t kMostTaskRows = kMostTiledRows;
template <typename D, typename One = void, int terms = 1>
Meeting meeting_of_pairs() {
  return {rows_with_sums<bf16>, multiply_by_pairs<D, terms, One>, tiled_rows};
}
#else
constexpr int64_t kMostTaskRows = kRowBlock;
template <typename D, typename = void>
Meeting meeting_of_pairs() {
  return meeting<D, bf16>();
}
#endif

template <typename T>
Meeting meeting_of(Codes kind, Activations activations) {
  if (activations != Activations::floats) {
    if (in_table(kind)) return meeting<Integers<4, true>, T>();
    if (upper_of(kind) == 2) return meeting<SplitIntegers<2>, T>();
    if (upper_of(kind) == 1) return meeting<SplitIntegers<1>, T>();
    return bits_of(kind) == 8 ? meeting<Integers<8>, T>() : meeting<Integers<4>, T>();
  }
#if defined(BF16_PAIRS)
  if constexpr (std::is_same_v<T, bf16>) {  // in which all values but NF4's are exact
    if (upper_of(kind) == 2) return meeting_of_pairs<SplitPairs<2>>();
    if (upper_of(kind) == 1) return meeting_of_pairs<SplitPairs<1>>();
    if (kind == Codes::e4m3) return meeting_of_pairs<BytePairs<true>>();
    if (kind == Codes::int8) return meeting_of_pairs<BytePairs<false>, ByteLanesOf<Codes::int8>>();
    if (kind == Codes::uint8) return meeting_of_pairs<BytePairs<false>, ByteLanesOf<Codes::uint8>>();
    if (kind != Codes::nf4) return meeting_of_pairs<NibblePairs, NibbleLanes>();
#if defined(BF16_TILES)
    return meeting_of_pairs<NibblePairs, void, 2>();
#endif
  }
#endif
  if (upper_of(kind) == 2) return meeting<SplitLanes<2>, T>();
  if (upper_of(kind) == 1) return meeting<SplitLanes<1>, T>();
  if (bits_of(kind) == 4) return meeting<NibbleLanes, T>();
  if (kind == Codes::int8) return meeting<ByteLanesOf<Codes::int8>, T>();
  return kind == Codes::uint8 ? meeting<ByteLanesOf<Codes::uint8>, T>() : meeting<ByteLanesOf<Codes::e4m3>, T>();
}

// y [count, width of the block] = sums + bias; rows of y are n apart.
template <typename Y>
inline void store_sums(const float* sums, int64_t count, int64_t width, const float* bias, Y* y, int64_t n) {
  for (int64_t row = 0; row < count; ++row, sums += kBlock, y += n)
    over(
        width, [&](int64_t i) { store(y + i, load(sums + i) + load(bias + i)); },
        [&](int64_t i) { y[i] = from_float<Y>(sums[i] + bias[i]); });
}

// What a block's columns are added to: zeros where there is no bias.
struct BlockBias {
  alignas(64) float values[kBlock] = {};
  BlockBias(const void* bias, Storage type, int64_t first, int64_t width) {
    for (int64_t i = 0; bias && i < width; ++i) values[i] = stored(bias, type, first + i);
  }
};

template <typename Y>
void quant_product(const QuantProduct& a, const Meeting& meeting, const PreparedRows& rows) {
  Y* y = out<Y>(a.y);
  const auto rows_of_task = meeting.rows_of_task;
  const int64_t row_block = rows_of_task ? rows_of_task(a.rows) : kRowBlock;
  const int64_t n = a.weight.n, blocks = blocks_of(n), row_blocks = (a.rows + row_block - 1) / row_block;
  // As in linear.h: few rows take neighboring blocks in one task, many share a block, or all blocks meet some rows.
  const int64_t together = row_blocks > 1 ? 1 : std::clamp<int64_t>(blocks / (4 * pool::threads()), 1, kTogether);
  const int64_t column_tasks = (blocks + together - 1) / together;
  pool::each(column_tasks * row_blocks, [&](int64_t task) {
    const int64_t of_rows = rows_of_task ? task / column_tasks : task % row_blocks;
    const int64_t of_columns = rows_of_task ? task % column_tasks : task / row_blocks;
    const int64_t first = of_rows * row_block, count = std::min(row_block, a.rows - first);
    const int64_t from = of_columns * together, to = std::min(blocks, from + together);
    for (int64_t i = from; i < to; ++i) {
      const QuantBlock block = block_of(a.weight, i);
      const BlockBias bias(a.bias, a.bias_type, i * kBlock, block.width);
      alignas(64) float sums[kMostTaskRows * kBlock];
      meeting.multiply(a.weight, block, rows, first, count, sums);
      store_sums(sums, count, block.width, bias.values, y + first * n + i * kBlock, n);
    }
  });
}

template <typename T>
void quant_linear_as(const QuantProduct& a) {
  const Meeting meeting = meeting_of<T>(a.weight.kind, a.activations);
  const PreparedRows rows = meeting.prepare(a, a.x);
  a.wide ? quant_product<float>(a, meeting, rows) : quant_product<T>(a, meeting, rows);
}

}  // namespace KERNEL_ISA

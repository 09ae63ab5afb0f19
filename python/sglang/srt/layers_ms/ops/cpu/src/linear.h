// Matrix products on packed weights.
//
// Columns of the product are taken 64 at a time. A packed block of 64 weight rows is [k / 2][64][2] for bfloat16, so
// that one 64-byte load holds a pair of consecutive k for 16 columns (what AVX-512's dot product wants, and oneDNN's
// layout BA16a64b2a), and [k][64] for the others. What is left are blocks of 16 rows, alike; the rows after the last of
// them stay as they are, as do matrices of odd k.
#pragma once
#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels.h"
#include "linear_tiles.h"
#include "parallel.h"
#include "scratch.h"
#include "simd.h"

namespace KERNEL_ISA {

constexpr int kGroup = 16;                 // columns in a register, and
constexpr int kWide = 4 * kGroup;          // in a block
constexpr int kMostRows = 6;               // rows of x that are multiplied together
constexpr int kSums = kRegisters * 3 / 4;  // registers for the sums meanwhile
constexpr int kParts = kGroup / kLanes;    // registers for 16 columns
constexpr int64_t kRowBlock = 96;          // rows of x a task takes, and
constexpr int64_t kTogether = 4;           // blocks of columns, most of them
constexpr int64_t kPart = 16384;           // bytes of a block that some rows, at most
constexpr int64_t kSomeRows = 64;          // so many, meet before the next ones
constexpr int64_t kDistance = 4096;        // bytes: how far ahead of what rows of one pass meet memory is fetched

inline bool packable(int64_t k) { return k % 2 == 0; }

// Where a block of `width` rows has the value that is in this row and column.
template <typename T>
inline int64_t packed_index(int64_t row, int64_t column, int64_t width) {
  return column * width + row;
}
template <>
inline int64_t packed_index<bf16>(int64_t row, int64_t column, int64_t width) {
  return (column / 2) * 2 * width + row * 2 + column % 2;
}

template <typename T, bool forward>
void repack(void* weight, int64_t n, int64_t k) {
  if (!packable(k)) return;
  const int64_t wide = n / kWide, narrow = n % kWide / kGroup;
  pool::each(wide + narrow, [&](int64_t block) {
    const int64_t width = block < wide ? kWide : kGroup;
    const int64_t first = block < wide ? block * kWide : wide * kWide + (block - wide) * kGroup;
    T* rows = static_cast<T*>(weight) + first * k;
    const std::vector<T> old(rows, rows + width * k);
    for (int64_t row = 0; row < width; ++row)
      for (int64_t column = 0; column < k; ++column) {
        const int64_t plain = row * k + column, packed = packed_index<T>(row, column, width);
        forward ? rows[packed] = old[plain] : rows[plain] = old[packed];
      }
  });
}

// acc[M][P] += x[M][k...] * w[k...][P], kStep values of k at a time; x, whose values are of type Row, has `stride`
// columns. Loops are unrolled by order: GCC 12 leaves some of them as they are otherwise, and keeps the sums in memory,
// at half the speed. Rows of half precision that are not multiplied as they are come in float32, whose values the load
// alone spreads over a register. Not inlined, these functions would keep the sums in memory.
template <typename T>
struct Multiply {  // float32 and float16
  static constexpr int kStep = 1;
  using Row = float;
  template <int M, int P>
  ALWAYS_INLINE static void step(Lanes (&acc)[M][P], const float* x, int64_t stride, const T* w) {
    Lanes column[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) column[p] = load_lanes(w + p * kLanes);
    add(acc, x, stride, column);
  }
  template <int M, int P>
  ALWAYS_INLINE static void add(Lanes (&acc)[M][P], const float* x, int64_t stride, const Lanes (&column)[P]) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Lanes value = splat_lanes(x[m * stride]);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[m][p] += value * column[p];
    }
  }
};

template <>
struct Multiply<bf16> {
  static constexpr int kStep = 2;
#if defined(__AVX512BF16__)
  using Row = bf16;
  template <int M, int P>
  ALWAYS_INLINE static void step(Lanes (&acc)[M][P], const bf16* x, int64_t stride, const bf16* w) {
    __m512bh pairs[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) pairs[p] = (__m512bh)_mm512_loadu_si512(w + p * 2 * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      int pair;
      std::memcpy(&pair, x + m * stride, 4);
      const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[m][p] = (Lanes)_mm512_dpbf16_ps((__m512)acc[m][p], both, pairs[p]);
    }
  }
#else
  using Row = float;
  template <int M, int P>
  ALWAYS_INLINE static void step(Lanes (&acc)[M][P], const float* x, int64_t stride, const bf16* w) {
    Lanes column[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) column[p] = (Lanes)(load_bits(w + p * 2 * kLanes) << 16);
    Multiply<float>::add(acc, x, stride, column);
    asm("" : "+r"(w));  // read again, from the first cache: there are no registers to keep them in
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) column[p] = (Lanes)(load_bits(w + p * 2 * kLanes) & 0xffff0000u);
    Multiply<float>::add(acc, x + 1, stride, column);
  }
#endif
};

// f(integral constant `count`), which is 1 to kMostRows.
template <int M = kMostRows, typename F>
inline void with_rows(int64_t count, F&& f) {
  if (count == M) return f(std::integral_constant<int, M>{});
  if constexpr (M > 1) with_rows<M - 1>(count, f);
}

enum class Start { bias, sum };  // what a product is added to: a bias (or nothing), or what y has

// Groups of columns, of a block of W, that M rows meet together: as many as there are registers for the sums.
constexpr int groups_at_once(int M, int W, int sums = kSums) {
  return W > 1 && M * W * kParts > sums ? groups_at_once(M, W / 2, sums) : W;
}

// y [M, n] = x [M, k] * a block of W * 16 columns; rows of x lie `stride` apart. `ahead`: memory to fetch meanwhile, of
// every W cache lines the first `lines`.
template <Start start, int lines, int M, int W, typename T, typename Y>
inline void tile(const typename Multiply<T>::Row* x, int64_t stride, const T* w, const T* bias, Y* y, int64_t k,
                 int64_t n, const T* ahead) {
  constexpr int G = groups_at_once(M, W), P = G * kParts, kLine = 64 / static_cast<int>(sizeof(T));
  for (int first = 0; first < W; first += G, y += G * kGroup) {
    Lanes acc[M][P];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        if constexpr (start == Start::sum)
          acc[m][p] = load_lanes(y + m * n + p * kLanes);
        else
          acc[m][p] = bias ? load_lanes(bias + first * kGroup + p * kLanes) : Lanes{};
      }
    const T* columns = w + first * kGroup * Multiply<T>::kStep;
    for (int64_t i = 0; i < k; i += Multiply<T>::kStep) {
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g)
        if (first + g < lines) __builtin_prefetch(ahead + i * W * kGroup + (first + g) * kLine, 0, 2);
      Multiply<T>::template step<M, P>(acc, x + i, stride, columns + i * W * kGroup);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) store_lanes(y + m * n + p * kLanes, acc[m][p]);
  }
}

// `count` rows of k values, `stride` apart, as they are multiplied, and how far apart they are then.
template <typename T>
inline std::pair<const typename Multiply<T>::Row*, int64_t> rows_to_multiply(const T* x, int64_t count, int64_t stride,
                                                                             int64_t k) {
  if constexpr (std::is_same_v<T, typename Multiply<T>::Row>)
    return {x, stride};
  else {
    const int64_t apart = (k + kGroup - 1) / kGroup * kGroup;
    float* wide = scratch<Purpose::wide_rows, float>(kMostRows * apart);
    for (int64_t row = 0; row < count; ++row) widen(x + row * stride, wide + row * apart, k);
    return {wide, apart};
  }
}

// The same for any number of rows, as many in each pass as in the others; `ahead` as a whole.
template <int G, Start start, typename T, typename Y>
inline void passes(int64_t rows, const T* x, int64_t stride, const T* w, const T* bias, Y* y, int64_t k, int64_t n,
                   const T* ahead) {
  constexpr int64_t line = 64 / sizeof(T);
  const int64_t count = (rows + kMostRows - 1) / kMostRows;
  for (int64_t pass = 0, fetched = 0; pass < count; ++pass) {
    const int64_t taken = rows / count + (pass < rows % count);
    const int64_t share = std::min(G - fetched, (G + count - 1) / count);
    const int64_t lines = ahead ? share : 0;
    const T* next = ahead + fetched * line;
    const auto [row, apart] = rows_to_multiply(x, taken, stride, k);
    with_rows(taken, [&, row = row, apart = apart](auto m) {
      constexpr int M = m.value;
      if (lines == 0) return tile<start, 0, M, G>(row, apart, w, bias, y, k, n, next);
      if (lines == 1) return tile<start, 1, M, G>(row, apart, w, bias, y, k, n, next);
      if (lines == 2) return tile<start, 2, M, G>(row, apart, w, bias, y, k, n, next);
      tile<start, G, M, G>(row, apart, w, bias, y, k, n, next);
    });
    x += taken * stride;
    y += taken * n;
    fetched += lines;
  }
}

// y [rows, n] = x [rows, k] * a block of G * 16 columns. What rows of one pass are to meet is fetched a little ahead,
// into the next block where this one ends. Rows of some passes meet one part of the block after the other, which stays
// in the first cache meanwhile, while the next one is fetched, after the last part that of `ahead`, if not null. Either
// way reading takes place beside multiplying. Many rows take longer than reading, and would lose a twentieth on keeping
// sums between the parts.
template <int G, Start start = Start::bias, typename T, typename Y>
inline void tiles(int64_t rows, const T* x, const T* w, const T* bias, Y* y, int64_t k, int64_t n,
                  const T* ahead = nullptr) {
  constexpr int64_t width = G * kGroup, part = kPart / (width * sizeof(T));
  if (start == Start::bias && rows <= kMostRows)
    return passes<G, start>(rows, x, k, w, bias, y, k, n, w + kDistance / static_cast<int64_t>(sizeof(T)));
  if (start == Start::sum || k <= part || rows > kSomeRows)
    return passes<G, start>(rows, x, k, w, bias, y, k, n, ahead);
  alignas(64) float sums[kSomeRows * width];
  for (int64_t first = 0; first < k; first += part) {
    const int64_t size = std::min(part, k - first);
    const T *here = w + first * width, *next = first + part < k ? here + part * width : ahead;
    if (first == 0)
      passes<G, Start::bias>(rows, x, k, here, bias, sums, size, width, next);
    else
      passes<G, Start::sum>(rows, x + first, k, here, bias, sums, size, width, next);
  }
  for (int64_t row = 0; row < rows; ++row)
    for (int g = 0; g < G; ++g) store(y + row * n + g * kGroup, load(sums + row * width + g * kGroup));
}

// The same by the processor's tiles, if it has any.
template <int G, typename T, typename W, typename Y>
inline void product(int64_t rows, const T* x, const W* w, const T* bias, Y* y, int64_t k, int64_t n,
                    const W* ahead = nullptr) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, bf16> && std::is_same_v<W, bf16>)
    if (bf16_tiles && k % amx::kWidth == 0) return amx::product<G>(rows, x, w, bias, y, k, n);
#endif
  tiles<G>(rows, x, w, bias, y, k, n, ahead);
}

// found[M][4] = x[M] * four rows of a row-major matrix.
template <int M, typename T>
inline void dots_of_rows(const T* const (&x)[M], const T* const (&w)[4], int64_t k, float (&found)[M][4]) {
  int64_t i = 0;
  f32x16 total[M][4] = {};
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, bf16>)
    for (; i + 32 <= k; i += 32) {
      __m512bh row[4];
      for (int r = 0; r < 4; ++r) row[r] = (__m512bh)_mm512_loadu_si512(w[r] + i);
      for (int m = 0; m < M; ++m) {
        const __m512bh pairs = (__m512bh)_mm512_loadu_si512(x[m] + i);
        for (int r = 0; r < 4; ++r) total[m][r] = (f32x16)_mm512_dpbf16_ps((__m512)total[m][r], row[r], pairs);
      }
    }
#endif
  auto add = [&](auto&& load_some) {
    f32x16 row[4];
    for (int r = 0; r < 4; ++r) row[r] = load_some(w[r] + i);
    for (int m = 0; m < M; ++m)
      for (int r = 0; r < 4; ++r) total[m][r] += row[r] * load_some(x[m] + i);
  };
  for (; i + 16 <= k; i += 16) add([](const T* p) { return load(p); });
  // A vector again: sums in another order would depend on how many rows are taken together.
  if (i < k) add([&](const T* p) { return load_part(p, k - i); });
  for (int m = 0; m < M; ++m) sums(total[m], found[m]);
}

// The same of rows that lie one after the other.
template <int M, typename T>
inline void dots(const T* x, const T* const (&w)[4], int64_t k, float (&found)[M][4]) {
  const T* rows[M];
  for (int m = 0; m < M; ++m) rows[m] = x + m * k;
  dots_of_rows<M>(rows, w, k, found);
}

// keep(row, column, x[row] * row `column` of w) for the columns first to last.
template <int M = 4, typename T, typename F>
inline void all_dots(const T* x, const T* w, int64_t rows, int64_t k, int64_t first, int64_t last, F&& keep,
                     int64_t row = 0) {
  for (; row + M <= rows; row += M)
    for (int64_t column = first; column < last; column += 4) {
      const T* four[4];  // the last again where there are fewer
      for (int64_t r = 0; r < 4; ++r) four[r] = w + std::min(column + r, last - 1) * k;
      float found[M][4];
      dots<M>(x + row * k, four, k, found);
      for (int m = 0; m < M; ++m)
        for (int64_t r = 0; r < std::min<int64_t>(4, last - column); ++r) keep(row + m, column + r, found[m][r]);
    }
  if constexpr (M > 1) {
    if (row < rows) all_dots<M / 2>(x, w, rows, k, first, last, keep, row);
  }
}

// A row of a packed matrix.
template <typename T>
inline void packed_row(const T* w, int64_t row, int64_t n, int64_t k, T* y) {
  const int64_t wide_end = n / kWide * kWide, packed_end = packable(k) ? n / kGroup * kGroup : 0;
  const int64_t width = row >= packed_end ? 1 : row < wide_end ? kWide : kGroup;
  if (width == 1) {
    std::copy(w + row * k, w + (row + 1) * k, y);
    return;
  }
  const T* block = w + row / width * width * k;  // blocks of 16 begin at a multiple of 64, so also at one of 16
  for (int64_t i = 0; i < k; ++i) y[i] = block[packed_index<T>(row % width, i, width)];
}

template <typename T>
void embedding_as(const calls::embedding& a) {
  const T* w = static_cast<const T*>(a.weight);
  T* y = static_cast<T*>(a.out);
  const int64_t n = a.vocab, k = a.width;
  pool::each(a.tokens, [&](int64_t token) {
    const int64_t row = a.ids[token] - a.first;
    if (row >= 0 && row < n)
      packed_row(w, row, n, k, y + token * k);
    else
      std::fill(y + token * k, y + (token + 1) * k, T{});
  });
}

// Columns before `start`, a multiple of 64, are left alone.
template <typename T, typename W, typename Y>
void linear_as(const T* x, const W* w, const T* bias, Y* y, int64_t rows, int64_t k, int64_t n, int64_t start) {
  const int64_t packed = packable(k) ? n / kGroup * kGroup : 0, wide_end = packed / kWide * kWide;
  const int64_t wide = (wide_end - start) / kWide, narrow = (packed - wide_end) / kGroup;
  const int64_t row_blocks = (rows + kRowBlock - 1) / kRowBlock;
  // Few rows: neighboring blocks make a task, and the next one is fetched while rows after the first meet this one.
  // Many: neighboring tasks share their block, which is still in the cache.
  const int64_t together = row_blocks > 1 ? 1 : std::clamp<int64_t>(wide / (4 * pool::threads()), 1, kTogether);
  const int64_t groups = (wide + together - 1) / together;
  pool::each(groups * row_blocks, [&](int64_t task) {
    const int64_t row = task % row_blocks * kRowBlock, count = std::min(kRowBlock, rows - row);
    const int64_t first = task / row_blocks * together, last = std::min(wide, first + together);
    for (int64_t block = first; block < last; ++block) {
      const int64_t column = start + block * kWide;
      const W* ahead = block + 1 < last && rows > kMostRows ? w + (column + kWide) * k : nullptr;
      product<4>(count, x + row * k, w + column * k, bias ? bias + column : nullptr, y + row * n + column, k, n, ahead);
    }
  });
  pool::each(narrow, [&](int64_t task) {
    const int64_t column = wide_end + task * kGroup;
    product<1>(rows, x, w + column * k, bias ? bias + column : nullptr, y + column, k, n);
  });
  if (packed == n) return;
  pool::each((n - packed + kGroup - 1) / kGroup, [&](int64_t task) {
    const int64_t first = packed + task * kGroup;
    all_dots(x, w, rows, k, first, std::min(n, first + kGroup), [&](int64_t row, int64_t column, float found) {
      y[row * n + column] = from_float<Y>((bias ? to_float(bias[column]) : 0.0f) + found);
    });
  });
}

}  // namespace KERNEL_ISA

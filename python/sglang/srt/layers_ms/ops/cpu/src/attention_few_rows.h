// What a task of attention keeps of its rows, and attention of a few rows: the cache is read once, row by row.
#pragma once
#include <algorithm>
#include <limits>
#include <utility>

#include "elementwise.h"
#include "kernels.h"
#include "lines.h"

namespace KERNEL_ISA {

constexpr int64_t kKeys = 64;  // keys taken together
constexpr int64_t kAhead = 8;  // keys: their distance from those that are fetched meanwhile
constexpr float kNone = -std::numeric_limits<float>::infinity();

struct Task {
  int64_t request, kv_head, kv_heads, first_query, queries, first_key, last_key;
  int64_t piece;    // which one of the request's keys
  int64_t partial;  // where its results are kept until those of other pieces are there; -1: there are none
};

inline int64_t rows_of(const Attention& a, const Task& task) {
  return task.queries * task.kv_heads * (a.heads / a.kv_heads);
}
inline int64_t first_head(const Attention& a, const Task& task) { return task.kv_head * (a.heads / a.kv_heads); }

// What one task keeps of its rows: the largest score, the sum of weights, and the weighted sum of values.
struct Rows {
  float *most, *weight, *values;
  int64_t rows, width;
  static int64_t padded(int64_t rows) { return (rows + 15) / 16 * 16; }
  static int64_t size(int64_t rows, int64_t width) { return padded(rows) * 2 + rows * width; }
  // In memory for size(rows, width) values.
  Rows(float* memory, int64_t rows, int64_t width)
      : most(memory), weight(memory + padded(rows)), values(memory + 2 * padded(rows)), rows(rows), width(width) {}
  Rows part(int64_t first, int64_t count) const {
    Rows found = *this;
    found.most += first, found.weight += first, found.values += first * width, found.rows = count;
    return found;
  }
  void clear() {
    std::fill(most, most + rows, kNone);
    std::fill(weight, weight + rows, 0.0f);
    std::fill(values, values + rows * width, 0.0f);
  }
};

inline f32x16 largest(f32x16 a, f32x16 b) { return a > b ? a : b; }

// tanh x: the series near zero, where the difference from one of an exponential would lose digits.
inline f32x16 tanh(f32x16 x) {
  const f32x16 y = x * x;
  const f32x16 series = x + x * y * (y * (y * (y * 0.0218694885f - 0.0539682540f) + 0.133333333f) - 0.333333333f);
  const f32x16 other = 1.0f - 2.0f / (exp(2.0f * x) + 1.0f);
  return y < 0.0625f ? series : other;
}

// Whether scores are more than products times the scale; if so `finish` has multiplied by it.
inline bool finishes(const Attention& a) { return a.soft_cap > 0 || a.slopes; }

// Products [kKeys] of a query of a head -> scores; the first key lies `distance` places after the query (so less than
// 0).
inline void finish(const Attention& a, float* scores, int64_t head, int64_t distance) {
  const f32x16 steps = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const float slope = a.slopes ? a.slopes[head] : 0.0f;
  for (int64_t j = 0; j < kKeys; j += 16) {
    const f32x16 product = load(scores + j);
    f32x16 score = product * a.scale;
    if (a.soft_cap > 0) score = tanh(score / a.soft_cap) * a.soft_cap;
    score += (steps + static_cast<float>(distance + j)) * slope;
    store(scores + j, product == kNone ? splat(kNone) : score);
  }
}

// Scores [kKeys] of one row -> weights, in place; the row's statistics and values are brought up to date.
inline void softmax_step(float* scores, float scale, int64_t row, Rows& rows) {
  f32x16 most = splat(kNone);
  for (int64_t j = 0; j < kKeys; j += 16) most = largest(most, load(scores + j));
  const float known = rows.most[row], top = std::max(known, largest(most) * scale);
  if (top == kNone) {
    for (int64_t j = 0; j < kKeys; j += 16) store(scores + j, f32x16{});
    return;
  }
  f32x16 total{};
  for (int64_t j = 0; j < kKeys; j += 16) {
    const f32x16 score = load(scores + j);
    f32x16 weight = exp(score * scale - top);
    weight = score == kNone ? f32x16{} : weight;
    store(scores + j, weight);
    total += weight;
  }
  rows.most[row] = top;
  if (known == top) {
    rows.weight[row] += sum(total);
    return;
  }
  const float before = known == kNone ? 0.0f : exp(splat(known - top))[0];
  rows.weight[row] = rows.weight[row] * before + sum(total);
  float* values = rows.values + row * rows.width;
  for (int64_t i = 0; i < rows.width; i += 16) store(values + i, load(values + i) * before);
}

template <typename C>
struct Block {  // where kKeys neighboring rows of a request lie, from this head on; after the last, that again
  const C* row[kKeys];
  Block() = default;
  Block(const Attention& a, const void* cache, const int32_t* table, int64_t head, int64_t first, int64_t count) {
    int64_t page = first / a.page_size, offset = first % a.page_size;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t slot = table[page] * a.page_size + offset;
      row[j] = static_cast<const C*>(cache) + slot * a.row + head * a.head_dim;
      if (++offset == a.page_size) offset = 0, ++page;
    }
    for (int64_t j = count; count && j < kKeys; ++j) row[j] = row[count - 1];
  }
  Block from(int64_t value) const {
    Block moved = *this;
    for (auto& start : moved.row) start += value;
    return moved;
  }
};

// ---- few rows; the next rows are fetched while these are worked on ----

template <typename C>
inline void fetch(const C* row, int64_t size) {
  for (int64_t byte = 0; byte < size * static_cast<int64_t>(sizeof(C)); byte += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(row) + byte, 0, 2);
}

// Rows that are wanted next, fetched in their order, some lines a call, while others are multiplied. Who asks for many
// lines at once waits until most of them are there.
template <typename C>
class Upcoming {
 public:
  // The first `size` values of `count` rows, which must outlive this, by so many calls.
  Upcoming(const Block<C>& rows, int64_t count, int64_t size, int64_t calls)
      : rows_(rows.row), count_(count), bytes_(size * static_cast<int64_t>(sizeof(C))) {
    lines_ = (count * ((bytes_ + 63) / 64) + calls - 1) / std::max<int64_t>(1, calls);
  }
  void fetch() {
    for (int64_t i = 0; i < lines_ && row_ < count_; ++i) {
      __builtin_prefetch(reinterpret_cast<const char*>(rows_[row_]) + byte_, 0, 2);
      byte_ += 64;
      if (byte_ >= bytes_) byte_ = 0, ++row_;
    }
  }

 private:
  const C* const* rows_;
  int64_t count_, bytes_, lines_, row_ = 0, byte_ = 0;
};

struct Nothing {  // in their place
  void fetch() {}
};

// total[m] += products of a key with the M queries, place by place.
template <int M, typename C>
ALWAYS_INLINE void add_products(const float* q, int64_t width, const C* key, int64_t size, f32x16 (&total)[M]) {
  for (int64_t d = 0; d < size; d += 16) {
    const f32x16 x = size - d >= 16 ? load(key + d) : load_part(key + d, size - d);
    for (int m = 0; m < M; ++m) total[m] += x * load(q + m * width + d);
  }
}

// The same of four keys.
template <int M, typename C, typename Q>
ALWAYS_INLINE void add_products(const Q* q, int64_t width, const C* const (&key)[4], int64_t size,
                                f32x16 (&total)[M][4]) {
  for (int i = 0; i < 4; ++i) {
    f32x16 products[M] = {};
    add_products<M>(q, width, key[i], size, products);
    for (int m = 0; m < M; ++m) total[m][i] = products[m];
  }
}

#if defined(__AVX512BF16__)
// The same for bfloat16 queries and keys: AVX-512's dot product of pairs, exact products, sums in float32.
template <int M>
ALWAYS_INLINE void add_products(const bf16* q, int64_t width, const bf16* key, int64_t size, f32x16 (&total)[M]) {
  int64_t d = 0;
  auto add = [&](__mmask32 there) {
    const __m512bh x = (__m512bh)_mm512_maskz_loadu_epi16(there, key + d);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
      total[m] =
          (f32x16)_mm512_dpbf16_ps((__m512)total[m], x, (__m512bh)_mm512_maskz_loadu_epi16(there, q + m * width + d));
  };
  for (; d + 32 <= size; d += 32) add(~__mmask32{0});
  if (d < size) add((__mmask32{1} << (size - d)) - 1);
}

// Of four keys: what is loaded of a query meets all of them. Loops are unrolled by order here and in add_pairs: as GCC
// 12 unrolls them, they take a quarter longer.
template <int M>
ALWAYS_INLINE void add_products(const bf16* q, int64_t width, const bf16* const (&key)[4], int64_t size,
                                f32x16 (&total)[M][4]) {
  int64_t d = 0;
  auto add = [&](auto&& load_pairs) {
    __m512bh x[4];
#pragma GCC unroll 8
    for (int i = 0; i < 4; ++i) x[i] = load_pairs(key[i] + d);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const __m512bh pairs = load_pairs(q + m * width + d);
#pragma GCC unroll 8
      for (int i = 0; i < 4; ++i) total[m][i] = (f32x16)_mm512_dpbf16_ps((__m512)total[m][i], x[i], pairs);
    }
  };
  for (; d + 32 <= size; d += 32) add([](const bf16* from) { return (__m512bh)_mm512_loadu_si512(from); });
  const __mmask32 there = (__mmask32{1} << (size - d)) - 1;
  if (d < size) add([&](const bf16* from) { return (__m512bh)_mm512_maskz_loadu_epi16(there, from); });
}
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif

// The type in which queries meet keys and weights meet values: bfloat16 where queries are, the cache has bfloat16 or
// codes that stand for it, and the processor multiplies pairs of them; else float32.
template <typename T, typename C>
using Query =
    std::conditional_t<kPairs && std::is_same_v<T, bf16> && (std::is_same_v<C, bf16> || std::is_same_v<C, e4m3>), bf16,
                       float>;

// The type of rows as they meet a query of type Q: codes that meet bfloat16 are widened first.
template <typename C, typename Q>
using Held = std::conditional_t<std::is_same_v<C, e4m3> && std::is_same_v<Q, bf16>, bf16, C>;

// The first `size` values of `count` rows as they meet a query. The memory is overwritten by the next call.
template <typename Q, typename C>
inline Block<Held<C, Q>> held(const Block<C>& rows, int64_t size, int64_t count) {
#if defined(__AVX512BF16__)
  if constexpr (!std::is_same_v<Held<C, Q>, C>) {
    Block<bf16> found;
    bf16* to = scratch<Purpose::codes, bf16>(kKeys * size);
    for (int64_t j = 0; j < count; ++j, to += size) widen_codes(rows.row[j], to, size), found.row[j] = to;
    for (int64_t j = count; j < kKeys; ++j) found.row[j] = found.row[count - 1];
    return found;
  } else
#endif
    return rows;
}

// f(first, integral constant M) for rows of a group, 4, 2 or 1 at a time.
template <int M = 4, typename F>
inline void in_fours(int64_t rows, F&& f, int64_t first = 0) {
  for (; first + M <= rows; first += M) f(first, std::integral_constant<int, M>{});
  if constexpr (M > 1) in_fours<M / 2>(rows, f, first);
}

// Scores of M rows of each of `heads` key/value heads, `apart` rows of q apart, from row `first` of the group on. The
// first block of a task, which nobody has fetched, is fetched a few keys `ahead`, if that is not 0.
template <int M, typename C, typename Q>
inline void few_scores(const Attention& a, const Q* q, int64_t width, int64_t first, int64_t apart,
                       const Block<C>& keys, const Block<C>& next, int64_t count, int64_t heads, float* scores,
                       int64_t ahead) {
  const int64_t group = a.heads / a.kv_heads, all = count * heads;
  for (int64_t start = 0, j = 0, head = 0; start < all; start += 4) {  // four heads, in the order of the cache
    f32x16 total[M][4] = {};
    int64_t row[4], key[4];
    for (int64_t i = 0; i < 4; ++i) {
      key[i] = j;
      row[i] = head * group + first;
      fetch(next.row[key[i]] + head * a.head_dim, a.head_dim);
      if (ahead && j + ahead < count) fetch(keys.row[j + ahead] + head * a.head_dim, a.head_dim);
      f32x16 products[M] = {};
      add_products<M>(q + (head * apart + first) * width, width, keys.row[key[i]] + head * a.head_dim, a.head_dim,
                      products);
      for (int m = 0; m < M; ++m) total[m][i] = products[m];
      if (start + i + 1 < all && ++head == heads) head = 0, ++j;  // after the last, that again
    }
    for (int m = 0; m < M; ++m) {
      float found[4];
      sums(total[m], found);
      for (int i = 0; i < 4; ++i) scores[(row[i] + m) * kKeys + key[i]] = found[i];
    }
  }
}

// Scores of `rows` rows of each of `heads` key/value heads, `apart` rows of q apart. A head's keys meet all of its
// rows, which stay in the first cache meanwhile.
template <typename C, typename Q, typename Next>
inline void scores_of_rows(const Attention& a, const Q* q, int64_t width, int64_t rows, int64_t apart,
                           const Block<C>& keys, int64_t count, int64_t heads, float* scores, int64_t ahead,
                           Next& next) {
  for (int64_t head = 0; head < heads; ++head, q += apart * width, scores += rows * kKeys) {
    for (int64_t first = 0; first < count; first += 4) {
      const C* key[4];
#pragma GCC unroll 8
      for (int i = 0; i < 4; ++i) {
        key[i] = keys.row[first + i] + head * a.head_dim;
        if (ahead && first + i + ahead < count) fetch(keys.row[first + i + ahead] + head * a.head_dim, a.head_dim);
      }
      in_fours(rows, [&](int64_t row, auto m) {
        constexpr int M = m.value;
        next.fetch();
        f32x16 total[M][4] = {};
        add_products<M>(q + row * width, width, key, a.head_dim, total);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) sums(total[i], scores + (row + i) * kKeys + first);
      });
    }
    for (int64_t row = 0; count % 4 && row < rows; ++row)  // the last key again
      std::fill(scores + row * kKeys + count, scores + row * kKeys + (count + 3) / 4 * 4, kNone);
  }
}

// V vectors of every row, from column d on, stay in registers over all keys; `size` columns of them are there.
template <int M, int V, typename C, typename Next>
ALWAYS_INLINE void add_values(const float* weights, const Block<C>& values, int64_t d, int64_t size, int64_t count,
                              float* out, int64_t width, Next& next) {
  f32x16 total[M][V];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) total[m][v] = load(out + m * width + d + v * 16);
  for (int64_t j = 0; j < count; ++j) {
    const C* value = values.row[j] + d;
    next.fetch();
    for (int v = 0; v < V; ++v) {
      const f32x16 x = size >= (v + 1) * 16 ? load(value + v * 16) : load_part(value + v * 16, size - v * 16);
      for (int m = 0; m < M; ++m) total[m][v] += splat(weights[m * kKeys + j]) * x;
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) store(out + m * width + d + v * 16, total[m][v]);
}

#if defined(__AVX512BF16__)
// The same for pairs of keys and V * 32 columns, with weights rounded to bfloat16. Interleaving two rows of values
// within each quarter of a register puts its columns in this order: those 0 to 3 of every eight, then those 4 to 7.
template <int M, int V, typename Next>
ALWAYS_INLINE void add_pairs(const bf16* weights, const Block<bf16>& values, int64_t d, int64_t count, float* out,
                             int64_t width, Next& next) {
  __m512 low[M][V], high[M][V];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const f32x16 left = load(out + m * width + d + v * 32), right = load(out + m * width + d + v * 32 + 16);
      low[m][v] =
          (__m512)__builtin_shufflevector(left, right, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
      high[m][v] =
          (__m512)__builtin_shufflevector(left, right, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    }
  for (int64_t j = 0; j < count; j += 2) {
    const bf16 *even = values.row[j] + d, *odd = values.row[j + 1] + d;
    next.fetch();
    __m512bh pair[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      int bits;
      std::memcpy(&bits, weights + m * kKeys + j, sizeof(bits));
      pair[m] = (__m512bh)_mm512_set1_epi32(bits);
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const __m512i x = _mm512_loadu_si512(even + v * 32), y = _mm512_loadu_si512(odd + v * 32);
      const __m512bh lower = (__m512bh)_mm512_unpacklo_epi16(x, y), upper = (__m512bh)_mm512_unpackhi_epi16(x, y);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        low[m][v] = _mm512_dpbf16_ps(low[m][v], lower, pair[m]);
        high[m][v] = _mm512_dpbf16_ps(high[m][v], upper, pair[m]);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const f32x16 x = (f32x16)low[m][v], y = (f32x16)high[m][v];
      float* to = out + m * width + d + v * 32;
      store(to, __builtin_shufflevector(x, y, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23));
      store(to + 16, __builtin_shufflevector(x, y, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31));
    }
}

// -> columns that are done: all but the last few.
template <int M, typename Next>
inline int64_t add_pairs_of_values(const float* weights, const Block<bf16>& values, int64_t size, int64_t count,
                                   float* out, int64_t width, Next& next) {
  bf16 narrow[M * kKeys];
  for (int64_t j = 0; j < M * kKeys; j += 16) store(narrow + j, load(weights + j));
  constexpr int most = M > 4 ? 1 : M > 2 ? 2 : 4;  // what fits the registers
  int64_t d = 0;
  for (; d + most * 32 <= size; d += most * 32) add_pairs<M, most>(narrow, values, d, count, out, width, next);
  for (; d + 32 <= size; d += 32) add_pairs<M, 1>(narrow, values, d, count, out, width, next);
  return d;
}
#endif

template <int M, typename Q, typename C, typename Next>
inline void few_values(const float* weights, const Block<C>& values, int64_t size, int64_t count, float* out,
                       int64_t width, Next& next) {
  int64_t d = 0;
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<Q, bf16>) d = add_pairs_of_values<M>(weights, values, size, count, out, width, next);
#endif
  for (; d + 64 <= size; d += 64) add_values<M, 4>(weights, values, d, 64, count, out, width, next);
  for (; d < size; d += 16)
    add_values<M, 1>(weights, values, d, std::min<int64_t>(16, size - d), count, out, width, next);
}

// So many rows of a group, at most, meet a value together.
template <typename Q>
constexpr int kTogetherRows = std::is_same_v<Q, bf16> ? 8 : 4;

// Keys of a request that are met next.
struct Keys {
  const int32_t* table;
  int64_t head, heads, first, count;
};

// Queries of a task that all see all of its keys. Rows of one key/value head lie `apart` from those of the next one, in
// q and in state. `then`: what this thread is likely to meet after the task.
template <typename C, typename Q>
inline void few_rows(const Attention& a, const Q* q, const int32_t* table, const Task& task, int64_t apart,
                     const Keys& then, Rows& state) {
  constexpr bool pairs = std::is_same_v<Q, bf16>;
  const int64_t group = a.heads / a.kv_heads, width = state.width, rows = task.queries * group;
  const int64_t place = a.seq_lens[task.request] - a.query_lens[task.request] + task.first_query;
  float* scores = scratch<Purpose::scores, float>(task.kv_heads * rows * kKeys);
  auto each_row = [&](auto&& f) {  // its scores, its row in q and state, its query, and its head
    for (int64_t head = 0; head < task.kv_heads; ++head)
      for (int64_t row = 0; row < rows; ++row)
        f(scores + (head * rows + row) * kKeys, head * apart + row, row / group, head * group + row % group);
  };
  for (int64_t first = task.first_key; first < task.last_key; first += kKeys) {
    const int64_t count = std::min(kKeys, task.last_key - first), after = first + count;
    const Keys met = after == task.last_key
                         ? then
                         : Keys{table, task.kv_head, task.kv_heads, after, std::min(kKeys, task.last_key - after)};
    const Block<C> keys(a, a.k_cache, table, task.kv_head, first, count);
    const Block<C> values(a, a.v_cache, table, task.kv_head, first, count);
    const Block<C> next(a, a.k_cache, met.table, met.head, met.first, met.count);
    const int64_t ahead = first == task.first_key ? kAhead : 0, fours = (count + 3) / 4 * ((rows + 3) / 4);
    Upcoming<C> upcoming(values, count, task.kv_heads * a.head_dim, fours * task.kv_heads);
    std::fill(scores, scores + task.kv_heads * rows * kKeys, kNone);
    if constexpr (std::is_same_v<Held<C, Q>, C>) {
      if (task.queries == 1)
        in_fours(rows, [&](int64_t row, auto m) {
          few_scores<m.value>(a, q, width, row, apart, keys, values, count, task.kv_heads, scores,
                              row == 0 ? ahead : 0);
        });
      else
        scores_of_rows(a, q, width, rows, apart, keys, count, task.kv_heads, scores, ahead, upcoming);
    } else {  // head by head: what is widened stays in the first cache
      for (int64_t head = 0; head < task.kv_heads; ++head) {
        const auto part = held<Q>(keys.from(head * a.head_dim), a.head_dim, count);
        scores_of_rows(a, q + head * apart * width, width, rows, apart, part, count, 1, scores + head * rows * kKeys, 0,
                       upcoming);
      }
    }
    if (finishes(a))
      each_row([&](float* own, int64_t, int64_t query, int64_t head) {
        finish(a, own, first_head(a, task) + head, first - place - query);
      });
    const float scale = finishes(a) ? 1.0f : a.scale;
    each_row([&](float* own, int64_t row, int64_t, int64_t) { softmax_step(own, scale, row, state); });
    auto add_values_of = [&](int64_t head, auto& fetched) {
      const auto part = held<Q>(values.from(head * a.head_dim), a.head_dim, count);
      in_fours<kTogetherRows<Q>>(rows, [&](int64_t row, auto m) {
        few_values<m.value, Q>(scores + (head * rows + row) * kKeys, part, a.head_dim, count,
                               state.values + (head * apart + row) * width, width, fetched);
      });
    };
    if (task.queries == 1) {  // takes less time than memory
      Nothing nothing;
      for (int64_t head = 0; head < task.kv_heads; ++head) {
        for (int64_t j = 0; j < met.count; ++j) fetch(next.row[j] + head * a.head_dim, a.head_dim);
        add_values_of(head, nothing);
      }
    } else {
      const int64_t passes = std::max<int64_t>(1, rows * a.head_dim / 256) * (pairs ? (count + 1) / 2 : count);
      upcoming = Upcoming<C>(next, met.count, met.heads * a.head_dim, passes * task.kv_heads);
      for (int64_t head = 0; head < task.kv_heads; ++head) add_values_of(head, upcoming);
    }
  }
}

}  // namespace KERNEL_ISA

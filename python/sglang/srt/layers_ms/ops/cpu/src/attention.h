// Causal attention over the paged cache, online softmax (Milakov and Gimelshein, 2018): memory linear in length.
//
// One key/value head serves a group of query heads, so its keys are read once for all of them. Requests with one
// query are split over their keys; the others over blocks of queries, each of which ends at its last query's place.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "elementwise.h"
#include "kernels.h"
#include "linear.h"

namespace KERNEL_ISA {

constexpr int64_t kKeys = 64;          // keys taken together
constexpr int64_t kRows = 256;         // query rows (queries times heads of a group) of a task, about
constexpr int64_t kSplit = 512;        // keys of a task where a request has one query
constexpr float kNone = -std::numeric_limits<float>::infinity();

struct Task {
  int64_t request, kv_head, first_query, queries, first_key, last_key, partial;
};

// What one task keeps of its rows: the largest score, the sum of weights, and the weighted sum of values.
struct Rows {
  std::vector<float> most, weight, values;
  int64_t width;
  Rows(int64_t rows, int64_t width)
      : most(rows, kNone), weight(rows, 0.0f), values(rows * width, 0.0f), width(width) {}
};

template <typename T>
inline f32x16 load_part(const T* p, int64_t count) {
  f32x16 x{};
  for (int64_t i = 0; i < count; ++i) x[i] = to_float(p[i]);
  return x;
}

template <typename T>
inline void widen(const T* from, float* to, int64_t size) {
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) store(to + i, load(from + i));
  if (i < size) store(to + i, load_part(from + i, size - i));
}

inline f32x16 largest(f32x16 a, f32x16 b) { return a > b ? a : b; }

// Scores [kKeys] of one row -> scaled, weights, in place; the row's statistics and values are brought up to date.
inline void softmax_step(float* scores, float scale, int64_t row, Rows& rows) {
  f32x16 most = splat(kNone);
  for (int64_t j = 0; j < kKeys; j += 16) {
    store(scores + j, load(scores + j) * scale);
    most = largest(most, load(scores + j));
  }
  float top = rows.most[row];
  for (int i = 0; i < 16; ++i) top = std::max(top, most[i]);
  if (top == kNone) {
    for (int64_t j = 0; j < kKeys; j += 16) store(scores + j, f32x16{});
    return;
  }
  f32x16 total{};
  for (int64_t j = 0; j < kKeys; j += 16) {
    const f32x16 score = load(scores + j);
    f32x16 weight = exp(score - top);
    weight = score == kNone ? f32x16{} : weight;
    store(scores + j, weight);
    total += weight;
  }
  const float before = rows.most[row] == kNone ? 0.0f : std::exp(rows.most[row] - top);
  rows.weight[row] = rows.weight[row] * before + sum(total);
  rows.most[row] = top;
  float* values = rows.values.data() + row * rows.width;
  if (before != 1.0f)
    for (int64_t i = 0; i < rows.width; i += 16) store(values + i, load(values + i) * before);
}

template <typename C>
struct Block {  // where kKeys neighbouring rows of one key/value head of one request lie
  const C* row[kKeys];
  Block(const Attention& a, const void* cache, const int32_t* table, int64_t head, int64_t first, int64_t count) {
    int64_t page = first / a.page_size, offset = first % a.page_size;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t slot = table[page] * a.page_size + offset;
      row[j] = static_cast<const C*>(cache) + (slot * a.kv_heads + head) * a.head_dim;
      if (++offset == a.page_size) offset = 0, ++page;
    }
  }
};

// ---- few rows: read the cache once, row by row ----

template <int M, typename C>
inline void few_scores(const float* q, int64_t width, const Block<C>& keys, int64_t size, int64_t count,
                       float* scores) {
  for (int64_t j = 0; j < count; ++j) {
    const C* key = keys.row[j];
    f32x16 total[M] = {};
    int64_t d = 0;
    for (; d + 16 <= size; d += 16) {
      const f32x16 x = load(key + d);
      for (int m = 0; m < M; ++m) total[m] += x * load(q + m * width + d);
    }
    if (d < size) {
      const f32x16 x = load_part(key + d, size - d);
      for (int m = 0; m < M; ++m) total[m] += x * load(q + m * width + d);
    }
    for (int m = 0; m < M; ++m) scores[m * kKeys + j] = sum(total[m]);
  }
}

#if defined(__AVX512BF16__)
// The same for bfloat16 queries and keys: AVX-512's dot product of pairs, exact products, sums in float32.
template <int M>
inline void few_scores(const bf16* q, int64_t width, const Block<bf16>& keys, int64_t size, int64_t count,
                       float* scores) {
  for (int64_t j = 0; j < count; ++j) {
    __m512 total[M] = {};
    for (int64_t d = 0; d < size; d += 32) {
      const __mmask32 there = size - d >= 32 ? ~__mmask32{0} : (__mmask32{1} << (size - d)) - 1;
      const __m512bh key = (__m512bh)_mm512_maskz_loadu_epi16(there, keys.row[j] + d);
      for (int m = 0; m < M; ++m)
        total[m] = _mm512_dpbf16_ps(total[m], key, (__m512bh)_mm512_maskz_loadu_epi16(there, q + m * width + d));
    }
    for (int m = 0; m < M; ++m) scores[m * kKeys + j] = sum((f32x16)total[m]);
  }
}
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif

// The type in which queries meet keys: bfloat16 where both are and the processor multiplies pairs, else float32.
template <typename T, typename C>
using Query = std::conditional_t<kPairs && std::is_same_v<T, bf16> && std::is_same_v<C, bf16>, bf16, float>;

// V vectors of every row, from column d on, stay in registers over all keys; `size` columns of them are there.
template <int M, int V, typename C>
inline void few_values(const float* weights, const Block<C>& values, int64_t d, int64_t size, int64_t count, float* out,
                       int64_t width) {
  f32x16 total[M][V];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) total[m][v] = load(out + m * width + d + v * 16);
  for (int64_t j = 0; j < count; ++j) {
    const C* value = values.row[j] + d;
    for (int v = 0; v < V; ++v) {
      const f32x16 x = size >= (v + 1) * 16 ? load(value + v * 16) : load_part(value + v * 16, size - v * 16);
      for (int m = 0; m < M; ++m) total[m][v] += splat(weights[m * kKeys + j]) * x;
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) store(out + m * width + d + v * 16, total[m][v]);
}

template <int M, typename C>
inline void all_few_values(const float* weights, const Block<C>& values, int64_t size, int64_t count, float* out,
                           int64_t width) {
  int64_t d = 0;
  for (; d + 64 <= size; d += 64) few_values<M, 4>(weights, values, d, 64, count, out, width);
  for (; d < size; d += 16) few_values<M, 1>(weights, values, d, std::min<int64_t>(16, size - d), count, out, width);
}

template <typename C, int M, typename Q>
inline void few_rows(const Attention& a, int64_t row, int64_t rows, const Q* q, const int32_t* table,
                     const Task& task, Rows& state) {
  for (; row + M <= rows; row += M) {
    for (int64_t first = task.first_key; first < task.last_key; first += kKeys) {
      const int64_t count = std::min(kKeys, task.last_key - first);
      const Block<C> keys(a, a.k_cache, table, task.kv_head, first, count);
      const Block<C> values(a, a.v_cache, table, task.kv_head, first, count);
      float scores[M * kKeys];
      std::fill(scores, scores + M * kKeys, kNone);
      few_scores<M>(q + row * state.width, state.width, keys, a.head_dim, count, scores);
      for (int m = 0; m < M; ++m) softmax_step(scores + m * kKeys, a.scale, row + m, state);
      all_few_values<M>(scores, values, a.head_dim, count, state.values.data() + row * state.width, state.width);
    }
  }
  if constexpr (M > 1) few_rows<C, M / 2, Q>(a, row, rows, q, table, task, state);
}

// ---- many rows: widen a block of keys and values once, then multiply as matrices ----

// Keys as groups of 16, in the layout of packed weights; those after the last are zero.
template <typename C, typename Q>
inline void pack_keys(const Block<C>& keys, int64_t size, int64_t count, int64_t width, Q* packed, Q* line) {
  std::fill(line, line + width, Q{});
  for (int64_t j = 0; j < kKeys; ++j) {
    Q* into = packed + j / 16 * width * 16;
    if constexpr (std::is_same_v<Q, bf16>) {
      if (j < count) std::memcpy(line, keys.row[j], size * sizeof(bf16));
      for (int64_t d = 0; d < width; d += 2) std::memcpy(into + d * 16 + j % 16 * 2, line + d, 2 * sizeof(bf16));
    } else {
      if (j < count) widen(keys.row[j], line, size);
      for (int64_t d = 0; d < width; ++d) into[d * 16 + j % 16] = line[d];
    }
    if (j + 1 == count) std::fill(line, line + width, Q{});
  }
}

// Values as groups of 16 columns, [kKeys][16] each, float32; those after the last are zero.
template <typename C>
inline void pack_values(const Block<C>& values, int64_t size, int64_t count, int64_t width, float* packed,
                        float* line) {
  std::fill(line, line + width, 0.0f);
  for (int64_t j = 0; j < kKeys; ++j) {
    if (j < count) widen(values.row[j], line, size);
    if (j == count) std::fill(line, line + width, 0.0f);
    for (int64_t d = 0; d < width; d += 16) store(packed + d * kKeys + j * 16, load(line + d));
  }
}

template <typename C, typename Q>
inline void many_rows(const Attention& a, int64_t rows, const Q* q, const int32_t* table, const Task& task,
                      Rows& state) {
  const int64_t width = state.width, size = a.head_dim, group = a.heads / a.kv_heads;
  const int64_t first_place = a.seq_lens[task.request] - a.query_lens[task.request] + task.first_query;
  std::vector<Q> k(kKeys * width), key(width);
  std::vector<float> v(kKeys * width), value(width), scores(rows * kKeys), found(rows * width);
  for (int64_t first = task.first_key; first < task.last_key; first += kKeys) {
    const int64_t count = std::min(kKeys, task.last_key - first);
    pack_keys(Block<C>(a, a.k_cache, table, task.kv_head, first, count), size, count, width, k.data(), key.data());
    pack_values(Block<C>(a, a.v_cache, table, task.kv_head, first, count), size, count, width, v.data(), value.data());
    tiles<Q, float, 4>(rows, q, k.data(), static_cast<const Q*>(nullptr), scores.data(), width, kKeys);
    for (int64_t row = 0; row < rows; ++row) {
      float* line_of_scores = scores.data() + row * kKeys;
      const int64_t seen = std::min(count, first_place + row / group + 1 - first);
      for (int64_t j = std::max<int64_t>(seen, 0); j < kKeys; ++j) line_of_scores[j] = kNone;
      softmax_step(line_of_scores, a.scale, row, state);
    }
    for (int64_t d = 0; d < width; d += 16)
      tiles<float, float, 1>(rows, scores.data(), v.data() + d * kKeys, nullptr, found.data() + d, kKeys, width);
    for (int64_t i = 0; i < rows * width; i += 16)
      store(state.values.data() + i, load(state.values.data() + i) + load(found.data() + i));
  }
}

// ---- tasks ----

inline std::vector<Task> tasks_of(const Attention& a, int64_t& partials) {
  const int64_t group = a.heads / a.kv_heads, block = std::max<int64_t>(1, kRows / group);
  std::vector<Task> tasks;
  partials = 0;
  for (int64_t request = 0; request < a.requests; ++request) {
    const int64_t queries = a.query_lens[request], length = a.seq_lens[request];
    for (int64_t head = 0; head < a.kv_heads; ++head) {
      if (queries == 1) {
        for (int64_t key = 0; key < length; key += kSplit)
          tasks.push_back({request, head, 0, 1, key, std::min(length, key + kSplit), partials++});
      } else {
        for (int64_t query = (queries - 1) / block * block; query >= 0; query -= block) {  // the longest first
          const int64_t count = std::min(block, queries - query);
          tasks.push_back({request, head, query, count, 0, length - queries + query + count, -1});
        }
      }
    }
  }
  return tasks;
}

template <typename T>
inline void write_rows(const Attention& a, const Task& task, int64_t first_token, const Rows& state) {
  const int64_t group = a.heads / a.kv_heads, rows = task.queries * group;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t token = first_token + task.first_query + row / group, head = task.kv_head * group + row % group;
    T* out = static_cast<T*>(const_cast<void*>(a.out)) + (token * a.heads + head) * a.head_dim;
    const float* values = state.values.data() + row * state.width;
    const float factor = 1.0f / state.weight[row];
    over(a.head_dim, [&](int64_t i) { store(out + i, load(values + i) * factor); },
         [&](int64_t i) { out[i] = from_float<T>(values[i] * factor); });
  }
}

inline void merge(Rows& into, const Rows& other) {
  for (size_t row = 0; row < into.most.size(); ++row) {
    const float top = std::max(into.most[row], other.most[row]);
    const float a = std::exp(into.most[row] - top), b = std::exp(other.most[row] - top);
    into.most[row] = top;
    into.weight[row] = into.weight[row] * a + other.weight[row] * b;
    for (int64_t i = 0; i < into.width; ++i) {
      float& value = into.values[row * into.width + i];
      value = value * a + other.values[row * into.width + i] * b;
    }
  }
}

template <typename T, typename C>
void attention_as(const Attention& a) {
  const int64_t group = a.heads / a.kv_heads, width = (a.head_dim + 15) / 16 * 16;
  std::vector<int64_t> starts(a.requests + 1, 0);
  for (int64_t i = 0; i < a.requests; ++i) starts[i + 1] = starts[i] + a.query_lens[i];
  int64_t partials;
  const std::vector<Task> tasks = tasks_of(a, partials);
  std::vector<Rows> kept(partials, Rows(group, width));
  pool::each(static_cast<int64_t>(tasks.size()), [&](int64_t index) {
    const Task& task = tasks[index];
    const int32_t* table = a.block_tables + task.request * a.blocks;
    const int64_t rows = task.queries * group, first_token = starts[task.request];
    using Q = Query<T, C>;
    std::vector<Q> q(rows * width, Q{});
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t token = first_token + task.first_query + row / group, head = task.kv_head * group + row % group;
      const T* from = static_cast<const T*>(a.q) + (token * a.heads + head) * a.head_dim;
      if constexpr (std::is_same_v<Q, T>)
        std::copy(from, from + a.head_dim, q.data() + row * width);
      else
        widen(from, q.data() + row * width, a.head_dim);
    }
    if (task.partial >= 0) {
      few_rows<C, 4, Q>(a, 0, rows, q.data(), table, task, kept[task.partial]);
      return;
    }
    Rows state(rows, width);
    many_rows<C, Q>(a, rows, q.data(), table, task, state);
    write_rows<T>(a, task, first_token, state);
  });
  for (size_t i = 0; i < tasks.size(); ++i) {  // one query: add up the pieces of its keys
    if (tasks[i].partial < 0 || tasks[i].first_key != 0) continue;
    Rows& state = kept[tasks[i].partial];
    for (size_t j = i + 1; j < tasks.size() && tasks[j].first_key != 0; ++j) merge(state, kept[tasks[j].partial]);
    write_rows<T>(a, tasks[i], starts[tasks[i].request], state);
  }
}

}  // namespace KERNEL_ISA

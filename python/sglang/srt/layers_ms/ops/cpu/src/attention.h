// Causal attention over the paged cache, online softmax (Milakov and Gimelshein, 2018): memory linear in length.
//
// One key/value head serves a group of query heads, so its keys are read once for all of them. Requests with few
// queries are split over their keys into pieces, all heads together, since the heads of a token lie side by side in the
// cache, or where there are few pieces neighboring ones; the others over heads and blocks of queries, each of which
// ends at the last place that one of its queries sees. Which keys and queries are a task's depends on its own request
// alone, and so do its results. Each of a few queries has, to the last bit, what it has alone. Where there is a window,
// tasks begin with the first key that one of their queries sees. Bidirectional queries reach past their own place.
#pragma once
#include <algorithm>
#include <utility>
#include <vector>

#include "amx_products.h"
#include "attention_few_rows.h"
#include "linear.h"

namespace KERNEL_ISA {

constexpr int64_t kRows = 512;   // query rows (queries times heads of a group) of a task, about
constexpr int64_t kFew = 16;     // queries of a request that are split over keys
constexpr int64_t kSplit = 128;  // keys of a task of theirs
constexpr int64_t kShared = 16;  // query heads that make a matrix with the keys of one head

// ---- many rows: pack a block of keys and values once, then multiply as matrices ----

// Swaps the blocks of `size` lanes of a that lie beside the diagonal with those of b.
template <int size, size_t... lane>
inline void swap_blocks(u32x16& a, u32x16& b, std::index_sequence<lane...>) {
  const u32x16 low = __builtin_shufflevector(a, b, (lane & size ? 16 + lane - size : lane)...);
  b = __builtin_shufflevector(a, b, (lane & size ? 16 + lane : lane + size)...);
  a = low;
}

// rows[i][j] <- rows[j][i].
template <int size = 8>
inline void transpose(u32x16 (&rows)[16]) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i)
    if (!(i & size)) swap_blocks<size>(rows[i], rows[i + size], std::make_index_sequence<16>());
  if constexpr (size > 1) transpose<size / 2>(rows);
}

// Keys as a block of 64 columns of packed weights, pair by pair, as far as whole vectors go -> how far that is.
inline int64_t pack_pairs_of_keys(const Block<bf16>& keys, int64_t size, int64_t count, bf16* packed) {
  for (int64_t first = 0; first < kKeys; first += 16)
    for (int64_t d = 0; d + 32 <= size; d += 32) {
      u32x16 rows[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        rows[i] = u32x16{};
        if (first + i < count) std::memcpy(&rows[i], keys.row[first + i] + d, sizeof(u32x16));
      }
      transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) std::memcpy(packed + (d + 2 * i) * kKeys + first * 2, &rows[i], sizeof(u32x16));
    }
  return size / 32 * 32;
}

// Keys as a block of 64 columns of packed weights; those after the last are zero.
template <typename C, typename Q>
inline void pack_keys(const Block<C>& keys, int64_t size, int64_t count, int64_t width, Q* packed, Q* line) {
  int64_t done = 0;
  if constexpr (std::is_same_v<Q, bf16>) done = pack_pairs_of_keys(keys, size, count, packed);
  if (done == width) return;
  std::fill(line, line + width, Q{});
  for (int64_t j = 0; j < kKeys; ++j) {
    if constexpr (std::is_same_v<Q, bf16>) {
      if (j < count) std::memcpy(line + done, keys.row[j] + done, (size - done) * sizeof(bf16));
      for (int64_t d = done; d < width; d += 2) std::memcpy(packed + d * kKeys + j * 2, line + d, 2 * sizeof(bf16));
    } else {
      if (j < count) widen(keys.row[j], line, size);
      for (int64_t d = 0; d < width; ++d) packed[d * kKeys + j] = line[d];
    }
    if (j + 1 == count) std::fill(line, line + width, Q{});
  }
}

// Values as columns of packed weights, in blocks of 64 and then of 16; those of keys after the last are zero.
// f(first column, columns) for each block.
template <typename F>
inline void over_columns(int64_t width, F&& f) {
  int64_t d = 0;
  for (; d + kWide <= width; d += kWide) f(d, std::integral_constant<int, kWide>{});
  for (; d < width; d += kGroup) f(d, std::integral_constant<int, kGroup>{});
}

template <typename C>
inline void pack_values(const Block<C>& values, int64_t size, int64_t count, int64_t width, float* packed,
                        float* line) {
  std::fill(line, line + width, 0.0f);
  for (int64_t j = 0; j < kKeys; ++j) {
    if (j < count) widen(values.row[j], line, size);
    if (j == count) std::fill(line, line + width, 0.0f);
    over_columns(width, [&](int64_t first, auto columns) {
      std::copy(line + first, line + first + columns, packed + first * kKeys + j * columns);
    });
  }
}

inline void pack_values(const Block<bf16>& values, int64_t size, int64_t count, int64_t width, bf16* packed,
                        bf16* line) {
  std::fill(line, line + 2 * width, bf16{});
  for (int64_t j = 0; j < kKeys; j += 2) {
    for (int64_t odd = 0; odd < 2; ++odd) {
      if (j + odd < count)
        std::memcpy(line + odd * width, values.row[j + odd], size * sizeof(bf16));
      else
        std::fill(line + odd * width, line + (odd + 1) * width, bf16{});
    }
    over_columns(width, [&](int64_t first, auto columns) {
      for (int64_t d = first; d < first + columns; d += 16) {
        const u32x16 even = __builtin_convertvector(*reinterpret_cast<const u16x16*>(line + d), u32x16);
        const u32x16 odd = __builtin_convertvector(*reinterpret_cast<const u16x16*>(line + width + d), u32x16);
        *reinterpret_cast<u32x16*>(packed + first * kKeys + j * columns + (d - first) * 2) = even | odd << 16;
      }
    });
  }
}

inline int64_t unseen(int64_t keys) { return std::min(kKeys, std::max<int64_t>(0, keys)); }

// How many places behind its own a query of a request of so many tokens sees, as far as there are any.
inline int64_t reach(const Attention& a, int64_t length, int64_t token, int64_t place) {
  if (a.last_seen) return std::max<int64_t>(0, std::min<int64_t>(a.last_seen[token], length - 1) - place);
  if (!a.bidirectional) return 0;
  return a.window ? a.window - 1 : length;
}

// The largest reach of neighboring queries.
inline int64_t longest_reach(const Attention& a, int64_t length, int64_t token, int64_t place, int64_t queries) {
  if (!a.last_seen) return reach(a, length, token, place);
  int64_t found = 0;
  for (int64_t i = 0; i < queries; ++i) found = std::max(found, reach(a, length, token + i, place + i));
  return found;
}

// The row after the last one that sees the key at this place, counted from the first row's query.
inline int64_t last_row(const Attention& a, int64_t rows, int64_t group, int64_t place) {
  return a.window ? std::min(rows, std::max<int64_t>(0, place + a.window) * group) : rows;
}

// Products of a task's rows with packed keys and values; and how many rows they compute at once.
struct ByRows {
  static constexpr int64_t kRowsAtOnce = 1;
  template <typename Q>
  static void scores(int64_t rows, const Q* q, const Q* k, float* scores, int64_t width) {
    tiles<4>(rows, q, k, static_cast<const Q*>(nullptr), scores, width, kKeys);
  }
  template <typename Q>
  static void add_values(int64_t rows, const Q* weights, const Q* v, float* values, int64_t width) {
    over_columns(width, [&](int64_t d, auto columns) {
      tiles<columns / kGroup, Start::sum>(rows, weights, v + d * kKeys, static_cast<const Q*>(nullptr), values + d,
                                          kKeys, width);
    });
  }
};

#if defined(__AVX512F__)
// The same of bfloat16 by AMX. Widths are whole multiples of 32, and there is room for as many rows.
struct ByTiles {
  static constexpr int64_t kRowsAtOnce = 32;
  static void scores(int64_t rows, const bf16* q, const bf16* k, float* scores, int64_t width) {
    amx::multiply<false>(q, width, k, {32, kWide}, scores, kKeys, rows, width, kKeys);
  }
  static void add_values(int64_t rows, const bf16* weights, const bf16* v, float* values, int64_t width) {
    int64_t d = 0;
    for (; d + kWide <= width; d += kWide)
      amx::multiply<true>(weights, kKeys, v + d * kKeys, {32, kWide}, values + d, width, rows, kKeys, kWide);
    amx::multiply<true>(weights, kKeys, v + d * kKeys, {kGroup * kKeys, kGroup}, values + d, width, rows, kKeys,
                        width - d);
  }
};
#endif

template <typename Products, typename C, typename Q>
inline void many_rows(const Attention& a, int64_t rows, const Q* q, const int32_t* table, const Task& task,
                      int64_t first_token, Rows& state) {
  const int64_t width = state.width, size = a.head_dim, group = a.heads / a.kv_heads;
  const int64_t length = a.seq_lens[task.request], token = first_token + task.first_query;
  const int64_t first_place = length - a.query_lens[task.request] + task.first_query;
  const int64_t room = rounded_up(rows, Products::kRowsAtOnce) * kKeys;
  Q *k = lines<Purpose::k, Q>(kKeys * width), *v = lines<Purpose::v, Q>(kKeys * width);
  Q *line = scratch<Purpose::line, Q>(2 * width), *weights = lines<Purpose::weights, Q>(room);
  float* scores = lines<Purpose::scores, float>(room);
  const float scale = finishes(a) ? 1.0f : a.scale;
  const int64_t behind = longest_reach(a, length, token, first_place, task.queries);
  for (int64_t first = task.first_key; first < task.last_key; first += kKeys) {
    const int64_t count = std::min(kKeys, task.last_key - first);
    // Rows before this one see no key of the block, nor do those from the end on; but some are computed with others.
    const int64_t seeing = std::max<int64_t>(0, first - first_place - behind) * group;
    const int64_t row = seeing / Products::kRowsAtOnce * Products::kRowsAtOnce;
    const int64_t end = last_row(a, rows, group, first + count - 1 - first_place);
    const int64_t computed = rounded_up(end - row, Products::kRowsAtOnce);
    if (task.queries <= kFew && first + kKeys < task.last_key) {
      const int64_t after = first + kKeys;
      const Block<C> next(a, a.k_cache, table, task.kv_head, after, std::min(kKeys, task.last_key - after));
      for (const C* each : next.row) fetch(each, size);
    }
    const Block<C> keys(a, a.k_cache, table, task.kv_head, first, count);
    const Block<C> values(a, a.v_cache, table, task.kv_head, first, count);
    pack_keys(held<Q>(keys, size, count), size, count, width, k, line);
    pack_values(held<Q>(values, size, count), size, count, width, v, line);
    Products::scores(computed, q + row * width, k, scores, width);
    for (int64_t i = row; i < end; ++i) {
      float* line_of_scores = scores + (i - row) * kKeys;
      const int64_t place = first_place + i / group, last = place + reach(a, length, token + i / group, place);
      for (int64_t j = std::max<int64_t>(0, std::min(count, last + 1 - first)); j < kKeys; ++j)
        line_of_scores[j] = kNone;
      if (a.window) std::fill(line_of_scores, line_of_scores + unseen(place + 1 - a.window - first), kNone);
      if (finishes(a)) finish(a, line_of_scores, task.kv_head * group + i % group, first - place);
      softmax_step(line_of_scores, scale, i, state);
      for (int64_t j = 0; j < kKeys; j += 16) store(weights + (i - row) * kKeys + j, load(line_of_scores + j));
    }
    std::fill(weights + (end - row) * kKeys, weights + computed * kKeys, Q{});
    Products::add_values(computed, weights, v, state.values + row * width, width);
  }
}

// ---- tasks ----

// The first key that a query at this place sees.
inline int64_t first_seen(const Attention& a, int64_t place) {
  return a.window ? std::max<int64_t>(0, place + 1 - a.window) : 0;
}

// Drafts that are verified, tails of cached prompts, and steps of one token. What reaches past its own place is not
// among them.
inline bool few_queries(const Attention& a, int64_t request) {
  const int64_t queries = a.query_lens[request];
  return queries == 1 || (queries > 1 && queries <= kFew && !a.bidirectional && !a.last_seen);
}

// Into how many pieces the keys are split that this query of a request sees. Later queries have no fewer.
inline int64_t pieces_of(const Attention& a, int64_t request, int64_t query) {
  const int64_t place = a.seq_lens[request] - a.query_lens[request] + query;
  return (place + 1 - first_seen(a, place) + kSplit - 1) / kSplit;
}

// The pieces of a request with few queries, each in so many parts of the heads. `partials` counts queries.
inline void add_pieces(const Attention& a, int64_t request, int64_t parts, std::vector<Task>& tasks,
                       int64_t& partials) {
  const int64_t queries = a.query_lens[request], pieces = pieces_of(a, request, queries - 1);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t head = part * a.kv_heads / parts, heads = (part + 1) * a.kv_heads / parts - head;
      tasks.push_back({request, head, heads, 0, queries, 0, 0, piece, pieces > 1 ? partials : -1});
    }
    if (pieces > 1) partials += queries;
  }
}

// The first key of a piece that one of its queries sees.
inline int64_t first_key(const Attention& a, const Task& piece, int64_t query) {
  return first_seen(a, a.seq_lens[piece.request] - a.query_lens[piece.request] + query) + piece.piece * kSplit;
}

// The first keys of a task of few queries; none of another one's.
inline Keys first_keys(const Attention& a, const Task& task) {
  if (!few_queries(a, task.request)) return {};
  const int64_t first = first_key(a, task, 0), left = a.seq_lens[task.request] - first;
  const int32_t* table = a.block_tables + task.request * a.blocks;
  return {table, task.kv_head, task.kv_heads, first, std::min(kKeys, std::max<int64_t>(0, left))};
}

// f(task) for the parts of a piece, in the order in which each of its queries would meet them alone: queries that all
// see the keys of the part, all of them as far as their blocks of keys are the same, then each for itself.
template <typename F>
inline void over_parts(const Attention& a, const Task& piece, F&& f) {
  const int64_t queries = piece.queries, before = a.seq_lens[piece.request] - queries;
  auto begin = [&](int64_t query) { return first_key(a, piece, query); };
  auto end = [&](int64_t query) { return std::min(before + query + 1, begin(query) + kSplit); };
  auto part = [&](int64_t query, int64_t count, int64_t first, int64_t last) {
    Task task = piece;
    task.first_query = query, task.queries = count, task.first_key = first, task.last_key = last;
    if (first < last) f(task);
  };
  if (queries == 1) return part(0, 1, begin(0), end(0));
  int64_t done = 0;
  if (begin(0) == begin(queries - 1)) done = std::max<int64_t>(0, end(0) - begin(0)) / kKeys * kKeys;
  part(0, queries, begin(0), begin(0) + done);
  for (; done < kSplit; done += kKeys)
    for (int64_t query = 0; query < queries; ++query) {
      const int64_t first = begin(query) + done;
      part(query, 1, first, std::min(end(query), first + kKeys));
    }
}

inline std::vector<Task> tasks_of(const Attention& a, int64_t& partials) {
  const int64_t group = a.heads / a.kv_heads, block = std::max<int64_t>(1, kRows / group);
  int64_t pieces = 0, token = 0;
  for (int64_t request = 0; request < a.requests; ++request)
    if (few_queries(a, request)) pieces += pieces_of(a, request, a.query_lens[request] - 1);
  // Two tasks a thread, as far as heads go: pieces differ in length.
  const int64_t parts = pieces ? std::min(a.kv_heads, (2 * pool::threads() + pieces - 1) / pieces) : 1;
  std::vector<Task> tasks;
  partials = 0;
  for (int64_t request = 0; request < a.requests; ++request) {
    const int64_t queries = a.query_lens[request], length = a.seq_lens[request];
    const bool few = few_queries(a, request);
    if (few) add_pieces(a, request, parts, tasks, partials);
    for (int64_t head = 0; !few && queries > 0 && head < a.kv_heads; ++head)
      for (int64_t query = (queries - 1) / block * block; query >= 0; query -= block) {  // the longest first
        const int64_t count = std::min(block, queries - query);
        const int64_t place = length - queries + query;
        // The last query's own place is not behind that of the one that reaches furthest.
        const int64_t last = place + count + longest_reach(a, length, token + query, place, count);
        tasks.push_back({request, head, 1, query, count, first_seen(a, place), std::min(length, last), 0, -1});
      }
    token += queries;
  }
  return tasks;
}

// f(row, query, head) for the rows of some of a task's queries: those of each key/value head lie query by query.
template <typename F>
inline void over_rows_of(const Attention& a, const Task& task, int64_t first, int64_t last, F&& f) {
  const int64_t group = a.heads / a.kv_heads;
  for (int64_t kv_head = 0; kv_head < task.kv_heads; ++kv_head)
    for (int64_t query = first; query < last; ++query)
      for (int64_t head = 0; head < group; ++head)
        f((kv_head * task.queries + query) * group + head, query, (task.kv_head + kv_head) * group + head);
}

template <typename T>
inline void write_rows(const Attention& a, const Task& task, int64_t first, int64_t last, int64_t first_token,
                       const Rows& state) {
  over_rows_of(a, task, first, last, [&](int64_t row, int64_t query, int64_t head) {
    T* out = static_cast<T*>(a.out) + ((first_token + task.first_query + query) * a.heads + head) * a.head_dim;
    const float* values = state.values + row * state.width;
    const float sink = a.sinks ? std::exp(a.sinks[head] - state.most[row]) : 0.0f;
    const float factor = (a.kv_scales ? a.kv_scales[1] : 1.0f) / (state.weight[row] + sink);
    over(
        a.head_dim, [&](int64_t i) { store(out + i, load(values + i) * factor); },
        [&](int64_t i) { out[i] = from_float<T>(values[i] * factor); });
  });
}

// A row's results in some pieces, as they count together -> in those of the first one.
inline void merge(const std::vector<Rows>& pieces, int64_t row) {
  const int64_t count = static_cast<int64_t>(pieces.size());
  Rows into = pieces[0];
  float* factors = scratch<Purpose::factors, float>(Rows::padded(count));
  float top = kNone, weight = 0;
  for (int64_t i = 0; i < count; ++i) factors[i] = pieces[i].most[row], top = std::max(top, factors[i]);
  for (int64_t i = 0; i < count; i += 16) store(factors + i, exp(load(factors + i) - top));
  for (int64_t i = 0; i < count; ++i) weight += pieces[i].weight[row] * factors[i];
  into.most[row] = top;
  into.weight[row] = weight;
  auto add = [&](int64_t d, auto columns) {
    f32x16 total[columns] = {};
    for (int64_t i = 0; i < count; ++i)
      for (int v = 0; v < columns; ++v) total[v] += load(pieces[i].values + row * into.width + d + v * 16) * factors[i];
    for (int v = 0; v < columns; ++v) store(into.values + row * into.width + d + v * 16, total[v]);
  };
  int64_t d = 0;
  for (; d + 64 <= into.width; d += 64) add(d, std::integral_constant<int, 4>{});
  for (; d < into.width; d += 16) add(d, std::integral_constant<int, 1>{});
}

template <typename T, typename Q>
inline void copy_queries(const Attention& a, const Task& task, int64_t first_token, int64_t width, Q* q) {
  over_rows_of(a, task, 0, task.queries, [&](int64_t row, int64_t query, int64_t head) {
    const int64_t token = first_token + task.first_query + query;
    const T* from = static_cast<const T*>(a.q) + (token * a.heads + head) * a.head_dim;
    Q* to = q + row * width;
    if constexpr (std::is_same_v<Q, T>)
      std::copy(from, from + a.head_dim, to);
    else
      widen(from, to, a.head_dim);
    std::fill(to + a.head_dim, to + width, Q{});
  });
}

// A task of many queries, from its rows of q to its rows of the result.
template <typename Products, typename T, typename C, typename Q>
inline void attend_many(const Attention& a, const int32_t* table, const Task& task, int64_t first_token) {
  const int64_t width = rounded_up(a.head_dim, std::max<int64_t>(kGroup, Products::kRowsAtOnce));
  const int64_t rows = rows_of(a, task), room = rounded_up(rows, Products::kRowsAtOnce);
  Q* q = lines<Purpose::q, Q>(room * width);
  copy_queries<T>(a, task, first_token, width, q);
  std::fill(q + rows * width, q + room * width, Q{});
  Rows state(lines<Purpose::rows, float>(Rows::size(room, width)), room, width);
  state.clear();
  many_rows<Products, C>(a, rows, q, table, task, first_token, state);
  write_rows<T>(a, task, 0, task.queries, first_token, state);
}

template <typename T, typename C>
void paged_attention_as(const Attention& given) {
  Attention a = given;
  if (a.kv_scales) a.scale *= a.kv_scales[0];
  const int64_t width = (a.head_dim + 15) / 16 * 16;
  std::vector<int64_t> starts(a.requests + 1, 0);
  for (int64_t i = 0; i < a.requests; ++i) starts[i + 1] = starts[i] + a.query_lens[i];
  int64_t partials;
  const std::vector<Task> tasks = tasks_of(a, partials);
  const int64_t group = a.heads / a.kv_heads, kept_size = Rows::size(a.heads, width);
  float* kept = scratch<Purpose::partials, float>(partials * kept_size);
  auto partial = [&](const Task& task, int64_t piece) {
    const Rows all(kept + (task.partial + piece * task.queries) * kept_size, task.queries * a.heads, width);
    return all.part(task.queries * task.kv_head * group, rows_of(a, task));
  };
  // So many heads of one row, as latent attention has them, are worth packing what they share.
  const bool packs = kPairs && a.kv_heads == 1 && a.heads >= kShared;
  pool::each(static_cast<int64_t>(tasks.size()), [&](int64_t index) {
    using Q = Query<T, C>;
    const Task& task = tasks[index];
    const int32_t* table = a.block_tables + task.request * a.blocks;
    const int64_t rows = rows_of(a, task), first_token = starts[task.request];
    if (!few_queries(a, task.request)) {
#if defined(__AVX512F__)
      if constexpr (std::is_same_v<T, bf16> && std::is_same_v<C, bf16>)
        if (bf16_tiles) {
          const amx::Registers registers;
          return attend_many<ByTiles, T, C, bf16>(a, table, task, first_token);
        }
#endif
      return attend_many<ByRows, T, C, Q>(a, table, task, first_token);
    }
    Q* q = scratch<Purpose::q, Q>(rows * width);
    copy_queries<T>(a, task, first_token, width, q);
    Rows state = task.partial >= 0 ? partial(task, 0)
                                   : Rows(scratch<Purpose::rows, float>(Rows::size(rows, width)), rows, width);
    state.clear();
    const size_t later = index + pool::threads();  // this thread's next task, if all take as long
    const Keys then = later < tasks.size() ? first_keys(a, tasks[later]) : Keys{};
    over_parts(a, task, [&](const Task& part) {
      const int64_t row = part.first_query * group;
      Rows own = state.part(row, rows - row);
      if (packs)
        many_rows<ByRows, C>(a, rows_of(a, part), q + row * width, table, part, first_token, own);
      else
        few_rows<C, Q>(a, q + row * width, table, part, task.queries * group,
                       part.queries == task.queries && part.queries > 1 ? then : Keys{}, own);
    });
    if (task.partial < 0) write_rows<T>(a, task, 0, task.queries, first_token, state);
  });
  if (partials == 0) return;
  std::vector<std::pair<Task, int64_t>> merged;  // of requests with several pieces, and each of their queries
  for (const Task& task : tasks)
    for (int64_t query = 0; task.partial >= 0 && task.piece == 0 && query < task.queries; ++query)
      merged.emplace_back(task, query);
  pool::each(static_cast<int64_t>(merged.size()), [&](int64_t index) {
    const auto& [task, query] = merged[index];
    const Rows state = partial(task, 0);
    std::vector<Rows> pieces;
    for (int64_t piece = 0; piece < pieces_of(a, task.request, query); ++piece) pieces.push_back(partial(task, piece));
    if (pieces.size() > 1)
      over_rows_of(a, task, query, query + 1, [&](int64_t row, int64_t, int64_t) { merge(pieces, row); });
    write_rows<T>(a, task, query, query + 1, starts[task.request], state);
  });
}

}  // namespace KERNEL_ISA

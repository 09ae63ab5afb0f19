// Multi-head latent attention (DeepSeek-AI, 2024, DeepSeek-V2): a token's keys and values of all heads are products of
// one cached row with weights, and there are two ways to the same result.
//
// Absorbed: queries are multiplied by the keys' weights, attention runs over the cached rows themselves, read once for
// all heads, and what it finds is multiplied by the values' weights. Up-projected: keys and values of each head are
// computed from the cached rows first. The former costs more a pair of query and key, the latter something a key: each
// request goes the way that costs less for as many queries as it has, and its results depend on nothing else.
#pragma once
#include "attention.h"
#include "lora.h"

namespace KERNEL_ISA {

template <typename From, typename To>
inline void convert(const From* from, To* to, int64_t size) {
  if constexpr (std::is_same_v<From, To>)
    std::copy(from, from + size, to);
  else
    over(
        size, [&](int64_t i) { store(to + i, load(from + i)); },
        [&](int64_t i) { to[i] = from_float<To>(to_float(from[i])); });
}

template <typename T, typename C>
void mla_to_cache_as(const calls::mla_to_cache& a) {
  const int64_t size = a.nope + a.rope, width = a.rank + a.rope, half = a.rope / 2;
  over_rows(a.tokens, a.heads * size + width, [&](int64_t first, int64_t last) {
    float* row = scratch<Purpose::head_in, float>(std::max(a.rank, a.rope) + 16);
    for (int64_t token = first; token < last; ++token) {
      auto turn = [&](const T* from, auto* to) {
        const int64_t place = a.positions[token] * half;
        widen_head<T>(from, row, nullptr, {}, a.rope);
        if (a.cos) rotate(row, a.cos + place, a.sin + place, half, a.interleaved);
        narrow(row, to, a.rope);
      };
      for (int64_t head = 0; head < a.heads; ++head) {
        const int64_t at = (token * a.heads + head) * size;
        const T* from = static_cast<const T*>(a.q) + at;
        T* to = static_cast<T*>(a.out) + at;
        std::copy(from, from + a.nope, to);
        turn(from + a.nope, to + a.nope);
      }
      const T* kv = static_cast<const T*>(a.kv) + token * width;
      C* to = static_cast<C*>(a.cache) + a.slots[token] * a.row;
      widen_head(kv, row, static_cast<const T*>(a.norm), {a.eps, 0.0f}, a.rank);
      narrow(row, to, a.rank);
      turn(kv + a.rank, to + a.rank);
    }
  });
}

// Whether a request with so many queries had better compute its keys and values. Few are absorbed as one alone is.
inline bool up_projects(const MLAAttention& a, int64_t queries) {
  return queries > kFew && queries * (2 * a.rank - a.nope - a.value) > a.rank * (a.nope + a.value);
}

// y[i] = the product of x[i] with a head's packed weight [n, k], for `count` places: from(i) and to(i) say where they
// are.
template <typename T, typename W, typename From, typename To>
inline void multiply_head(const void* weights, int64_t head, int64_t n, int64_t k, int64_t count, From&& from,
                          To&& to) {
  T *x = scratch<Purpose::head_in, T>(count * k), *y = scratch<Purpose::head_out, T>(count * n);
  for (int64_t i = 0; i < count; ++i) std::copy(from(i), from(i) + k, x + i * k);
  linear_as<T, W, T>(x, static_cast<const W*>(weights) + head * n * k, nullptr, y, count, k, n, 0);
  for (int64_t i = 0; i < count; ++i) std::copy(y + i * n, y + (i + 1) * n, to(i));
}

// What the adapter of a token adds to the products of the weights that make keys and values of latent rows. B has of
// each rank the columns of all heads' keys, then those of their values.
template <typename T>
class LatentLora {
 public:
  LatentLora(const MLAAttention& a, int64_t token)
      : a_(a), slot_(a.lora_slots ? a.lora_slots[token] : -1), rank_(slot_ < 0 ? 0 : a.lora_ranks[slot_]) {}

  void absorb(int64_t head, const T* q, T* latent) const {
    if (rank_) through(q, keys(head), apart(), a_.nope, rows(), a_.rank, latent, a_.rank);
  }
  void key(int64_t head, const T* latent, T* k) const {
    if (rank_) through(latent, rows(), a_.rank, a_.rank, keys(head), apart(), k, a_.nope);
  }
  void value(int64_t head, const T* latent, T* v) const {
    if (rank_) through(latent, rows(), a_.rank, a_.rank, values(head), apart(), v, a_.value);
  }

 private:
  int64_t apart() const { return a_.heads * (a_.nope + a_.value); }
  const T* rows() const { return in<T>(a_.lora_a) + slot_ * a_.lora_rank * a_.rank; }
  const T* keys(int64_t head) const { return in<T>(a_.lora_b) + slot_ * a_.lora_rank * apart() + head * a_.nope; }
  const T* values(int64_t head) const { return keys(0) + a_.heads * a_.nope + head * a_.value; }

  // y [n] += A or B times x [k], times the other one.
  void through(const T* x, const T* first, int64_t first_apart, int64_t k, const T* second, int64_t second_apart, T* y,
               int64_t n) const {
    float* hidden = scratch<Purpose::lora, float>(rank_);
    lora_dots(1, [&](int64_t) { return x; }, first, first_apart, rank_, k, hidden, rank_);
    lora_add(hidden, second, second_apart, rank_, y, n);
  }

  const MLAAttention& a_;
  int64_t slot_, rank_;
};

struct Asked {  // a request: the first of its tokens in the step, how many there are, and what the last one sees
  int64_t request, first, queries, length;
};

// Absorbed attention of tokens, by a call that says what they see.
template <typename T, typename W, typename C>
void absorb(const MLAAttention& a, const std::vector<int64_t>& tokens, Attention call) {
  const int64_t width = a.rank + a.rope, size = a.nope + a.rope, count = static_cast<int64_t>(tokens.size());
  T* q = scratch<Purpose::absorbed, T>(count * a.heads * width);
  T* found = scratch<Purpose::found, T>(count * a.heads * width);
  pool::each(a.heads, [&](int64_t head) {
    auto from = [&](int64_t i) { return static_cast<const T*>(a.q) + (tokens[i] * a.heads + head) * size; };
    auto to = [&](int64_t i) { return q + (i * a.heads + head) * width; };
    multiply_head<T, W>(a.w_uk_t, head, a.rank, a.nope, count, from, to);
    for (int64_t i = 0; i < count; ++i) {
      if (a.lora_slots) LatentLora<T>(a, tokens[i]).absorb(head, from(i), to(i));
      std::copy(from(i) + a.nope, from(i) + size, to(i) + a.rank);
    }
  });
  call.q = q;
  call.out = found;
  call.k_cache = call.v_cache = a.cache;  // the last a.rope columns of the result are not used
  call.heads = a.heads;
  call.kv_heads = 1;
  call.head_dim = width;
  call.row = a.row;
  call.scale = a.scale;
  paged_attention_as<T, C>(call);
  pool::each(a.heads, [&](int64_t head) {
    auto from = [&](int64_t i) { return found + (i * a.heads + head) * width; };
    auto to = [&](int64_t i) { return static_cast<T*>(a.out) + (tokens[i] * a.heads + head) * a.value; };
    multiply_head<T, W>(a.w_uv, head, a.value, a.rank, count, from, to);
    for (int64_t i = 0; a.lora_slots && i < count; ++i) LatentLora<T>(a, tokens[i]).value(head, from(i), to(i));
  });
}

template <typename T, typename W, typename C>
void absorbed(const MLAAttention& a, const std::vector<Asked>& requests) {
  std::vector<int64_t> tokens;
  std::vector<int32_t> tables, queries, lengths;
  for (const Asked& asked : requests) {
    for (int64_t i = 0; i < asked.queries; ++i) tokens.push_back(asked.first + i);
    const int32_t* table = a.block_tables + asked.request * a.blocks;
    tables.insert(tables.end(), table, table + a.blocks);
    queries.push_back(static_cast<int32_t>(asked.queries));
    lengths.push_back(static_cast<int32_t>(asked.length));
  }
  Attention call{};
  call.block_tables = tables.data();
  call.query_lens = queries.data();
  call.seq_lens = lengths.data();
  call.requests = static_cast<int64_t>(requests.size());
  call.blocks = a.blocks;
  call.page_size = a.page_size;
  absorb<T, W, C>(a, tokens, call);
}

// Keys [length, size] and values [length, size] of one head of a request; columns after the last are zero.
template <typename T, typename W, typename C>
void up_project(const MLAAttention& a, const Asked& asked, int64_t head, int64_t size, T* k, T* v) {
  const int32_t* table = a.block_tables + asked.request * a.blocks;
  const int64_t length = asked.length;
  const LatentLora<T> lora(a, asked.first);
  T* latent = scratch<Purpose::latent, T>(kRowBlock * a.rank);
  for (int64_t first = 0; first < length; first += kRowBlock) {
    const int64_t count = std::min(kRowBlock, length - first);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = first + i, slot = table[place / a.page_size] * a.page_size + place % a.page_size;
      const C* row = static_cast<const C*>(a.cache) + slot * a.row;
      convert(row, latent + i * a.rank, a.rank);
      convert(row + a.rank, k + place * size + a.nope, a.rope);
      std::fill(k + place * size + a.nope + a.rope, k + (place + 1) * size, T{});
      std::fill(v + place * size + a.value, v + (place + 1) * size, T{});
    }
    auto from = [&](int64_t i) { return latent + i * a.rank; };
    auto key = [&](int64_t i) { return k + (first + i) * size; };
    auto value = [&](int64_t i) { return v + (first + i) * size; };
    multiply_head<T, W>(a.w_uk, head, a.nope, a.rank, count, from, key);
    multiply_head<T, W>(a.w_uv, head, a.value, a.rank, count, from, value);
    for (int64_t i = 0; i < count; ++i) lora.key(head, from(i), key(i)), lora.value(head, from(i), value(i));
  }
}

template <typename T, typename W, typename C>
void up_projected(const MLAAttention& a, const Asked& asked, int64_t head) {
  const int64_t own = a.nope + a.rope, size = std::max(own, a.value);
  const int32_t queries = static_cast<int32_t>(asked.queries), length = static_cast<int32_t>(asked.length), page = 0;
  T *k = scratch<Purpose::head_k, T>(length * size), *v = scratch<Purpose::head_v, T>(length * size);
  T *q = scratch<Purpose::absorbed, T>(queries * size), *found = scratch<Purpose::found, T>(queries * size);
  up_project<T, W, C>(a, asked, head, size, k, v);
  for (int64_t i = 0; i < queries; ++i) {
    const T* from = static_cast<const T*>(a.q) + ((asked.first + i) * a.heads + head) * own;
    std::copy(from, from + own, q + i * size);
    std::fill(q + i * size + own, q + (i + 1) * size, T{});
  }
  Attention call{};
  call.q = q;
  call.out = found;
  call.k_cache = k;
  call.v_cache = v;
  call.block_tables = &page;
  call.query_lens = &queries;
  call.seq_lens = &length;
  call.requests = call.blocks = call.heads = call.kv_heads = 1;
  call.page_size = length;
  call.head_dim = call.row = size;
  call.scale = a.scale;
  paged_attention_as<T, T>(call);
  for (int64_t i = 0; i < queries; ++i)
    std::copy(found + i * size, found + i * size + a.value,
              static_cast<T*>(a.out) + ((asked.first + i) * a.heads + head) * a.value);
}

template <typename T, typename W, typename C>
void attend_to_all(const MLAAttention& a, const std::vector<Asked>& requests) {
  std::vector<Asked> few, many;
  for (const Asked& asked : requests) (up_projects(a, asked.queries) ? many : few).push_back(asked);
  pool::each(static_cast<int64_t>(many.size()) * a.heads,
             [&](int64_t task) { up_projected<T, W, C>(a, many[task / a.heads], task % a.heads); });
  if (!few.empty()) absorbed<T, W, C>(a, few);
}

template <typename T, typename W, typename C>
void mla_attention_as(const MLAAttention& a) {
  std::vector<Asked> requests;
  for (int64_t request = 0, first = 0; request < a.requests; first += a.query_lens[request++])
    requests.push_back({request, first, a.query_lens[request], a.seq_lens[request]});
  attend_to_all<T, W, C>(a, requests);
}

}  // namespace KERNEL_ISA

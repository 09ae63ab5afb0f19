// Sparse attention (DeepSeek-AI, 2025, DeepSeek-V3.2): an indexer chooses the keys that latent attention sees.
//
// A key's score is a product of its own with all heads of the indexer's queries, so keys are taken some at a time and
// multiplied with the transposed queries, which stay in the cache nearest to the processor. Tokens that see no more
// keys than are chosen take all of them, and attend to them as latent attention does; the others attend to theirs one
// by one, by a block table of pages of one token. What a token chooses and finds depends on its request alone.
#pragma once
#include <functional>

#include "mla.h"
#include "vision.h"

namespace KERNEL_ISA {

constexpr int64_t kScored = 512;              // keys that a task scores
constexpr int64_t kScores = 1 << 22;          // scores that are held at a time, but for one token's at least
constexpr int64_t kAttending = 16;            // tokens whose sparse attention is one
constexpr int kAtOnce = kLanes == 8 ? 4 : 8;  // keys of a product

template <typename T, typename C>
void index_to_cache_as(const calls::index_to_cache& a) {
  over_rows(a.tokens, a.columns + a.size, [&](int64_t first, int64_t last) {
    float* row = scratch<Purpose::head_in, float>(a.size + 16);
    for (int64_t token = first; token < last; ++token) {
      const float *cos = a.cos + a.positions[token] * a.half, *sin = a.sin + a.positions[token] * a.half;
      const T* q = in<T>(a.q) + token * a.columns;
      T* to = out<T>(a.out) + token * a.columns;
      for (int64_t at = 0; at < a.columns; at += a.size) {
        widen(q + at, row, a.size);
        rotate(row, cos, sin, a.half, a.interleaved);
        narrow(row, to + at, a.size);
      }
      widen(in<T>(a.k) + token * a.size, row, a.size);
      float mean = 0, squares = 0;
      for (int64_t i = 0; i < a.size; ++i) mean += row[i] / static_cast<float>(a.size);
      for (int64_t i = 0; i < a.size; ++i) squares += (row[i] - mean) * (row[i] - mean);
      const float factor = 1 / std::sqrt(squares / static_cast<float>(a.size) + a.eps);
      for (int64_t i = 0; i < a.size; ++i)
        row[i] = (row[i] - mean) * factor * to_float(in<T>(a.norm)[i]) + to_float(in<T>(a.bias)[i]);
      rotate(row, cos, sin, a.half, a.interleaved);
      narrow(row, out<C>(a.cache) + a.slots[token] * a.row + a.column, a.size);
    }
  });
}

struct Choosing {  // a token that sees more keys than it chooses
  int64_t request, token, keys;
};

// f(request, token, keys that it sees) for every token.
template <typename Call, typename F>
inline void over_tokens(const Call& a, F&& f) {
  int64_t token = 0;
  for (int64_t request = 0; request < a.requests; ++request)
    for (int64_t i = 0; i < a.query_lens[request]; ++i)
      f(request, token++, a.seq_lens[request] - a.query_lens[request] + i + 1);
}

// Scores of the keys at places [first, last) for a token.
template <typename T, typename C>
inline void score_keys(const calls::choose_keys& a, const Choosing& of, int64_t first, int64_t last, float* scores) {
  const int64_t size = a.size, padded = (size + 15) / 16 * 16, wide = 2 * kLanes, heads = (a.heads + 31) / 32 * 32;
  float* q = scratch<Purpose::index_q, float>(size * heads + heads);
  float *factors = q + size * heads, *keys = scratch<Purpose::index_k, float>(kAtOnce * (padded + heads));
  float* products = keys + kAtOnce * padded;
  std::fill(q, factors + heads, 0.0f);
  for (int64_t head = 0; head < a.heads; ++head) {
    const T* from = in<T>(a.q) + of.token * a.columns + head * size;
    for (int64_t i = 0; i < size; ++i) q[i * heads + head] = to_float(from[i]);
    factors[head] = to_float(in<T>(a.weights)[of.token * a.heads + head]);
  }
  const int32_t* table = a.block_tables + of.request * a.blocks;
  for (int64_t key = first; key < last; key += kAtOnce) {
    for (int64_t i = 0; i < kAtOnce; ++i) {
      const int64_t place = std::min(key + i, last - 1);
      const int64_t slot = table[place / a.page_size] * a.page_size + place % a.page_size;
      widen(in<C>(a.cache) + slot * a.row + a.column, keys + i * padded, size);
    }
    for (int64_t head = 0; head < heads; head += wide)
      multiply_columns<kAtOnce, 2, false>(keys, padded, q + head, heads, products + head, heads, size);
    for (int64_t i = 0; i < std::min<int64_t>(kAtOnce, last - key); ++i) {
      f32x16 total{};
      for (int64_t head = 0; head < heads; head += 16) {
        const f32x16 product = load(products + i * heads + head);
        total += load(factors + head) * (product > 0.0f ? product : f32x16{});
      }
      const float score = sum(total);
      scores[key + i - first] = std::isnan(score) ? kNone : score;
    }
  }
}

// The places of the `count` largest scores, ascending; of equal ones the first.
inline void choose_largest(const float* scores, int64_t size, int32_t* chosen, int64_t count) {
  float* order = scratch<Purpose::index_order, float>(size);
  std::copy(scores, scores + size, order);
  std::nth_element(order, order + count - 1, order + size, std::greater<float>());
  const float least = order[count - 1];
  int64_t equal = count - std::count_if(order, order + count, [&](float score) { return score > least; });
  for (int64_t place = 0; place < size; ++place) {
    const bool taken = scores[place] > least || (scores[place] == least && equal-- > 0);
    if (taken) *chosen++ = static_cast<int32_t>(place);
  }
}

template <typename T, typename C>
void choose_keys_as(const calls::choose_keys& a) {
  std::vector<Choosing> tokens;
  int64_t longest = 1;
  over_tokens(a, [&](int64_t request, int64_t token, int64_t keys) {
    int32_t* chosen = a.out + token * a.top_k;
    for (int64_t i = 0; i < a.top_k; ++i) chosen[i] = i < keys ? static_cast<int32_t>(i) : -1;
    if (keys > a.top_k) tokens.push_back({request, token, keys}), longest = std::max(longest, keys);
  });
  const int64_t blocks = (longest + kScored - 1) / kScored, most = std::max<int64_t>(1, kScores / longest);
  for (int64_t first = 0; first < static_cast<int64_t>(tokens.size()); first += most) {
    const int64_t count = std::min(most, static_cast<int64_t>(tokens.size()) - first);
    float* scores = scratch<Purpose::index_scores, float>(count * longest);
    pool::each(count * blocks, [&](int64_t task) {
      const Choosing& of = tokens[first + task / blocks];
      const int64_t key = task % blocks * kScored, last = std::min(of.keys, key + kScored);
      if (key < last) score_keys<T, C>(a, of, key, last, scores + task / blocks * longest + key);
    });
    pool::each(count, [&](int64_t i) {
      const Choosing& of = tokens[first + i];
      choose_largest(scores + i * longest, of.keys, a.out + of.token * a.top_k, a.top_k);
    });
  }
}

// Attention of tokens, each to the rows that it has chosen.
template <typename T, typename W, typename C>
void attend_to_chosen(const MLAAttention& dense, const calls::sparse_mla_attention& a, const Choosing* of,
                      int64_t count) {
  std::vector<int64_t> tokens;
  std::vector<int32_t> slots, ones(count, 1), lengths(count, static_cast<int32_t>(a.top_k));
  for (int64_t i = 0; i < count; ++i) {
    const int32_t* table = a.block_tables + of[i].request * a.blocks;
    tokens.push_back(of[i].token);
    for (int64_t j = 0; j < a.top_k; ++j) {
      const int64_t place = a.chosen[of[i].token * a.top_k + j];
      slots.push_back(static_cast<int32_t>(table[place / a.page_size] * a.page_size + place % a.page_size));
    }
  }
  Attention call{};
  call.block_tables = slots.data();
  call.query_lens = ones.data();
  call.seq_lens = lengths.data();
  call.requests = count;
  call.blocks = a.top_k;
  call.page_size = 1;
  absorb<T, W, C>(dense, tokens, call);
}

template <typename T, typename W, typename C>
void sparse_mla_attention_as(const calls::sparse_mla_attention& a) {
  MLAAttention dense{};
  static_cast<calls::Call&>(dense) = a;
  dense.q = a.q, dense.cache = a.cache, dense.w_uk = a.w_uk, dense.w_uk_t = a.w_uk_t, dense.w_uv = a.w_uv;
  dense.block_tables = a.block_tables, dense.out = a.out;
  dense.heads = a.heads, dense.nope = a.nope, dense.rope = a.rope, dense.rank = a.rank, dense.value = a.value;
  dense.row = a.row, dense.blocks = a.blocks, dense.page_size = a.page_size, dense.scale = a.scale;
  std::vector<Asked> asked;
  std::vector<Choosing> choosing;
  over_tokens(a, [&](int64_t request, int64_t token, int64_t keys) {
    if (keys > a.top_k)
      choosing.push_back({request, token, keys});
    else if (asked.empty() || asked.back().request != request)
      asked.push_back({request, token, 1, keys});
    else
      ++asked.back().queries, asked.back().length = keys;
  });
  attend_to_all<T, W, C>(dense, asked);
  const int64_t count = static_cast<int64_t>(choosing.size());
  for (int64_t first = 0; first < count; first += kAttending)
    attend_to_chosen<T, W, C>(dense, a, &choosing[first], std::min(kAttending, count - first));
}

}  // namespace KERNEL_ISA

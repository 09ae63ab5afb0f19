// Recurrent states: a matrix of each head, whose rows are brought up to date by themselves, token after token.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "states.h"

namespace KERNEL_ISA {

constexpr int kStateRows = 4;  // that share what is read of a token

// As torch's: x itself where the rest is lost in its digits.
inline float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

// What a token is to one head: its key and query of `size` values, how much of the state stays, as a whole or of each
// value of a row, how much is added of what is new, and of the value itself to the result.
struct TokenOfHead {
  const float *key, *query, *decays;
  float decay, added, skipped;
};

// How a state takes in a token: the value itself, or what of it the state does not say yet; then also with a decay for
// each value of a row.
enum class Rule { sum, delta, delta_by_key };

// S <- decay S + added v k^T; y = S q + skipped v, of R rows of S, v and y. Delta: of v - decay S k in the place of v.
template <int R, Rule kRule, bool kTail, typename T>
inline void state_step(float* state, int64_t size, const TokenOfHead& token, const T* v, T* y) {
  constexpr bool kDelta = kRule != Rule::sum, kByKey = kRule == Rule::delta_by_key;
  const int64_t whole = size / 16 * 16, rest = size - whole;
  auto decay = [&](int64_t i) { return kByKey ? load(token.decays + i) : splat(token.decay); };
  f32x16 total[4] = {}, added[4];
  float seen[4] = {}, found[4];
  if (kDelta) {
    for (int64_t i = 0; i < whole; i += 16) {
      const f32x16 k = kByKey ? load(token.key + i) * decay(i) : load(token.key + i);
      for (int r = 0; r < R; ++r) total[r] += load(state + r * size + i) * k;
    }
    if (kTail) {
      const f32x16 k = kByKey ? load(token.key + whole) * decay(whole) : load(token.key + whole);
      for (int r = 0; r < R; ++r) total[r] += load_part(state + r * size + whole, rest) * k;
    }
    sums(total, seen);
  }
  for (int r = 0; r < R; ++r) {
    added[r] = splat(token.added * (to_float(v[r]) - (kByKey ? seen[r] : token.decay * seen[r])));
    total[r] = f32x16{};
  }
  for (int64_t i = 0; i < whole; i += 16) {
    const f32x16 k = load(token.key + i), q = load(token.query + i), kept = decay(i);
    for (int r = 0; r < R; ++r) {
      const f32x16 s = load(state + r * size + i) * kept + added[r] * k;
      store(state + r * size + i, s);
      total[r] += s * q;
    }
  }
  if (kTail) {
    const f32x16 kept = decay(whole);
    for (int r = 0; r < R; ++r) {
      const f32x16 s = load_part(state + r * size + whole, rest) * kept + added[r] * load(token.key + whole);
      store_upto16(state + r * size + whole, s, rest);
      total[r] += s * load(token.query + whole);
    }
  }
  sums(total, found);
  for (int r = 0; r < R; ++r) y[r] = from_float<T>(found[r] + token.skipped * to_float(v[r]));
}

// Asks for rows of a state that a step reads once, from memory, and writes.
inline void prefetch(const float* rows, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(rows + i, 1);
}

inline int64_t padded_to16(int64_t size) { return (size + 15) / 16 * 16; }

// Keys and queries of all tokens, in float32 and each followed by zeros up to a whole vector: [T, groups, 2, size];
// with decays behind them 3.
inline float* keys_and_queries(int64_t pairs, int64_t size, int64_t parts = 2) {
  return scratch<Purpose::state_keys, float>(parts * pairs * padded_to16(size));
}

// Brings the states of a call's requests up to date. `keys`: as above, of `groups` of heads. gates: [T, heads, 2] of
// how much stays, and how much is added. values: where a token's are in its row of x. skip: of each head; null:
// nothing.
template <Rule kRule, typename T, typename Call>
void advance_states(const Call& a, const float* keys, int64_t groups, const float* gates, int64_t values,
                    const float* skip) {
  const auto rows = first_rows(a.query_lens, a.requests);
  constexpr int64_t kParts = kRule == Rule::delta_by_key ? 3 : 2;
  const int64_t padded = padded_to16(a.size), group = a.heads / groups;
  const int64_t mean = std::max<int64_t>(1, a.tokens / std::max<int64_t>(1, a.requests));
  const int64_t worth = (kValuesPerTask / (a.size * mean) + kStateRows - 1) / kStateRows * kStateRows;
  const int64_t piece = std::max<int64_t>(kStateRows, worth), pieces = (a.value + piece - 1) / piece;
  pool::each(a.requests * a.heads * pieces, [&](int64_t task) {
    const int64_t request = task / (a.heads * pieces), head = task / pieces % a.heads, first = task % pieces * piece;
    const int64_t end = std::min(a.value, first + piece);
    const int64_t matrix = a.value * a.size;
    float* state = a.state + (a.state_slots[request] * a.heads + head) * matrix;
    float* apart = intermediate_of<float>(a, request, a.heads * matrix);
    const int64_t kept = tracked(a, request), last_kept = rows[request] + kept - 1;
    float* copy = a.state + ((kept ? a.track_slots[request] : 0) * a.heads + head) * matrix;
    auto advance = [&](auto rows_at_once, auto tail, int64_t from) {
      prefetch(state + (from + 2 * kStateRows) * a.size, rows_at_once() * a.size);
      float *current = state + from * a.size, *next = apart ? apart + head * matrix + from * a.size : nullptr;
      for (int64_t row = rows[request]; row < rows[request] + a.query_lens[request]; ++row) {
        if (apart) {
          std::memcpy(next, current, sizeof(float) * rows_at_once() * a.size);
          current = next;
          next += a.heads * matrix;
        }
        const float* key = keys + kParts * (row * groups + head / group) * padded;
        const float* gate = gates + 2 * (row * a.heads + head);
        const TokenOfHead token{key, key + padded, key + 2 * padded, gate[0], gate[1], skip ? skip[head] : 0.0f};
        const T* v = in<T>(a.x) + row * a.columns + values + head * a.value + from;
        T* y = out<T>(a.out) + (row * a.heads + head) * a.value + from;
        state_step<rows_at_once(), kRule, tail()>(current, a.size, token, v, y);
        if (kept && row == last_kept) std::copy(current, current + rows_at_once() * a.size, copy + from * a.size);
      }
    };
    using Four = std::integral_constant<int, kStateRows>;
    using One = std::integral_constant<int, 1>;
    const bool tail = a.size % 16;
    int64_t row = first;
    for (; row + kStateRows <= end; row += kStateRows)
      tail ? advance(Four{}, std::true_type{}, row) : advance(Four{}, std::false_type{}, row);
    for (; row < end; ++row) tail ? advance(One{}, std::true_type{}, row) : advance(One{}, std::false_type{}, row);
  });
}

// to = x in float32 divided by its length times `factor`, and zeros up to a whole vector.
template <typename T>
inline void unit_length(const T* x, float* to, int64_t size, float factor) {
  const float scale = factor / std::sqrt(sum_of_squares(x, size) + 1e-6f);
  for (int64_t i = 0; i < size; i += 16) store(to + i, load_upto16(x + i, size - i) * scale);
}

template <typename T>
void gated_delta_as(const calls::gated_delta& a) {
  const int64_t padded = padded_to16(a.size), pairs = a.tokens * a.key_heads;
  float* keys = keys_and_queries(pairs, a.size);
  float* gates = scratch<Purpose::state_gates, float>(2 * a.tokens * a.heads);
  over_rows(pairs, 2 * padded, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const T* query = in<T>(a.x) + i / a.key_heads * a.columns + i % a.key_heads * a.size;
      unit_length(query + a.key_heads * a.size, keys + 2 * i * padded, a.size, 1.0f);
      unit_length(query, keys + (2 * i + 1) * padded, a.size, 1.0f / std::sqrt(static_cast<float>(a.size)));
    }
  });
  over_rows(a.tokens * a.heads, 16, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t head = i % a.heads;
      const T* b = in<T>(a.gates) + i / a.heads * a.two_heads + head;
      gates[2 * i] = std::exp(-std::exp(a.a_log[head]) * softplus(to_float(b[a.heads]) + a.dt_bias[head]));
      gates[2 * i + 1] = 1.0f / (1.0f + std::exp(-to_float(b[0])));
    }
  });
  advance_states<Rule::delta, T>(a, keys, a.key_heads, gates, 2 * a.key_heads * a.size, nullptr);
}

template <typename T>
void kimi_delta_as(const calls::kimi_delta& a) {
  const int64_t padded = padded_to16(a.size), pairs = a.tokens * a.heads;
  float* keys = keys_and_queries(pairs, a.size, 3);
  float* gates = scratch<Purpose::state_gates, float>(2 * pairs);
  over_rows(pairs, 32 * padded, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t head = i % a.heads;
      const T *query = in<T>(a.x) + i / a.heads * a.columns + head * a.size, *forget = in<T>(a.forget) + i * a.size;
      float *to = keys + 3 * i * padded, *decays = to + 2 * padded;
      unit_length(query + a.heads * a.size, to, a.size, 1.0f);
      unit_length(query, to + padded, a.size, 1.0f / std::sqrt(static_cast<float>(a.size)));
      const float rate = std::exp(a.a_log[head]), *bias = a.dt_bias + head * a.size;
      for (int64_t j = 0; j < padded; ++j)
        decays[j] = j < a.size ? std::exp(-rate * softplus(to_float(forget[j]) + bias[j])) : 0.0f;
      gates[2 * i] = 1.0f;
      gates[2 * i + 1] = 1.0f / (1.0f + std::exp(-to_float(in<T>(a.beta)[i])));
    }
  });
  advance_states<Rule::delta_by_key, T>(a, keys, a.heads, gates, 2 * a.heads * a.size, nullptr);
}

template <typename T>
void state_space_as(const calls::state_space& a) {
  const int64_t padded = padded_to16(a.size), pairs = a.tokens * a.groups, values = a.heads * a.value;
  float* keys = keys_and_queries(pairs, a.size);
  float* gates = scratch<Purpose::state_gates, float>(2 * a.tokens * a.heads);
  over_rows(pairs, 2 * padded, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const T* b = in<T>(a.x) + i / a.groups * a.columns + values + i % a.groups * a.size;
      const T* c = b + a.groups * a.size;
      for (int64_t j = 0; j < a.size; j += 16) {
        store(keys + 2 * i * padded + j, load_upto16(b + j, a.size - j));
        store(keys + (2 * i + 1) * padded + j, load_upto16(c + j, a.size - j));
      }
    }
  });
  over_rows(a.tokens * a.heads, 16, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t head = i % a.heads;
      const float step = softplus(to_float(in<T>(a.dt)[i]) + a.dt_bias[head]);
      const float bounded = std::min(std::max(step, a.low), a.high);
      gates[2 * i] = std::exp(-std::exp(a.a_log[head]) * bounded);
      gates[2 * i + 1] = bounded;
    }
  });
  advance_states<Rule::sum, T>(a, keys, a.groups, gates, 0, a.skip);
}

}  // namespace KERNEL_ISA

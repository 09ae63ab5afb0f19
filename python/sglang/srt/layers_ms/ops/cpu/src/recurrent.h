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

// Asks for rows [first, last) of a state that a step reads once, from memory, and writes.
inline void prefetch(const float* state, int64_t first, int64_t last, int64_t size) {
  for (int64_t i = first * size; i < last * size; i += 16) __builtin_prefetch(state + i, 1);
}

inline int64_t padded_to16(int64_t size) { return (size + 15) / 16 * 16; }

// So many rows of a head's state meet so many tokens, and then the next rows do: rows, keys and queries stay in the
// first cache meanwhile. What so many rows give of a token is a cache line of float16, which one thread alone writes.
constexpr int64_t kRowsTogether = 32, kTokensTogether = 16;

// How many rows of a head's state a task has: all of them, unless that were too few tasks.
inline int64_t rows_of_task(int64_t heads, int64_t rows) {
  const int64_t parts = (4 * pool::threads() + heads - 1) / heads, part = (rows + parts - 1) / parts;
  return std::min(rows, (part + kRowsTogether - 1) / kRowsTogether * kRowsTogether);
}

// Rows [first, end) of the state of one head of a request, its `kept`-th token and where the state behind it goes too.
struct HeadState {
  float *state, *apart, *copy;  // apart: where the state behind each token goes, `stride` apart; null: into `state`
  int64_t stride, size, first, end, kept;

  float* behind(int64_t token) const { return apart ? apart + token * stride : state; }
  void copy_rows(const float* from, float* to, int64_t row, int64_t rows) const {
    std::copy(from + row * size, from + (row + rows) * size, to + row * size);
  }

  // Rows [row, row + rows) take in a token of the step, of which `v` are the head's values and `y` its results.
  template <Rule kRule, typename T>
  void advance(int64_t row, int64_t rows, int64_t number, const TokenOfHead& token, const T* v, T* y) const {
    float* to = behind(number);
    if (apart) copy_rows(number ? behind(number - 1) : state, to, row, rows);
    auto step = [&](auto at_once, auto tail, int64_t from) {
      if (number == 0) prefetch(to, std::min(end, from + 2 * at_once()), std::min(end, from + 3 * at_once()), size);
      state_step<at_once(), kRule, tail()>(to + from * size, size, token, v + from, y + from);
    };
    auto all = [&](auto tail) {
      int64_t from = row;
      for (; from + kStateRows <= row + rows; from += kStateRows)
        step(std::integral_constant<int, kStateRows>{}, tail, from);
      for (; from < row + rows; ++from) step(std::integral_constant<int, 1>{}, tail, from);
    };
    size % 16 ? all(std::true_type{}) : all(std::false_type{});
    if (number + 1 == kept) copy_rows(to, copy, row, rows);
  }
};

// Where a token's row of x has the two parts, keys and queries in either order, of the first of `groups` of heads,
// those of the next ones behind each, and the values of all heads.
struct StateColumns {
  int64_t parts, groups, values;
};

// The first place from p on where a cache line begins: a vector there lies in one.
inline float* at_line(float* p) { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(p) + 63) / 64 * 64); }

// Asks for `size` values that lie one behind the other.
template <typename T>
inline void prefetch_row(const T* x, int64_t size) {
  for (int64_t i = 0; i < size; i += 64 / sizeof(T)) __builtin_prefetch(x + i);
}

// Brings the states of a call's requests up to date. skip: of each head; null: nothing. prepare(x, token, head, key,
// gates): x is the first part of this head in the token's row. Writes the token's key, query and, by key, decays in
// float32, each followed by zeros up to a whole vector; and how much stays of the state, and how much is added.
template <Rule kRule, typename T, typename Call, typename F>
void advance_states(const Call& a, const StateColumns& columns, const float* skip, F&& prepare) {
  const auto rows = first_rows(a.query_lens, a.requests);
  constexpr int64_t kParts = kRule == Rule::delta_by_key ? 3 : 2;
  const int64_t padded = padded_to16(a.size), matrix = a.value * a.size, group = a.heads / columns.groups;
  const int64_t piece = rows_of_task(a.requests * a.heads, a.value), pieces = (a.value + piece - 1) / piece;
  pool::each(a.requests * a.heads * pieces, [&](int64_t task) {
    const int64_t request = task / (a.heads * pieces), head = task / pieces % a.heads, part = task % pieces * piece;
    const int64_t kept = tracked(a, request), tokens = a.query_lens[request];
    auto matrix_of = [&](int64_t slot) { return a.state + (slot * a.heads + head) * matrix; };
    float* apart = intermediate_of<float>(a, request, a.heads * matrix);
    const HeadState state{matrix_of(a.state_slots[request]),
                          apart ? apart + head * matrix : nullptr,
                          kept ? matrix_of(a.track_slots[request]) : nullptr,
                          a.heads * matrix,
                          a.size,
                          part,
                          std::min(a.value, part + piece),
                          kept};
    const T* x = in<T>(a.x) + rows[request] * a.columns + columns.parts + head / group * a.size;
    const T* v = in<T>(a.x) + rows[request] * a.columns + columns.values + head * a.value;
    T* y = out<T>(a.out) + (rows[request] * a.heads + head) * a.value;
    float* keys = at_line(scratch<Purpose::state_keys, float>(kTokensTogether * kParts * padded + 16));
    float* gates = scratch<Purpose::state_gates, float>(2 * kTokensTogether);
    for (int64_t start = 0; start < tokens; start += kTokensTogether) {
      const int64_t stop = std::min(tokens, start + kTokensTogether);
      for (int64_t i = start; i < stop; ++i)
        prepare(x + i * a.columns, rows[request] + i, head, keys + (i - start) * kParts * padded,
                gates + 2 * (i - start));
      for (int64_t row = state.first; row < state.end; row += kRowsTogether)
        for (int64_t i = start; i < stop; ++i) {
          if (const int64_t later = i + kTokensTogether; row == state.first && later < tokens) {
            prefetch_row(x + later * a.columns, a.size);
            prefetch_row(x + later * a.columns + columns.groups * a.size, a.size);
            prefetch_row(v + later * a.columns + state.first, state.end - state.first);
            prefetch_row(y + later * a.heads * a.value + state.first, state.end - state.first);
          }
          const float *key = keys + (i - start) * kParts * padded, *gate = gates + 2 * (i - start);
          const TokenOfHead token{key, key + padded, key + 2 * padded, gate[0], gate[1], skip ? skip[head] : 0.0f};
          state.advance<kRule>(row, std::min(kRowsTogether, state.end - row), i, token, v + i * a.columns,
                               y + i * a.heads * a.value);
        }
    }
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
  const int64_t padded = padded_to16(a.size), keys = a.key_heads * a.size;
  const float root = 1.0f / std::sqrt(static_cast<float>(a.size));
  auto prepare = [&](const T* query, int64_t token, int64_t head, float* key, float* gates) {
    unit_length(query + keys, key, a.size, 1.0f);
    unit_length(query, key + padded, a.size, root);
    const T* b = in<T>(a.gates) + token * a.two_heads + head;
    gates[0] = std::exp(-std::exp(a.a_log[head]) * softplus(to_float(b[a.heads]) + a.dt_bias[head]));
    gates[1] = 1.0f / (1.0f + std::exp(-to_float(b[0])));
  };
  advance_states<Rule::delta, T>(a, {0, a.key_heads, 2 * keys}, nullptr, prepare);
}

template <typename T>
void kimi_delta_as(const calls::kimi_delta& a) {
  const int64_t padded = padded_to16(a.size), keys = a.heads * a.size;
  const float root = 1.0f / std::sqrt(static_cast<float>(a.size));
  auto prepare = [&](const T* query, int64_t token, int64_t head, float* key, float* gates) {
    unit_length(query + keys, key, a.size, 1.0f);
    unit_length(query, key + padded, a.size, root);
    const T* forget = in<T>(a.forget) + (token * a.heads + head) * a.size;
    const float rate = std::exp(a.a_log[head]), *bias = a.dt_bias + head * a.size;
    for (int64_t j = 0; j < padded; ++j)
      key[2 * padded + j] = j < a.size ? std::exp(-rate * softplus(to_float(forget[j]) + bias[j])) : 0.0f;
    gates[0] = 1.0f;
    gates[1] = 1.0f / (1.0f + std::exp(-to_float(in<T>(a.beta)[token * a.heads + head])));
  };
  advance_states<Rule::delta_by_key, T>(a, {0, a.heads, 2 * keys}, nullptr, prepare);
}

template <typename T>
void state_space_as(const calls::state_space& a) {
  const int64_t padded = padded_to16(a.size);
  auto prepare = [&](const T* b, int64_t token, int64_t head, float* key, float* gates) {
    const T* c = b + a.groups * a.size;
    for (int64_t j = 0; j < a.size; j += 16) {
      store(key + j, load_upto16(b + j, a.size - j));
      store(key + padded + j, load_upto16(c + j, a.size - j));
    }
    const float step = softplus(to_float(in<T>(a.dt)[token * a.heads + head]) + a.dt_bias[head]);
    const float bounded = std::min(std::max(step, a.low), a.high);
    gates[0] = std::exp(-std::exp(a.a_log[head]) * bounded);
    gates[1] = bounded;
  };
  advance_states<Rule::sum, T>(a, {a.heads * a.value, a.groups, 0}, a.skip, prepare);
}

}  // namespace KERNEL_ISA

// Recurrent states: a matrix of each head, whose rows are brought up to date by themselves, token after token.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "lines.h"
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

// S <- decay S + added v k^T; y = S q + skipped v, of R rows of S, which lie `apart` values apart, v and y. Delta: of v
// - decay S k in the place of v.
template <int R, Rule kRule, bool kTail, typename T>
inline void state_step(float* state, int64_t apart, int64_t size, const TokenOfHead& token, const T* v, T* y) {
  constexpr bool kDelta = kRule != Rule::sum, kByKey = kRule == Rule::delta_by_key;
  const int64_t whole = size / 16 * 16, rest = size - whole;
  auto decay = [&](int64_t i) { return kByKey ? load(token.decays + i) : splat(token.decay); };
  f32x16 total[4] = {}, added[4];
  float seen[4] = {}, found[4];
  if (kDelta) {
    for (int64_t i = 0; i < whole; i += 16) {
      const f32x16 k = kByKey ? load(token.key + i) * decay(i) : load(token.key + i);
      for (int r = 0; r < R; ++r) total[r] += load(state + r * apart + i) * k;
    }
    if (kTail) {
      const f32x16 k = kByKey ? load(token.key + whole) * decay(whole) : load(token.key + whole);
      for (int r = 0; r < R; ++r) total[r] += load_part(state + r * apart + whole, rest) * k;
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
      const f32x16 s = load(state + r * apart + i) * kept + added[r] * k;
      store(state + r * apart + i, s);
      total[r] += s * q;
    }
  }
  if (kTail) {
    const f32x16 kept = decay(whole);
    for (int r = 0; r < R; ++r) {
      const f32x16 s = load_part(state + r * apart + whole, rest) * kept + added[r] * load(token.key + whole);
      store_upto16(state + r * apart + whole, s, rest);
      total[r] += s * load(token.query + whole);
    }
  }
  sums(total, found);
  for (int r = 0; r < R; ++r) y[r] = from_float<T>(found[r] + token.skipped * to_float(v[r]));
}

#if defined(__AVX512F__)
constexpr int kManyRows = 16;  // that lie in a register, one a lane

// The sums of 16 vectors, each in the lane of its number, added up in the order of `sums`. It takes half of the
// instructions of four times four of them.
ALWAYS_INLINE f32x16 sums_of_16(const f32x16 (&x)[16]) {
  f32x16 half[8], fourth[4], eighth[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {  // of rows that are four apart
    const f32x16 a = x[i / 4 * 8 + i % 4], b = x[i / 4 * 8 + i % 4 + 4];
    half[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
              __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
  auto add_neighbors = [](f32x16 a, f32x16 b) {  // within each quarter of a register
    return __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
           __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
  };
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) fourth[i] = add_neighbors(half[2 * i], half[2 * i + 1]);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) eighth[i] = add_neighbors(fourth[2 * i], fourth[2 * i + 1]);
  return __builtin_shufflevector(eighth[0], eighth[1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
         __builtin_shufflevector(eighth[0], eighth[1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}

// As state_step, of 16 rows of whole vectors. kApart: how far apart they are, where that is known. ahead: rows that are
// fetched meanwhile, as far apart; null: none.
template <Rule kRule, int kApart, typename T>
inline void sixteen_rows(float* state, int64_t distance, int64_t size, const TokenOfHead& token, const T* v, T* y,
                         const float* ahead) {
  const int64_t apart = kApart ? kApart : distance;
  constexpr bool kDelta = kRule != Rule::sum, kByKey = kRule == Rule::delta_by_key;
  f32x16 total[kManyRows];
  const f32x16 value = load(v);
  f32x16 seen{};
  if (kDelta) {
#pragma GCC unroll 16
    for (int r = 0; r < kManyRows; ++r) total[r] = f32x16{};
    for (int64_t i = 0; i < size; i += 16) {
      const f32x16 k = kByKey ? load(token.key + i) * load(token.decays + i) : load(token.key + i);
      if (ahead)
#pragma GCC unroll 16
        for (int r = 0; r < kManyRows; ++r) __builtin_prefetch(ahead + r * apart + i, 1);
#pragma GCC unroll 16
      for (int r = 0; r < kManyRows; ++r) total[r] = multiply_add(load(state + r * apart + i), k, total[r]);
    }
    seen = sums_of_16(total);
  }
  alignas(64) float added[kManyRows];
  store(added, token.added * (kDelta ? multiply_add(splat(kByKey ? -1.0f : -token.decay), seen, value) : value));
#pragma GCC unroll 16
  for (int r = 0; r < kManyRows; ++r) total[r] = f32x16{};
  for (int64_t i = 0; i < size; i += 16) {
    const f32x16 k = load(token.key + i), q = load(token.query + i);
    const f32x16 kept = kByKey ? load(token.decays + i) : splat(token.decay);
    if (!kDelta && ahead)
#pragma GCC unroll 16
      for (int r = 0; r < kManyRows; ++r) __builtin_prefetch(ahead + r * apart + i, 1);
#pragma GCC unroll 16
    for (int r = 0; r < kManyRows; ++r) {
      const f32x16 s = multiply_add(splat(added[r]), k, load(state + r * apart + i) * kept);
      store(state + r * apart + i, s);
      total[r] = multiply_add(s, q, total[r]);
    }
  }
  store(y, multiply_add(splat(token.skipped), value, sums_of_16(total)));
}
#endif

// Asks for values of a state that a step reads once, from memory, and writes.
inline void prefetch(const float* state, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(state + i, 1);
}

// So many rows of a head's state meet so many tokens, and then the next rows do: rows, keys and queries stay in the
// first cache meanwhile. What so many rows give of a token is a cache line of float16, which one thread alone writes.
constexpr int64_t kRowsTogether = 32, kTokensTogether = 16;
// They lie so many values further apart than a head's rows of 128, eight of which are a page: a processor takes a read
// for one of what was just written, and waits, where both lie at one place of a page.
constexpr int64_t kLineApart = 16;

// How many rows of a head's state a task has: all of them, unless that were too few tasks.
inline int64_t rows_of_task(int64_t heads, int64_t rows) {
  const int64_t parts = (4 * pool::threads() + heads - 1) / heads, part = (rows + parts - 1) / parts;
  return std::min(rows, (part + kRowsTogether - 1) / kRowsTogether * kRowsTogether);
}

// Rows that take in tokens: `count` of `size` values, `apart` values apart.
struct StateRows {
  float* first;
  int64_t apart, count, size;

  // A token, of which `v` are these rows' values and `y` their results. next: rows that are fetched meanwhile, as many
  // values apart; null: none.
  template <Rule kRule, typename T>
  void take(const TokenOfHead& token, const T* v, T* y, const float* next) const {
    int64_t row = 0;
    auto step = [&](auto at_once, auto tail) {
      for (; row + at_once() <= count; row += at_once()) {
        if (next) prefetch(next + row * apart, at_once() * apart);
        state_step<at_once(), kRule, tail()>(first + row * apart, apart, size, token, v + row, y + row);
      }
    };
    auto all = [&](auto tail) {
      step(std::integral_constant<int, kStateRows>{}, tail);
      step(std::integral_constant<int, 1>{}, tail);
    };
    if (size % 16) return all(std::true_type{});
#if defined(__AVX512F__)
    const auto sixteen = apart == 128                ? sixteen_rows<kRule, 128, T>
                         : apart == 128 + kLineApart ? sixteen_rows<kRule, 128 + kLineApart, T>
                                                     : sixteen_rows<kRule, 0, T>;
    for (; row + kManyRows <= count; row += kManyRows)
      sixteen(first + row * apart, apart, size, token, v + row, y + row, next ? next + row * apart : nullptr);
#endif
    all(std::false_type{});
  }
  void copy_to(const StateRows& other) const {
    for (int64_t row = 0; row < count; ++row) std::copy_n(first + row * apart, size, other.first + row * other.apart);
  }
};

// The state of one head of a request, its `kept`-th token, and where the state behind it goes too.
struct HeadState {
  float *state, *apart, *copy;  // apart: where the state behind each token goes, `stride` apart; null: into `state`
  int64_t stride, size, kept;

  StateRows rows(float* of, int64_t row, int64_t count) const { return {of + row * size, size, count, size}; }

  // Rows [row, row + count) take in tokens [start, stop) of the step; f(token number, rows) lets them take in one.
  template <typename F>
  void advance(int64_t row, int64_t count, int64_t start, int64_t stop, F&& f) const {
    const StateRows own = rows(state, row, count);
    StateRows now = own;
    if (!apart && stop - start > 2) {
      now = {lines<Purpose::state_rows, float>(kRowsTogether * (size + kLineApart)), size + kLineApart, count, size};
      own.copy_to(now);
    }
    for (int64_t i = start; i < stop; ++i) {
      if (apart) {
        now = rows(apart + i * stride, row, count);
        (i ? rows(apart + (i - 1) * stride, row, count) : own).copy_to(now);
      }
      f(i, now);
      if (i + 1 == kept) now.copy_to(rows(copy, row, count));
    }
    if (!apart && now.first != own.first) now.copy_to(own);
  }
};

// Where a token's row of x has the two parts, keys and queries in either order, of the first of `groups` of heads,
// those of the next ones behind each, and the values of all heads.
struct StateColumns {
  int64_t parts, groups, values;
};

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
  const int64_t padded = rounded_up(a.size, 16), matrix = a.value * a.size, group = a.heads / columns.groups;
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
                          kept};
    const int64_t end = std::min(a.value, part + piece);
    const T* x = in<T>(a.x) + rows[request] * a.columns + columns.parts + head / group * a.size;
    const T* v = in<T>(a.x) + rows[request] * a.columns + columns.values + head * a.value;
    T* y = out<T>(a.out) + (rows[request] * a.heads + head) * a.value;
    float* keys = lines<Purpose::state_keys, float>(kTokensTogether * kParts * padded);
    float* gates = scratch<Purpose::state_gates, float>(2 * kTokensTogether);
    for (int64_t start = 0; start < tokens; start += kTokensTogether) {
      const int64_t stop = std::min(tokens, start + kTokensTogether);
      for (int64_t i = start; i < stop; ++i)
        prepare(x + i * a.columns, rows[request] + i, head, keys + (i - start) * kParts * padded,
                gates + 2 * (i - start));
      for (int64_t row = part; row < end; row += kRowsTogether) {
        const int64_t count = std::min(kRowsTogether, end - row);
        state.advance(row, count, start, stop, [&](int64_t i, const StateRows& taking) {
          if (const int64_t later = i + kTokensTogether; row == part && later < tokens) {
            prefetch_row(x + later * a.columns, a.size);
            prefetch_row(x + later * a.columns + columns.groups * a.size, a.size);
            prefetch_row(v + later * a.columns + part, end - part);
            prefetch_row(y + later * a.heads * a.value + part, end - part);
          }
          const float *key = keys + (i - start) * kParts * padded, *gate = gates + 2 * (i - start);
          const TokenOfHead token{key, key + padded, key + 2 * padded, gate[0], gate[1], skip ? skip[head] : 0.0f};
          // In a step of one token, the next rows: of this head, or of the next task that is this thread's.
          const int64_t next = row + count < end ? count : count + (pool::threads() - 1) * piece;
          taking.take<kRule>(token, v + i * a.columns + row, y + i * a.heads * a.value + row,
                             i ? nullptr : taking.first + next * taking.apart);
        });
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

// How fast each head forgets.
template <typename Call>
inline std::vector<float> rates_of(const Call& a) {
  std::vector<float> rates(a.heads);
  for (int64_t head = 0; head < a.heads; ++head) rates[head] = std::exp(a.a_log[head]);
  return rates;
}

template <typename T>
void gated_delta_as(const calls::gated_delta& a) {
  const int64_t padded = rounded_up(a.size, 16), keys = a.key_heads * a.size;
  const float root = 1.0f / std::sqrt(static_cast<float>(a.size));
  const auto rates = rates_of(a);
  auto prepare = [&](const T* query, int64_t token, int64_t head, float* key, float* gates) {
    unit_length(query + keys, key, a.size, 1.0f);
    unit_length(query, key + padded, a.size, root);
    const T* b = in<T>(a.gates) + token * a.two_heads + head;
    gates[0] = std::exp(-rates[head] * softplus(to_float(b[a.heads]) + a.dt_bias[head]));
    gates[1] = 1.0f / (1.0f + std::exp(-to_float(b[0])));
  };
  advance_states<Rule::delta, T>(a, {0, a.key_heads, 2 * keys}, nullptr, prepare);
}

template <typename T>
void kimi_delta_as(const calls::kimi_delta& a) {
  const int64_t padded = rounded_up(a.size, 16), keys = a.heads * a.size;
  const float root = 1.0f / std::sqrt(static_cast<float>(a.size));
  const auto rates = rates_of(a);
  auto prepare = [&](const T* query, int64_t token, int64_t head, float* key, float* gates) {
    unit_length(query + keys, key, a.size, 1.0f);
    unit_length(query, key + padded, a.size, root);
    const T* forget = in<T>(a.forget) + (token * a.heads + head) * a.size;
    const float rate = rates[head], *bias = a.dt_bias + head * a.size;
    for (int64_t j = 0; j < padded; ++j)
      key[2 * padded + j] = j < a.size ? std::exp(-rate * softplus(to_float(forget[j]) + bias[j])) : 0.0f;
    gates[0] = 1.0f;
    gates[1] = 1.0f / (1.0f + std::exp(-to_float(in<T>(a.beta)[token * a.heads + head])));
  };
  advance_states<Rule::delta_by_key, T>(a, {0, a.heads, 2 * keys}, nullptr, prepare);
}

template <typename T>
void state_space_as(const calls::state_space& a) {
  const int64_t padded = rounded_up(a.size, 16);
  const auto rates = rates_of(a);
  auto prepare = [&](const T* b, int64_t token, int64_t head, float* key, float* gates) {
    const T* c = b + a.groups * a.size;
    for (int64_t j = 0; j < a.size; j += 16) {
      store(key + j, load_upto16(b + j, a.size - j));
      store(key + padded + j, load_upto16(c + j, a.size - j));
    }
    const float step = softplus(to_float(in<T>(a.dt)[token * a.heads + head]) + a.dt_bias[head]);
    const float bounded = std::min(std::max(step, a.low), a.high);
    gates[0] = std::exp(-rates[head] * bounded);
    gates[1] = bounded;
  };
  advance_states<Rule::sum, T>(a, {a.heads * a.value, a.groups, 0}, a.skip, prepare);
}

}  // namespace KERNEL_ISA

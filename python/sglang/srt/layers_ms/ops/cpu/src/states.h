// Layers with a state: each request goes on from what its slot holds, and leaves there what the next step goes on from.
#pragma once
#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "elementwise.h"
#include "scratch.h"

namespace KERNEL_ISA {

constexpr int kMaxWindow = 15;  // earlier values of a channel

// The first row of each request.
inline std::vector<int64_t> first_rows(const int32_t* query_lens, int64_t requests) {
  std::vector<int64_t> rows(requests);
  for (int64_t i = 1; i < requests; ++i) rows[i] = rows[i - 1] + query_lens[i - 1];
  return rows;
}

template <typename T>
inline f32x16 load_upto16(const T* p, int64_t count) {
  return count >= 16 ? load(p) : load_part(p, count);
}

template <typename T>
inline void store_upto16(T* p, f32x16 x, int64_t count) {
  if (count >= 16) return store(p, x);
  for (int64_t i = 0; i < count; ++i) p[i] = from_float<T>(x[i]);
}

// x as a cache of C holds it: a token has the same effect whether it is read of the step or of a state.
template <typename C>
inline f32x16 rounded_to(f32x16 x) {
  C held[16];
  store(held, x);
  return load(held);
}
template <>
inline f32x16 rounded_to<float>(f32x16 x) {
  return x;
}

// A second slot of a request, and behind how many of its tokens of the step the state is left there: 0: nowhere.
template <typename Call>
inline int64_t tracked(const Call& a, int64_t request) {
  return a.track_slots[request] < 0 ? 0 : a.track_lens[request];
}

// Where the state behind each token of a request goes, `size` values a token; null: there is one state, the last.
template <typename State, typename Call>
State* intermediate_of(const Call& a, int64_t request, int64_t size) {
  if (!a.intermediate || a.intermediate_rows[request] < 0) return nullptr;
  return static_cast<State*>(a.intermediate) + a.intermediate_rows[request] * a.drafts * size;
}

// Of 16 channels with N values each, one behind the other, the n-th of all; and back. A chain of permutations of two
// registers takes what it wants of each vector in turn.
template <int N>
class Transposed {
  using Lanes16 = std::make_integer_sequence<int, 16>;
  template <int n>
  struct OfChannels {  // where lane i of the n-th values comes from
    static constexpr int at(int i) { return i * N + n; }
  };
  template <int v>
  struct OfValues {  // where lane i of what is the v-th vector again does
    static constexpr int at(int i) { return (16 * v + i) % N * 16 + (16 * v + i) / N; }
  };
  template <typename Place, int V>
  static constexpr int lane(int i) {
    return Place::at(i) / 16 == V ? 16 + Place::at(i) % 16 : V == 1 ? Place::at(i) % 16 : i;
  }
  template <typename Place, int V = 1, int... I>
  ALWAYS_INLINE static f32x16 chosen(f32x16 found, const f32x16 (&from)[N], std::integer_sequence<int, I...> all) {
    if constexpr (V == N)
      return found;
    else
      return chosen<Place, V + 1>(__builtin_shufflevector(found, from[V], lane<Place, V>(I)...), from, all);
  }

 public:
  template <typename T, int... J>
  ALWAYS_INLINE static void read(const T* p, f32x16 (&to)[N], std::integer_sequence<int, J...>) {
    const f32x16 whole[N] = {load(p + 16 * J)...};
    ((to[J] = chosen<OfChannels<J>>(whole[0], whole, Lanes16{})), ...);
  }
  template <typename T, int... J>
  ALWAYS_INLINE static void write(const f32x16 (&from)[N], T* p, std::integer_sequence<int, J...>) {
    (store(p + 16 * J, chosen<OfValues<J>>(from[0], from, Lanes16{})), ...);
  }
};

// f(integral constant N) for the N that convolutions have, and N = 0 for others.
template <typename F>
inline void with_count(int64_t count, F&& f) {
  if (count == 2) return f(std::integral_constant<int, 2>{});
  if (count == 3) return f(std::integral_constant<int, 3>{});
  if (count == 4) return f(std::integral_constant<int, 4>{});
  f(std::integral_constant<int, 0>{});
}

// `lines` [count, stride] in float32 of values [channels, count], and back.
template <typename T>
void lines_of(const T* values, int64_t channels, int64_t count, float* lines, int64_t stride) {
  with_count(count, [&](auto n) {
    int64_t channel = 0;
    if constexpr (n() > 0)
      for (; channel + 16 <= channels; channel += 16) {
        f32x16 found[n()];
        Transposed<n()>::read(values + channel * n(), found, std::make_integer_sequence<int, n()>{});
        for (int j = 0; j < n(); ++j) store(lines + j * stride + channel, found[j]);
      }
    for (; channel < channels; ++channel)
      for (int64_t j = 0; j < count; ++j) lines[j * stride + channel] = to_float(values[channel * count + j]);
  });
}
template <typename T, typename F>
void values_of_lines(int64_t channels, int64_t count, F&& line, T* values) {
  with_count(count, [&](auto n) {
    int64_t channel = 0;
    if constexpr (n() > 0)
      for (; channel + 16 <= channels; channel += 16) {
        f32x16 from[n()];
        for (int j = 0; j < n(); ++j) from[j] = load(line(j) + channel);
        Transposed<n()>::write(from, values + channel * n(), std::make_integer_sequence<int, n()>{});
      }
    for (; channel < channels; ++channel)
      for (int64_t j = 0; j < count; ++j) values[channel * count + j] = from_float<T>(line(j)[channel]);
  });
}

// Channels that a task computes: few enough that their last values stay in the first cache while tokens pass.
constexpr int64_t kChannelsTogether = 512, kLeastChannels = 64;

// Channels [first, first + count) of all requests. A ring has a line in float32 for each of the last `width` values.
template <typename T, typename C, bool gated>
void conv_channels(const calls::causal_conv& a, const std::vector<int64_t>& rows, int64_t first, int64_t count) {
  constexpr int64_t stride = kChannelsTogether;
  const int64_t window = a.window, width = a.width;
  alignas(64) float taps[(kMaxWindow + 1) * stride], ring[(kMaxWindow + 1) * stride];
  lines_of(in<T>(a.weight) + first * width, count, width, taps, stride);
  const T* bias = in<T>(a.bias);
  for (int64_t request = 0; request < a.requests; ++request) {
    auto of_slot = [&](int64_t slot) { return static_cast<C*>(a.state) + (slot * a.channels + first) * window; };
    C* apart = intermediate_of<C>(a, request, a.channels * window);
    const int64_t kept = tracked(a, request), tokens = a.query_lens[request];
    lines_of(of_slot(a.state_slots[request]), count, window, ring, stride);
    for (int64_t t = 0; t < tokens; ++t) {
      const T* x = in<T>(a.x) + (rows[request] + t) * a.columns + first;
      T* y = out<T>(a.out) + (rows[request] + t) * a.channels + first;
      auto line = [&](int64_t j) { return ring + (t + j) % width * stride; };  // of the j-th of the last values
      const float* past[kMaxWindow];
      for (int64_t j = 0; j < window; ++j) past[j] = line(j);
      float* now = line(window);
      for (int64_t i = 0; i < count; i += 16) {
        const int64_t rest = count - i;
        f32x16 value = load_upto16((gated ? x + 2 * a.channels : x) + i, rest);
        if (gated) value *= load_upto16(x + i, rest);
        if (gated || !std::is_same_v<T, C>) value = rounded_to<C>(value);
        f32x16 sum = bias ? load_upto16(bias + first + i, rest) : f32x16{};
        auto add = [&](int64_t j) { sum += load(taps + j * stride + i) * load(past[j] + i); };
        if (window == 3)  // most convolutions': without a loop
          add(0), add(1), add(2);
        else
          for (int64_t j = 0; j < window; ++j) add(j);
        sum += load(taps + window * stride + i) * value;
        store(now + i, value);
        store_upto16(y + i, gated ? sum * load_upto16(x + a.channels + i, rest) : activate(kSilu, sum), rest);
      }
      auto leave = [&](C* to) { values_of_lines(count, window, [&](int64_t j) { return line(j + 1); }, to); };
      if (t + 1 == kept) leave(of_slot(a.track_slots[request]));
      if (apart) leave(apart + (t * a.channels + first) * window);
      if (!apart && t + 1 == tokens) leave(of_slot(a.state_slots[request]));
    }
  }
}

template <typename T, typename C>
void causal_conv_as(const calls::causal_conv& a) {
  const auto rows = first_rows(a.query_lens, a.requests);
  const int64_t share = (a.channels / (4 * pool::threads()) + kLeastChannels - 1) / kLeastChannels * kLeastChannels;
  const int64_t piece = std::clamp(share, kLeastChannels, kChannelsTogether);
  pool::each((a.channels + piece - 1) / piece, [&](int64_t task) {
    const int64_t first = task * piece, count = std::min(piece, a.channels - first);
    a.gated ? conv_channels<T, C, true>(a, rows, first, count) : conv_channels<T, C, false>(a, rows, first, count);
  });
}

inline f32x16 sigmoid(f32x16 x) { return 1.0f / (1.0f + exp(-x)); }

template <typename T>
void sigmoid_gate_as(const calls::sigmoid_gate& a) {
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    const int64_t at = first * a.size, count = (last - first) * a.size;
    const T *x = in<T>(a.x) + at, *gate = in<T>(a.gate) + at;
    T* y = out<T>(a.out) + at;
    for (int64_t i = 0; i < count; i += 16) {
      const int64_t rest = count - i;
      store_upto16(y + i, load_upto16(x + i, rest) * sigmoid(load_upto16(gate + i, rest)), rest);
    }
  });
}

// x * silu(gate), of up to 16 values.
template <typename T>
inline f32x16 gated_upto16(const T* x, const T* gate, int64_t count) {
  return load_upto16(x, count) * activate(kSilu, load_upto16(gate, count));
}

template <typename T>
void gated_squares_as(const calls::gated_squares& a) {
  over_rows(a.tokens, a.columns, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T *x = in<T>(a.x) + row * a.columns, *gate = in<T>(a.gate) + row * a.columns;
      f32x16 squares{};
      for (int64_t i = 0; i < a.columns; i += 16) {
        const f32x16 value = gated_upto16(x + i, gate + i, a.columns - i);
        squares += value * value;
      }
      std::fill(a.out + row * a.groups, a.out + (row + 1) * a.groups, 0.0f);
      a.out[row * a.groups + a.own] = sum(squares);
    }
  });
}

template <typename T>
void gated_norm_tp_as(const calls::gated_norm_tp& a) {
  over_rows(a.tokens, a.columns, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T *x = in<T>(a.x) + row * a.columns, *gate = in<T>(a.gate) + row * a.columns, *weight = in<T>(a.weight);
      const float factor = inverse_root(a.sums[row * a.groups + a.own], static_cast<float>(a.group), a.eps);
      for (int64_t i = 0; i < a.columns; i += 16) {
        const int64_t rest = a.columns - i;
        const f32x16 value = gated_upto16(x + i, gate + i, rest) * factor * load_upto16(weight + i, rest);
        store_upto16(out<T>(a.out) + row * a.columns + i, value, rest);
      }
    }
  });
}

template <typename T>
void gated_norm_as(const calls::gated_norm& a) {
  over_rows(a.tokens * (a.columns / a.group), a.group, [&](int64_t first, int64_t last) {
    float* line = scratch<Purpose::gated_row, float>(a.group + 16);
    for (int64_t task = first; task < last; ++task) {
      const int64_t at = task * a.group;
      const T *x = in<T>(a.x) + at, *gate = in<T>(a.gate) + at, *weight = in<T>(a.weight) + at % a.weights;
      f32x16 squares{};
      for (int64_t i = 0; i < a.group; i += 16) {
        const int64_t rest = a.group - i;
        f32x16 value = load_upto16(x + i, rest);
        if (a.gate_first) {
          const f32x16 g = load_upto16(gate + i, rest);
          value *= a.sigmoid ? sigmoid(g) : activate(kSilu, g);
        }
        squares += value * value;
        store(line + i, value);
      }
      const float factor = inverse_root(sum(squares), static_cast<float>(a.group), a.eps);
      for (int64_t i = 0; i < a.group; i += 16) {
        const int64_t rest = a.group - i;
        f32x16 value = load(line + i) * factor * load_upto16(weight + i, rest);
        if (!a.gate_first) {
          const f32x16 g = load_upto16(gate + i, rest);
          value *= a.sigmoid ? sigmoid(g) : activate(kSilu, g);
        }
        store_upto16(out<T>(a.out) + at + i, value, rest);
      }
    }
  });
}

}  // namespace KERNEL_ISA

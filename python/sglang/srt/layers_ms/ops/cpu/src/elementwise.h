// Norms, sums, activations, and what becomes of queries, keys and values between projection and attention.
#pragma once
#include <algorithm>
#include <vector>

#include "float8.h"
#include "kernels.h"
#include "parallel.h"
#include "simd.h"

namespace KERNEL_ISA {

// A pointer to values of a kernel's type.
template <typename T>
const T* in(const void* p) {
  return static_cast<const T*>(p);
}
template <typename T>
T* out(void* p) {
  return static_cast<T*>(p);
}

constexpr int64_t kValuesPerTask = 8192;  // below this, waking a thread costs more than it brings

// f(first, last) over pieces of [0, rows) that are worth a thread each.
template <typename F>
void over_rows(int64_t rows, int64_t size, F&& f) {
  const int64_t piece = std::max<int64_t>(1, kValuesPerTask / std::max<int64_t>(size, 1));
  pool::each((rows + piece - 1) / piece, [&](int64_t task) { f(task * piece, std::min(rows, (task + 1) * piece)); });
}

// Calls vector(i) for whole vectors of [0, size) and scalar(i) for the rest.
template <typename V, typename S>
inline void over(int64_t size, V&& vector, S&& scalar) {
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) vector(i);
  for (; i < size; ++i) scalar(i);
}

template <typename T>
inline float sum_of_squares(const T* x, int64_t size) {
  f32x16 squares{};
  float rest = 0;
  over(
      size, [&](int64_t i) { squares += load(x + i) * load(x + i); },
      [&](int64_t i) { rest += to_float(x[i]) * to_float(x[i]); });
  return sum(squares) + rest;
}

inline float inverse_root(float squares, float count, float eps) { return 1.0f / std::sqrt(squares / count + eps); }

template <typename T>
inline float inverse_rms(const T* x, int64_t size, float eps) {
  return inverse_root(sum_of_squares(x, size), static_cast<float>(size), eps);
}

template <typename T>
inline void scale_columns(const T* x, const T* weight, T* y, int64_t size, float factor, float offset) {
  over(
      size, [&](int64_t i) { store(y + i, load(x + i) * factor * (load(weight + i) + offset)); },
      [&](int64_t i) { y[i] = from_float<T>(to_float(x[i]) * factor * (to_float(weight[i]) + offset)); });
}

template <typename T>
inline void normalize(const T* x, const T* weight, T* y, int64_t size, RMS rms) {
  scale_columns(x, weight, y, size, inverse_rms(x, size, rms.eps), rms.offset);
}

template <typename T>
void rms_norm_as(const calls::rms_norm& a) {
  const T *x = in<T>(a.x), *weight = in<T>(a.weight);
  T* y = out<T>(a.out);
  const int64_t size = a.size;
  const RMS rms{a.eps, a.offset};
  over_rows(a.tokens * (a.columns / size), size, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) normalize(x + i * size, weight, y + i * size, size, rms);
  });
}

// The mean first and the variance about it then: the difference of their sums would lose what is left of large means.
template <typename T>
inline void center_and_normalize(const T* x, const T* weight, const T* bias, T* y, int64_t size, float eps) {
  f32x16 values{}, squares{};
  float value = 0, square = 0;
  over(size, [&](int64_t i) { values += load(x + i); }, [&](int64_t i) { value += to_float(x[i]); });
  const float mean = (sum(values) + value) / static_cast<float>(size);
  over(
      size, [&](int64_t i) { squares += (load(x + i) - mean) * (load(x + i) - mean); },
      [&](int64_t i) { square += (to_float(x[i]) - mean) * (to_float(x[i]) - mean); });
  const float factor = 1.0f / std::sqrt((sum(squares) + square) / static_cast<float>(size) + eps);
  over(
      size,
      [&](int64_t i) {
        const f32x16 scaled = (load(x + i) - mean) * factor * load(weight + i);
        store(y + i, bias ? scaled + load(bias + i) : scaled);
      },
      [&](int64_t i) {
        const float scaled = (to_float(x[i]) - mean) * factor * to_float(weight[i]);
        y[i] = from_float<T>(bias ? scaled + to_float(bias[i]) : scaled);
      });
}

template <typename T>
void layer_norm_as(const calls::layer_norm& a) {
  const T *x = in<T>(a.x), *weight = in<T>(a.weight), *bias = in<T>(a.bias);
  T* y = out<T>(a.out);
  const int64_t size = a.size;
  over_rows(a.tokens * (a.columns / size), size, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) center_and_normalize(x + i * size, weight, bias, y + i * size, size, a.eps);
  });
}

template <typename T>
void add_as(const calls::add& a) {
  const T *x = in<T>(a.x), *other = in<T>(a.y);
  T* y = out<T>(a.out);
  const float factor = a.factor;
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    const int64_t at = first * a.size, count = (last - first) * a.size;
    over(
        count, [&](int64_t i) { store(y + at + i, load(x + at + i) + load(other + at + i) * factor); },
        [&](int64_t i) { y[at + i] = from_float<T>(to_float(x[at + i]) + to_float(other[at + i]) * factor); });
  });
}

template <typename T>
void scale_as(const calls::scale& a) {
  const T* x = in<T>(a.x);
  T* y = out<T>(a.out);
  const float factor = a.factor;
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    const int64_t at = first * a.size, count = (last - first) * a.size;
    over(
        count, [&](int64_t i) { store(y + at + i, load(x + at + i) * factor); },
        [&](int64_t i) { y[at + i] = from_float<T>(to_float(x[at + i]) * factor); });
  });
}

template <typename T>
void take_columns_as(const calls::take_columns& a) {
  const T* x = in<T>(a.x);
  T* y = out<T>(a.out);
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      for (int64_t i = 0; i < a.size; ++i) y[row * a.size + i] = x[row * a.size + a.order[i]];
  });
}

template <typename T>
void concat_columns_as(const calls::concat_columns& a) {
  const T *x = in<T>(a.x), *other = in<T>(a.y);
  T* y = out<T>(a.out);
  const int64_t width = a.size + a.other;
  over_rows(a.tokens, width, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      std::copy_n(x + row * a.size, a.size, y + row * width);
      std::copy_n(other + row * a.other, a.other, y + row * width + a.size);
    }
  });
}

template <typename T>
void scale_by_as(const calls::scale_by& a) {
  const float factor = a.factor[0];
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    const T* x = in<T>(a.x) + first * a.size;
    T* to = out<T>(a.out) + first * a.size;
    over((last - first) * a.size, [&](int64_t i) { store(to + i, load(x + i) * factor); },
         [&](int64_t i) { to[i] = from_float<T>(to_float(x[i]) * factor); });
  });
}

template <typename T>
void clip_as(const calls::clip& a) {
  const float limit = a.limit;
  const f32x16 high = splat(limit), low = splat(-limit);
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    const T* from = in<T>(a.x) + first * a.size;
    T* to = out<T>(a.out) + first * a.size;
    over((last - first) * a.size,
         [&](int64_t i) {
           const f32x16 value = load(from + i), below = value > high ? high : value;
           store(to + i, below < low ? low : below);
         },
         [&](int64_t i) { to[i] = from_float<T>(std::min(std::max(to_float(from[i]), -limit), limit)); });
  });
}

template <typename T>
void qk_norm_as(const calls::qk_norm& a) {
  const int64_t columns = a.q_size + 2 * a.kv_size;
  over_rows(a.tokens, columns, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T* x = static_cast<const T*>(a.qkv) + row * columns;
      T* y = static_cast<T*>(a.out) + row * columns;
      auto normalize_part = [&](const void* weights, int64_t size) {
        const int64_t group = a.whole ? size : a.head_dim;
        for (int64_t i = 0; i < size; i += group) {
          const T* weight = static_cast<const T*>(weights) + i;
          if (a.centered)
            center_and_normalize<T>(x + i, weight, nullptr, y + i, group, a.eps);
          else
            normalize(x + i, weight, y + i, group, {a.eps, 0.0f});
        }
        x += size, y += size;
      };
      normalize_part(a.q_weight, a.q_size);
      normalize_part(a.k_weight, a.kv_size);
      std::copy(x, x + a.kv_size, y);
    }
  });
}

template <typename T>
void qk_sum_squares_as(const calls::qk_sum_squares& a) {
  over_rows(a.tokens, a.columns, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T* x = in<T>(a.qkv) + row * a.columns;
      a.out[2 * row] = sum_of_squares(x, a.q_size);
      a.out[2 * row + 1] = sum_of_squares(x + a.q_size, a.kv_size);
    }
  });
}

template <typename T>
void qk_rms_norm_tp_as(const calls::qk_rms_norm_tp& a) {
  const int64_t columns = a.q_size + 2 * a.kv_size;
  over_rows(a.tokens, columns, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T *q = static_cast<const T*>(a.qkv) + row * columns, *k = q + a.q_size, *v = k + a.kv_size;
      T* y = static_cast<T*>(a.out) + row * columns;
      const float q_factor = inverse_root(a.sums[2 * row], a.q_count, a.eps);
      const float k_factor = inverse_root(a.sums[2 * row + 1], a.k_count, a.eps);
      scale_columns(q, static_cast<const T*>(a.q_weight), y, a.q_size, q_factor, 0.0f);
      scale_columns(k, static_cast<const T*>(a.k_weight), y + a.q_size, a.kv_size, k_factor, 0.0f);
      std::copy(v, v + a.kv_size, y + a.q_size + a.kv_size);
    }
  });
}

template <typename T>
void add_rms_norm_as(const calls::add_rms_norm& a) {
  const T *x = in<T>(a.x), *residual = in<T>(a.residual), *weight = in<T>(a.weight);
  T *y = out<T>(a.out), *total = out<T>(a.total);
  const int64_t size = a.size;
  const RMS rms{a.eps, a.offset};
  over_rows(a.tokens, size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t at = row * size;
      over(
          size, [&](int64_t i) { store(total + at + i, load(x + at + i) + load(residual + at + i)); },
          [&](int64_t i) { total[at + i] = from_float<T>(to_float(x[at + i]) + to_float(residual[at + i])); });
      normalize(total + at, weight, y + at, size, rms);
    }
  });
}

template <typename T>
void sum_as(const void* const* rows, int count, T* y, int64_t size) {
  over(
      size,
      [&](int64_t i) {
        f32x16 total = load(static_cast<const T*>(rows[0]) + i);
        for (int row = 1; row < count; ++row) total += load(static_cast<const T*>(rows[row]) + i);
        store(y + i, total);
      },
      [&](int64_t i) {
        float total = to_float(static_cast<const T*>(rows[0])[i]);
        for (int row = 1; row < count; ++row) total += to_float(static_cast<const T*>(rows[row])[i]);
        y[i] = from_float<T>(total);
      });
}

// e^x: the power of two by its exponent bits, the rest by a polynomial; relative error about 2e-7.
inline f32x16 exp(f32x16 x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  x = x > 88.0f ? splat(88.0f) : x;
  const f32x16 shifted = x * 1.44269504f + 12582912.0f;  // rounds to an integer in the low bits
  const f32x16 whole = shifted - 12582912.0f;
  const f32x16 r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  f32x16 p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const u32x16 power = ((u32x16)shifted + 127u) << 23;
  return p * (f32x16)power;
}

enum Activation { kSilu = 0, kGelu = 1, kGeluTanh = 2, kRelu = 4, kReluSquared = 5 };

inline f32x16 activate(int activation, f32x16 x) {
  if (activation == kSilu) return x / (1.0f + exp(-x));
  if (activation >= kRelu) {
    const f32x16 above = x < 0.0f ? f32x16{} : x;  // NaN stays
    return activation == kRelu ? above : above * above;
  }
  if (activation == kGeluTanh) {
    const f32x16 inner = 0.7978845608f * (x + 0.044715f * x * x * x);
    return x * (1.0f - 1.0f / (1.0f + exp(2.0f * inner)));
  }
  f32x16 y;
  for (int i = 0; i < 16; ++i) y[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.7071067812f));
  return y;
}

// out = f(x), value by value; f of 16 of them.
template <typename T, typename Call, typename F>
void map_values(const Call& a, F&& f) {
  over_rows(a.tokens, a.columns, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T* from = in<T>(a.x) + row * a.columns;
      T* to = out<T>(a.out) + row * a.columns;
      over(
          a.columns, [&](int64_t i) { store(to + i, f(load(from + i))); },
          [&](int64_t i) { to[i] = from_float<T>(f(splat(to_float(from[i])))[0]); });
    }
  });
}

template <typename T>
void xielu_as(const calls::xielu& a) {
  const float p = std::log1p(std::exp(in<float>(a.alpha_p)[0]));
  const float n = a.beta + std::log1p(std::exp(in<float>(a.alpha_n)[0])), beta = a.beta, eps = a.eps;
  map_values<T>(a, [=](f32x16 x) {
    const f32x16 least = x < eps ? x : splat(eps);
    const f32x16 below = (exp(least) - 1.0f - x) * n, above = x * x * p;
    return (x > 0.0f ? above : below) + x * beta;
  });
}

template <typename T>
void gate_heads_as(const calls::gate_heads& a) {
  const int64_t size = a.columns / a.heads;
  over_rows(a.tokens, a.columns, [&](int64_t first, int64_t last) {
    for (int64_t row = first * a.heads; row < last * a.heads; ++row) {
      const T* from = in<T>(a.x) + row * size;
      T* to = out<T>(a.out) + row * size;
      const float factor = 1.0f / (1.0f + std::exp(-to_float(in<T>(a.gate)[row])));
      over(
          size, [&](int64_t i) { store(to + i, load(from + i) * factor); },
          [&](int64_t i) { to[i] = from_float<T>(to_float(from[i]) * factor); });
    }
  });
}

template <typename T>
void scale_by_position_as(const calls::scale_by_position& a) {
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T* from = in<T>(a.x) + row * a.size;
      T* to = out<T>(a.out) + row * a.size;
      const float factor = in<float>(a.factors)[a.positions[row]];
      over(
          a.columns, [&](int64_t i) { store(to + i, load(from + i) * factor); },
          [&](int64_t i) { to[i] = from_float<T>(to_float(from[i]) * factor); });
      std::copy(from + a.columns, from + a.size, to + a.columns);
    }
  });
}

template <typename T, typename Call>
void act_and_mul(int activation, const Call& a) {
  const T* gate_up = in<T>(a.gate_up);
  T* y = out<T>(a.out);
  const int64_t size = a.columns / 2;
  over_rows(a.tokens, size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T *gate = gate_up + row * 2 * size, *up = gate + size;
      T* out = y + row * size;
      over(
          size, [&](int64_t i) { store(out + i, activate(activation, load(gate + i)) * load(up + i)); },
          [&](int64_t i) {
            out[i] = from_float<T>(activate(activation, splat(to_float(gate[i])))[0] * to_float(up[i]));
          });
    }
  });
}

template <typename T>
void silu_and_mul_as(const calls::silu_and_mul& a) {
  act_and_mul<T>(kSilu, a);
}
inline f32x16 silu_and_mul_clamped(f32x16 gate, f32x16 up, float most) {
  const f32x16 limit = splat(most);
  gate = activate(kSilu, gate);
  gate = gate > limit ? limit : gate;
  up = up > limit ? limit : up;
  return gate * (up < -limit ? -limit : up);
}

template <typename T>
void silu_and_mul_clamped_as(const calls::silu_and_mul_clamped& a) {
  const int64_t size = a.columns / 2;
  const float limit = a.limit;
  over_rows(a.tokens, size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T *gate = in<T>(a.gate_up) + row * 2 * size, *up = gate + size;
      T* to = out<T>(a.out) + row * size;
      over(
          size, [&](int64_t i) { store(to + i, silu_and_mul_clamped(load(gate + i), load(up + i), limit)); },
          [&](int64_t i) {
            const f32x16 one = splat(to_float(gate[i])), other = splat(to_float(up[i]));
            to[i] = from_float<T>(silu_and_mul_clamped(one, other, limit)[0]);
          });
    }
  });
}

template <typename T>
void gelu_and_mul_as(const calls::gelu_and_mul& a) {
  act_and_mul<T>(kGelu, a);
}
template <typename T>
void gelu_tanh_and_mul_as(const calls::gelu_tanh_and_mul& a) {
  act_and_mul<T>(kGeluTanh, a);
}

// One head, widened, and normalized if there is a weight.
template <typename T>
inline void widen_head(const T* in, float* head, const T* weight, RMS rms, int64_t head_dim) {
  if (!weight) {
    over(head_dim, [&](int64_t i) { store(head + i, load(in + i)); }, [&](int64_t i) { head[i] = to_float(in[i]); });
    return;
  }
  const float factor = inverse_rms(in, head_dim, rms.eps), offset = rms.offset;
  over(
      head_dim, [&](int64_t i) { store(head + i, load(in + i) * factor * (load(weight + i) + offset)); },
      [&](int64_t i) { head[i] = to_float(in[i]) * factor * (to_float(weight[i]) + offset); });
}

template <typename T>
inline void normalize_head(float* head, const T* weight, RMS rms, int64_t head_dim) {
  const float factor = inverse_rms(head, head_dim, rms.eps), offset = rms.offset;
  over(
      head_dim, [&](int64_t i) { store(head + i, load(head + i) * factor * (load(weight + i) + offset)); },
      [&](int64_t i) { head[i] *= factor * (to_float(weight[i]) + offset); });
}

// Rotates the first 2 * half values: neighbors against each other, or the first half against the second.
inline void rotate(float* head, const float* cos, const float* sin, int64_t half, bool interleaved) {
  if (interleaved) {
    for (int64_t i = 0; i < half; ++i) {
      const float left = head[2 * i], right = head[2 * i + 1];
      head[2 * i] = left * cos[i] - right * sin[i];
      head[2 * i + 1] = right * cos[i] + left * sin[i];
    }
    return;
  }
  float* other = head + half;
  over(
      half,
      [&](int64_t i) {
        const f32x16 left = load(head + i), right = load(other + i), c = load(cos + i), s = load(sin + i);
        store(head + i, left * c - right * s);
        store(other + i, right * c + left * s);
      },
      [&](int64_t i) {
        const float left = head[i], right = other[i];
        head[i] = left * cos[i] - right * sin[i];
        other[i] = right * cos[i] + left * sin[i];
      });
}

template <typename To>
inline void narrow(const float* from, To* to, int64_t size, float factor = 1.0f) {
  over(
      size, [&](int64_t i) { store(to + i, load(from + i) * factor); },
      [&](int64_t i) { to[i] = from_float<To>(from[i] * factor); });
}

template <typename T>
void turn_queries_as(const calls::turn_queries& a) {
  const RMS rms{a.eps, 0.0f};
  over_rows(a.tokens, a.columns, [&](int64_t first, int64_t last) {
    std::vector<float> head(a.head_dim + 16);
    for (int64_t row = first; row < last; ++row) {
      const float *cos = a.cos + a.positions[row] * a.half, *sin = a.sin + a.positions[row] * a.half;
      for (int64_t at = row * a.columns; at < (row + 1) * a.columns; at += a.head_dim) {
        widen_head(in<T>(a.q) + at, head.data(), in<T>(a.norm), rms, a.head_dim);
        rotate(head.data(), cos, sin, a.half, false);
        narrow(head.data(), out<T>(a.out) + at, a.head_dim);
      }
    }
  });
}

template <typename T, typename C>
void qkv_to_cache_as(const calls::qkv_to_cache& a) {
  const RMS rms{a.eps, a.offset};
  const int64_t columns = (a.heads + 2 * a.kv_heads) * a.head_dim;
  const float k_factor = a.kv_scales ? 1.0f / a.kv_scales[0] : 1.0f;
  const float v_factor = a.kv_scales ? 1.0f / a.kv_scales[1] : 1.0f;
  over_rows(a.tokens, columns, [&](int64_t first, int64_t last) {
    std::vector<float> head(a.head_dim + 16);
    for (int64_t row = first; row < last; ++row) {
      const T* from = in<T>(a.qkv) + row * columns;
      T* q = static_cast<T*>(a.q) + row * a.heads * a.head_dim;
      C* k = static_cast<C*>(a.k_cache) + a.slots[row] * a.kv_heads * a.head_dim;
      C* v = static_cast<C*>(a.v_cache) + a.slots[row] * a.kv_heads * a.head_dim;
      const float *cos = a.cos + a.positions[row] * a.half, *sin = a.sin + a.positions[row] * a.half;
      for (int64_t i = 0; i < a.heads + a.kv_heads; ++i, from += a.head_dim) {
        const T* weight = static_cast<const T*>(i < a.heads ? a.q_norm : a.k_norm);
        widen_head(from, head.data(), a.norm_last ? nullptr : weight, rms, a.head_dim);
        rotate(head.data(), cos, sin, a.half, a.interleaved);
        if (a.norm_last && weight) normalize_head(head.data(), weight, rms, a.head_dim);
        if (i < a.heads)
          narrow(head.data(), q + i * a.head_dim, a.head_dim);
        else
          narrow(head.data(), k + (i - a.heads) * a.head_dim, a.head_dim, k_factor);
      }
      over(
          a.kv_heads * a.head_dim, [&](int64_t i) { store(v + i, load(from + i) * v_factor); },
          [&](int64_t i) { v[i] = from_float<C>(to_float(from[i]) * v_factor); });
    }
  });
}

}  // namespace KERNEL_ISA

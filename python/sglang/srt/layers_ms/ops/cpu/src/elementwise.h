// Norms, activations, and what becomes of queries, keys and values between projection and attention.
#pragma once
#include <algorithm>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "simd.h"

namespace KERNEL_ISA {

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
inline float inverse_rms(const T* x, int64_t size, float eps) {
  f32x16 squares{};
  float rest = 0;
  over(size, [&](int64_t i) { squares += load(x + i) * load(x + i); },
       [&](int64_t i) { rest += to_float(x[i]) * to_float(x[i]); });
  return 1.0f / std::sqrt((sum(squares) + rest) / static_cast<float>(size) + eps);
}

template <typename T>
inline void normalise(const T* x, const T* weight, T* y, int64_t size, float eps) {
  const float factor = inverse_rms(x, size, eps);
  over(size, [&](int64_t i) { store(y + i, load(x + i) * factor * load(weight + i)); },
       [&](int64_t i) { y[i] = from_float<T>(to_float(x[i]) * factor * to_float(weight[i])); });
}

template <typename T>
void rms_norm_as(const T* x, const T* weight, T* y, float eps, int64_t groups, int64_t size) {
  over_rows(groups, size, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) normalise(x + i * size, weight, y + i * size, size, eps);
  });
}

template <typename T>
void add_rms_norm_as(const T* x, const T* residual, const T* weight, T* y, T* total, float eps, int64_t rows,
                     int64_t size) {
  over_rows(rows, size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t at = row * size;
      over(size, [&](int64_t i) { store(total + at + i, load(x + at + i) + load(residual + at + i)); },
           [&](int64_t i) { total[at + i] = from_float<T>(to_float(x[at + i]) + to_float(residual[at + i])); });
      normalise(total + at, weight, y + at, size, eps);
    }
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

enum Activation { kSilu = 0, kGelu = 1, kGeluTanh = 2 };

inline f32x16 activate(int activation, f32x16 x) {
  if (activation == kSilu) return x / (1.0f + exp(-x));
  if (activation == kGeluTanh) {
    const f32x16 inner = 0.7978845608f * (x + 0.044715f * x * x * x);
    return x * (1.0f - 1.0f / (1.0f + exp(2.0f * inner)));
  }
  f32x16 y;
  for (int i = 0; i < 16; ++i) y[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.7071067812f));
  return y;
}

template <typename T>
void act_and_mul_as(int activation, const T* gate_up, T* y, int64_t rows, int64_t size) {
  over_rows(rows, size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T *gate = gate_up + row * 2 * size, *up = gate + size;
      T* out = y + row * size;
      over(size, [&](int64_t i) { store(out + i, activate(activation, load(gate + i)) * load(up + i)); },
           [&](int64_t i) {
             out[i] = from_float<T>(activate(activation, splat(to_float(gate[i])))[0] * to_float(up[i]));
           });
    }
  });
}

// One head, widened: normalised if there is a weight, its first 2 * half values rotated.
template <typename T>
inline void prepare_head(const T* in, float* head, const T* weight, float eps, const float* cos, const float* sin,
                         int64_t head_dim, int64_t half) {
  const float factor = weight ? inverse_rms(in, head_dim, eps) : 1.0f;
  over(head_dim, [&](int64_t i) { store(head + i, load(in + i) * factor * (weight ? load(weight + i) : splat(1.0f))); },
       [&](int64_t i) { head[i] = to_float(in[i]) * factor * (weight ? to_float(weight[i]) : 1.0f); });
  float* other = head + half;
  over(half,
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
inline void narrow(const float* from, To* to, int64_t size) {
  over(size, [&](int64_t i) { store(to + i, load(from + i)); }, [&](int64_t i) { to[i] = from_float<To>(from[i]); });
}

template <typename T, typename C>
void qkv_to_cache_as(const QKV& a) {
  const int64_t columns = (a.heads + 2 * a.kv_heads) * a.head_dim;
  over_rows(a.tokens, columns, [&](int64_t first, int64_t last) {
    std::vector<float> head(a.head_dim + 16);
    for (int64_t row = first; row < last; ++row) {
      const T* in = static_cast<const T*>(a.qkv) + row * columns;
      T* q = static_cast<T*>(a.q) + row * a.heads * a.head_dim;
      C* k = static_cast<C*>(a.k_cache) + a.slots[row] * a.kv_heads * a.head_dim;
      C* v = static_cast<C*>(a.v_cache) + a.slots[row] * a.kv_heads * a.head_dim;
      const float *cos = a.cos + a.positions[row] * a.half, *sin = a.sin + a.positions[row] * a.half;
      for (int64_t i = 0; i < a.heads + a.kv_heads; ++i, in += a.head_dim) {
        const T* weight = static_cast<const T*>(i < a.heads ? a.q_norm : a.k_norm);
        prepare_head(in, head.data(), weight, a.eps, cos, sin, a.head_dim, a.half);
        if (i < a.heads)
          narrow(head.data(), q + i * a.head_dim, a.head_dim);
        else
          narrow(head.data(), k + (i - a.heads) * a.head_dim, a.head_dim);
      }
      over(a.kv_heads * a.head_dim, [&](int64_t i) { store(v + i, load(in + i)); },
           [&](int64_t i) { v[i] = from_float<C>(to_float(in[i])); });
    }
  });
}

}  // namespace KERNEL_ISA

// What vision towers compute beside products, norms and attention: activations, rows by their index, three positions.
#pragma once
#include "elementwise.h"
#include "kernels.h"
#include "scratch.h"

namespace KERNEL_ISA {

template <typename T>
void activate_as(const calls::activate& a) {
  const T* x = in<T>(a.x);
  T* y = out<T>(a.out);
  const auto value = [&](f32x16 v) {
    if (a.kind == 3) return v / (1.0f + exp(-1.702f * v));  // quick_gelu
    if (a.kind == 6) return 2.0f / (1.0f + exp(-2.0f * v)) - 1.0f;
    return activate(static_cast<int>(a.kind), v);
  };
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    over((last - first) * a.size,
         [&](int64_t i) { store(y + first * a.size + i, value(load(x + first * a.size + i))); },
         [&](int64_t i) {
           const int64_t at = first * a.size + i;
           y[at] = from_float<T>(value(splat(to_float(x[at])))[0]);
         });
  });
}

template <typename T>
void take_rows_as(const calls::take_rows& a) {
  const T* x = in<T>(a.x);
  T* y = out<T>(a.out);
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      if (a.rows[row] < 0)
        std::memset(static_cast<void*>(y + row * a.size), 0, a.size * sizeof(T));
      else
        std::memcpy(static_cast<void*>(y + row * a.size), x + a.rows[row] * a.size, a.size * sizeof(T));
    }
  });
}

template <typename T>
void put_rows_as(const calls::put_rows& a) {
  T* y = out<T>(a.out);
  over_rows(a.tokens, a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T* from = a.mask[row] ? in<T>(a.rows) : in<T>(a.x);
      std::memcpy(static_cast<void*>(y + row * a.size), from + row * a.size, a.size * sizeof(T));
    }
  });
}

template <typename T>
void mrope_as(const calls::mrope& a) {
  const RMS rms{a.eps, 0.0f};
  const int32_t* places[] = {a.t, a.h, a.w};
  over_rows(a.tokens, a.columns, [&](int64_t first, int64_t last) {
    float* head = scratch<Purpose::line, float>(a.size + 2 * a.half + 48);
    float *cos = head + a.size + 16, *sin = cos + a.half + 16;
    for (int64_t row = first; row < last; ++row) {
      for (int64_t i = 0; i < a.half; ++i) {
        const int64_t at = places[a.axes[i]][row] * a.half + i;
        cos[i] = a.cos[at], sin[i] = a.sin[at];
      }
      const T* from = in<T>(a.qkv) + row * a.columns;
      T* to = out<T>(a.out) + row * a.columns;
      const int64_t turned = (a.heads + a.kv_heads) * a.size;
      for (int64_t i = 0; i < a.heads + a.kv_heads; ++i) {
        widen_head(from + i * a.size, head, in<T>(i < a.heads ? a.q_norm : a.k_norm), rms, a.size);
        rotate(head, cos, sin, a.half, false);
        narrow(head, to + i * a.size, a.size);
      }
      std::memcpy(static_cast<void*>(to + turned), from + turned, (a.columns - turned) * sizeof(T));
    }
  });
}

}  // namespace KERNEL_ISA

// All kernels, for the instruction set that this file is compiled for; KERNEL_ISA names it.
#include "attention.h"
#include "elementwise.h"
#include "experts.h"
#include "kernels.h"
#include "linear.h"
#include "mla.h"

namespace KERNEL_ISA {
namespace {

// Calls f with a null pointer of the element type that dtype stands for.
template <typename F>
void with(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::f32: return f(static_cast<float*>(nullptr));
    case Dtype::f16: return f(static_cast<f16*>(nullptr));
    case Dtype::bf16: return f(static_cast<bf16*>(nullptr));
  }
}

#define TYPE(pointer) std::remove_pointer_t<decltype(pointer)>

template <typename T>
const T* in(const void* p) { return static_cast<const T*>(p); }
template <typename T>
T* out(void* p) { return static_cast<T*>(p); }

void pack(Dtype dtype, void* weight, int64_t n, int64_t k) {
  with(dtype, [&](auto* t) { repack<TYPE(t), true>(weight, n, k); });
}

void unpack(Dtype dtype, void* weight, int64_t n, int64_t k) {
  with(dtype, [&](auto* t) { repack<TYPE(t), false>(weight, n, k); });
}

void linear(Dtype dtype, const void* x, const void* weight, const void* bias, void* y, bool wide, int64_t rows,
            int64_t k, int64_t n, int64_t first) {
  with(dtype, [&](auto* t) {
    using T = TYPE(t);
    if (wide) return linear_as<T, float>(in<T>(x), in<T>(weight), in<T>(bias), out<float>(y), rows, k, n, first);
    linear_as<T, T>(in<T>(x), in<T>(weight), in<T>(bias), out<T>(y), rows, k, n, first);
  });
}

void embedding(Dtype dtype, const int32_t* ids, const void* weight, void* y, int64_t first, int64_t tokens, int64_t n,
               int64_t k) {
  with(dtype, [&](auto* t) {
    using T = TYPE(t);
    embedding_as(ids, in<T>(weight), out<T>(y), first, tokens, n, k);
  });
}

void rms_norm(Dtype dtype, const void* x, const void* weight, void* y, RMS rms, int64_t groups, int64_t size) {
  with(dtype, [&](auto* t) {
    using T = TYPE(t);
    rms_norm_as(in<T>(x), in<T>(weight), out<T>(y), rms, groups, size);
  });
}

void add_rms_norm(Dtype dtype, const void* x, const void* residual, const void* weight, void* y, void* total, RMS rms,
                  int64_t rows, int64_t size) {
  with(dtype, [&](auto* t) {
    using T = TYPE(t);
    add_rms_norm_as(in<T>(x), in<T>(residual), in<T>(weight), out<T>(y), out<T>(total), rms, rows, size);
  });
}

void layer_norm(Dtype dtype, const void* x, const void* weight, const void* bias, void* y, float eps, int64_t groups,
                int64_t size) {
  with(dtype, [&](auto* t) {
    using T = TYPE(t);
    layer_norm_as(in<T>(x), in<T>(weight), in<T>(bias), out<T>(y), eps, groups, size);
  });
}

void add(Dtype dtype, const void* x, const void* other, void* y, float factor, int64_t rows, int64_t size) {
  with(dtype, [&](auto* t) {
    using T = TYPE(t);
    add_as(in<T>(x), in<T>(other), out<T>(y), factor, rows, size);
  });
}

void qk_norm(Dtype dtype, const QKNorm& a) {
  with(dtype, [&](auto* t) { qk_norm_as<TYPE(t)>(a); });
}

void qk_sum_squares(Dtype dtype, const void* qkv, float* y, int64_t rows, int64_t q_size, int64_t kv_size) {
  with(dtype, [&](auto* t) { qk_sum_squares_as(in<TYPE(t)>(qkv), y, rows, q_size, kv_size); });
}

void qk_rms_norm_tp(Dtype dtype, const QKNorm& a, const float* sums, float q_count, float k_count) {
  with(dtype, [&](auto* t) { qk_rms_norm_tp_as<TYPE(t)>(a, sums, q_count, k_count); });
}

void act_and_mul(Dtype dtype, int activation, const void* gate_up, void* y, int64_t rows, int64_t size) {
  with(dtype, [&](auto* t) {
    using T = TYPE(t);
    act_and_mul_as(activation, in<T>(gate_up), out<T>(y), rows, size);
  });
}

void qkv_to_cache(const QKV& a) {
  with(a.dtype, [&](auto* t) {
    using T = TYPE(t);
    with(a.cache_dtype, [&](auto* c) {
      using C = TYPE(c);
      qkv_to_cache_as<T, C>(a);
    });
  });
}

void attention(const Attention& a) {
  with(a.dtype, [&](auto* t) {
    using T = TYPE(t);
    with(a.cache_dtype, [&](auto* c) {
      using C = TYPE(c);
      attention_as<T, C>(a);
    });
  });
}

void route(const Route& a) { route_as(a); }

void experts(const Experts& a) {
  with(a.dtype, [&](auto* t) { experts_as<TYPE(t)>(a); });
}

void add_gated(Dtype dtype, const void* x, const void* other, const void* gate, void* y, int64_t rows, int64_t size) {
  with(dtype, [&](auto* t) {
    using T = TYPE(t);
    add_gated_as(in<T>(x), in<T>(other), in<T>(gate), out<T>(y), rows, size);
  });
}

void sum(Dtype dtype, const void* const* rows, int count, void* y, int64_t size) {
  with(dtype, [&](auto* t) {
    using T = TYPE(t);
    sum_as(rows, count, out<T>(y), size);
  });
}

void clip(Dtype dtype, const void* x, void* y, float limit, int64_t rows, int64_t size) {
  with(dtype, [&](auto* t) { clip_as(in<TYPE(t)>(x), out<TYPE(t)>(y), limit, rows, size); });
}

void mla_to_cache(const MLARows& a) {
  with(a.dtype, [&](auto* t) {
    using T = TYPE(t);
    with(a.cache_dtype, [&](auto* c) {
      using C = TYPE(c);
      mla_to_cache_as<T, C>(a);
    });
  });
}

void mla_attention(const MLAAttention& a) {
  with(a.dtype, [&](auto* t) {
    using T = TYPE(t);
    with(a.cache_dtype, [&](auto* c) {
      using C = TYPE(c);
      mla_attention_as<T, C>(a);
    });
  });
}

#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)

}  // namespace

extern const Kernels kernels;
const Kernels kernels{NAME(KERNEL_ISA), pack, unpack,       linear,      embedding,    rms_norm, add_rms_norm,
                      layer_norm,       add,  qk_norm, qk_sum_squares,  qk_rms_norm_tp, act_and_mul, qkv_to_cache, attention,
                      route,            experts, add_gated, sum, clip, mla_to_cache, mla_attention};

}  // namespace KERNEL_ISA

// All kernels, for the instruction set that this file is compiled for; KERNEL_ISA names it.
#include "altup.h"
#include "attention.h"
#include "elementwise.h"
#include "experts.h"
#include "kernels.h"
#include "linear.h"
#include "lora.h"
#include "mla.h"
#include "recurrent.h"
#include "segments.h"
#include "sparse.h"
#include "states.h"
#include "vision.h"

namespace KERNEL_ISA {
namespace {

// Calls f with a null pointer of the element type that dtype stands for.
template <typename F>
void with(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::f32: return f(static_cast<float*>(nullptr));
    case Dtype::f16: return f(static_cast<f16*>(nullptr));
    case Dtype::bf16: return f(static_cast<bf16*>(nullptr));
    case Dtype::e4m3: break;  // of caches only
  }
}

// The same of a cache's.
template <typename F>
void with_cache(Dtype dtype, F&& f) {
  if (dtype == Dtype::e4m3) return f(static_cast<e4m3*>(nullptr));
  with(dtype, f);
}

// The same of a format's blocks, and of the activations that they are multiplied with.
template <typename F>
void with(Format format, F&& f) {
  switch (format) {
#define ROW(name, dtype, type, block, bytes, activation, activations) \
  case Format::name: return f(static_cast<type*>(nullptr), static_cast<activations*>(nullptr));
    WEIGHT_FORMATS(ROW)
#undef ROW
  }
}

#define TYPE(pointer) std::remove_pointer_t<decltype(pointer)>

void pack(Format format, void* weight, int64_t n, int64_t k) {
  with(format, [&](auto* w, auto*) { repack<TYPE(w), true>(weight, n, k); });
}

void unpack(Format format, void* weight, int64_t n, int64_t k) {
  with(format, [&](auto* w, auto*) { repack<TYPE(w), false>(weight, n, k); });
}

void linear(Dtype, Format format, const void* x, const void* weight, const void* bias, void* y, bool wide, int64_t rows,
            int64_t k, int64_t n, int64_t first) {
  with(format, [&](auto* w, auto* t) {
    using W = TYPE(w);
    using T = TYPE(t);
    if (wide) return linear_as(in<T>(x), in<W>(weight), in<T>(bias), out<float>(y), rows, k, n, first);
    linear_as(in<T>(x), in<W>(weight), in<T>(bias), out<T>(y), rows, k, n, first);
  });
}

void sum(Dtype dtype, const void* const* rows, int count, void* y, int64_t size) {
  with(dtype, [&](auto* t) { sum_as(rows, count, out<TYPE(t)>(y), size); });
}

// What operators.def says of a kernel's types.
#define BY_ACTIVATION(name) with(a.dtype, [&](auto* t) { name##_as<TYPE(t)>(a); });
#define BY_FORMAT(name) with(a.format, [&](auto* w, auto*) { name##_as<TYPE(w)>(a); });
#define BY_ACTIVATION_AND_FORMAT(name) with(a.format, [&](auto* w, auto* t) { name##_as<TYPE(t), TYPE(w)>(a); });
#define BY_ACTIVATION_AND_CACHE(name) \
  with(a.dtype, [&](auto* t) { with_cache(a.cache_dtype, [&](auto* c) { name##_as<TYPE(t), TYPE(c)>(a); }); });
#define BY_ACTIVATION_FORMAT_AND_CACHE(name)                                              \
  with(a.format, [&](auto* w, auto* t) {                                                  \
    with_cache(a.cache_dtype, [&](auto* c) { name##_as<TYPE(t), TYPE(w), TYPE(c)>(a); }); \
  });
#define PLAIN(name) name##_as(a);

#define KERNEL(name, types, ...) \
  void name(const calls::name& a) { types(name) }
#include "operators.def"

#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)

}  // namespace

extern const Kernels kernels;
const Kernels kernels{
    .isa = NAME(KERNEL_ISA),
    .pack = pack,
    .unpack = unpack,
    .linear = linear,
    .sum = sum,
#define KERNEL(name, ...) .name = name,
#include "operators.def"
};

}  // namespace KERNEL_ISA

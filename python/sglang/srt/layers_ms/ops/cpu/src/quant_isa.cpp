// Products with quantized matrices, for the instruction set that this file is compiled for; KERNEL_ISA names it.
#include "quant_embedding.h"
#include "quant_experts.h"
#include "quant_product.h"

namespace KERNEL_ISA {
namespace {

template <typename F>
void with(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::f32: return f(float{});
    case Dtype::f16: return f(f16{});
    case Dtype::bf16: return f(bf16{});
    case Dtype::e4m3: break;  // of caches only
  }
}

void linear(const QuantProduct& a) {
  with(a.dtype, [&](auto t) { quant_linear_as<decltype(t)>(a); });
}

void embedding(const calls::quant_embedding& a) {
  with(a.dtype, [&](auto t) { quant_embedding_as<decltype(t)>(a); });
}

void experts(const calls::quant_experts& a) {
  with(a.dtype, [&](auto t) { mix_experts<decltype(t), QuantStacks<decltype(t)>>(a); });
}

#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)

}  // namespace

extern const QuantKernels quant_kernels;
const QuantKernels quant_kernels{
    .isa = NAME(KERNEL_ISA), .pack = pack_matrix, .linear = linear, .embedding = embedding, .experts = experts};

}  // namespace KERNEL_ISA

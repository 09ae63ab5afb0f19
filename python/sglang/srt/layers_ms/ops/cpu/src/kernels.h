// What the kernels compute, one table an instruction set; library.cpp picks one when it is loaded.
#pragma once
#include <cstdint>

#include "calls.h"
#include "formats.h"

using Attention = calls::paged_attention;
using Experts = calls::fused_experts;
using MLAAttention = calls::mla_attention;

struct RMS {
  float eps;
  float offset;  // what is added to the weight
};

extern bool bf16_tiles;  // whether kernels may multiply by amx.h

struct Kernels {
  const char* isa;
  // Rearranges a row-major [n, k] matrix in place to the layout that `linear` reads.
  void (*pack)(Format, void* weight, int64_t n, int64_t k);
  void (*unpack)(Format, void* weight, int64_t n, int64_t k);
  // y[rows, n] = x[rows, k] * packed weight + bias, bias may be null; y is Dtype, or float32 where wide. Columns before
  // first_column, a multiple of 64, are left as they are.
  void (*linear)(Dtype, Format, const void* x, const void* weight, const void* bias, void* y, bool wide, int64_t rows,
                 int64_t k, int64_t n, int64_t first_column);
  // y[size] = the sum of `count` rows, in float32.
  void (*sum)(Dtype, const void* const* rows, int count, void* y, int64_t size);
#define KERNEL(name, ...) void (*name)(const calls::name&);
#include "operators.def"
};

// Which of the kernels that isa.cpp was compiled to, once an instruction set, this processor had better run.
#pragma once
#include <cstring>

#include "kernels.h"

#if defined(__x86_64__)
#define ISAS(X) X(avx512_bf16) X(avx512) X(avx2)
#else
#define ISAS(X) X(generic)
#endif
#define DECLARE(isa)            \
  namespace isa {               \
  extern const Kernels kernels; \
  }
ISAS(DECLARE)

namespace {

bool runs(const Kernels& candidate) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (&candidate == &avx2::kernels) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return avx512 && (&candidate == &avx512::kernels || __builtin_cpu_supports("avx512bf16"));
#else
  return true;
#endif
}

#define POINTER(isa) &isa::kernels,
const Kernels* const tables[] = {ISAS(POINTER)};  // the best first

// Intel's processors (tried: Emerald Rapids) take two cycles for a dot product of bfloat16 pairs, in which they do four
// multiplications and additions of float32: twice as many operations.
bool better_in_float32(const Kernels& candidate) {
#if defined(__x86_64__)
  return &candidate == &avx512_bf16::kernels && __builtin_cpu_is("intel");
#else
  return false;
#endif
}

// The table of this name that runs on this processor, or the best one if it is null; null if there is none.
const Kernels* pick(const char* isa) {
  for (const Kernels* table : tables)
    if (runs(*table) && (isa ? !std::strcmp(isa, table->isa) : !better_in_float32(*table))) return table;
  return nullptr;
}

}  // namespace

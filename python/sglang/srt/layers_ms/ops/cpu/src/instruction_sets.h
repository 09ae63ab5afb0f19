// Which of the kernels that isa.cpp and quant_isa.cpp were compiled to, once an instruction set, this processor had
// better run.
#pragma once
#include <cstring>

#include "kernels.h"
#include "quant_kernels.h"
#if defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
#define ISAS(X) X(avx512_bf16) X(avx512) X(avx2)
#define QUANT_ISAS(X) ISAS(X) X(avx512_vnni) X(avx512_amx)
#else
#define ISAS(X) X(generic)
#define QUANT_ISAS(X) ISAS(X) X(dotprod) X(i8mm)
#endif
#define DECLARE(isa)            \
  namespace isa {               \
  extern const Kernels kernels; \
  }
ISAS(DECLARE)
#undef DECLARE
#define DECLARE(isa)                       \
  namespace isa {                          \
  extern const QuantKernels quant_kernels; \
  }
QUANT_ISAS(DECLARE)

namespace {

// Kernels of both files that a kind of processor runs.
struct InstructionSet {
  const char* name;
  const Kernels* kernels;
  const QuantKernels* quant_kernels;
  bool (*runs)();
  bool bf16_tiles;
};

#if defined(__x86_64__)

#define HAS(feature) __builtin_cpu_supports(feature)

bool has_avx512() { return HAS("avx512f") && HAS("avx512bw") && HAS("avx512vl") && HAS("avx512dq"); }
bool has_vnni() { return has_avx512() && HAS("avx512vnni"); }
bool has_bf16() { return has_vnni() && HAS("avx512bf16") && HAS("avx512vbmi"); }
// Linux lets a process have tiles that asks for them.
bool may_use_tiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
bool has_amx() { return has_bf16() && HAS("amx-tile") && HAS("amx-int8") && HAS("amx-bf16") && may_use_tiles(); }
bool has_avx2() { return HAS("avx2") && HAS("fma"); }

const InstructionSet kSets[] = {
    // the best first
    {"avx512_amx", &avx512::kernels, &avx512_amx::quant_kernels, has_amx, true},
    {"avx512_bf16", &avx512_bf16::kernels, &avx512_bf16::quant_kernels, has_bf16, false},
    {"avx512_vnni", &avx512::kernels, &avx512_vnni::quant_kernels, has_vnni, false},
    {"avx512", &avx512::kernels, &avx512::quant_kernels, has_avx512, false},
    {"avx2", &avx2::kernels, &avx2::quant_kernels, has_avx2, false},
};

// Intel's processors (tried: Emerald Rapids) take two cycles for a dot product of bfloat16 pairs, in which they do four
// multiplications and additions of float32: twice as many operations.
bool better_in_float32(const InstructionSet& set) { return set.runs == has_bf16 && __builtin_cpu_is("intel"); }
void know_processor() { __builtin_cpu_init(); }

#else

bool has_dotprod() {
#if defined(__aarch64__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
  return false;
#endif
}
bool has_i8mm() {
#if defined(__aarch64__)
  return has_dotprod() && getauxval(AT_HWCAP2) & HWCAP2_I8MM;
#else
  return false;
#endif
}
bool has_all() { return true; }

const InstructionSet kSets[] = {
    {"i8mm", &generic::kernels, &i8mm::quant_kernels, has_i8mm, false},
    {"dotprod", &generic::kernels, &dotprod::quant_kernels, has_dotprod, false},
    {"generic", &generic::kernels, &generic::quant_kernels, has_all, false},
};

bool better_in_float32(const InstructionSet&) { return false; }
void know_processor() {}

#endif

// The set of this name that runs on this processor, or the best one if it is null; null if there is none.
const InstructionSet* pick(const char* isa) {
  know_processor();
  for (const InstructionSet& set : kSets)
    if (set.runs() && (isa ? !std::strcmp(isa, set.name) : !better_in_float32(set))) return &set;
  return nullptr;
}

}  // namespace

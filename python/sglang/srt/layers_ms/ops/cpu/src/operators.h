// What the operators of operators.def that have no kernel of their own compute, each in a .cpp file.
#pragma once
#include "arguments.h"
#include "kernels.h"
#include "quant_kernels.h"

extern const Kernels* kernels;  // those in use; null where the processor has none of the instruction sets
extern const QuantKernels* quant_kernels;

// Whether rows have slots of adapters that there are, and adapters ranks for which there is room.
void check_adapters(Arguments& arguments, const int32_t* slots, int64_t tokens, int64_t max_loras, const int32_t* ranks,
                    int64_t count, int64_t most);

// The same of experts: places e * S + s of S slots. All of the adapters' arguments are given, or none.
template <typename Call>
void check_expert_adapters(Arguments& arguments, const Call& a) {
  const void* others[] = {a.gate_up_a, a.gate_up_b, a.gate_up_ranks, a.down_a, a.down_b, a.down_ranks};
  for (const void* one : others) arguments.check(!one == !a.lora_slots, "some of what adapters are is not given");
  if (arguments.failed() || !a.lora_slots) return;
  arguments.check(a.places % a.experts == 0, "%ld places of adapters of %ld experts", a.places, a.experts);
  for (const int32_t* ranks : {a.gate_up_ranks, a.down_ranks})
    check_adapters(arguments, a.lora_slots, a.tokens, a.places / a.experts, ranks, a.places, a.lora_rank);
}

#define OPERATOR(name, ...) void run(Arguments& arguments, const calls::name& call);
#include "operators.def"

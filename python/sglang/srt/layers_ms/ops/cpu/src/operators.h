// What the operators of operators.def that have no kernel of their own compute, each in a .cpp file.
#pragma once
#include "arguments.h"
#include "kernels.h"
#include "quant_kernels.h"

extern const Kernels* kernels;  // those in use; null where the processor has none of the instruction sets
extern const QuantKernels* quant_kernels;

#define OPERATOR(name, ...) void run(Arguments& arguments, const calls::name& call);
#include "operators.def"

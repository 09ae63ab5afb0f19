// One struct an operator, calls::NAME, from operators.def: where its arguments lie, and its sizes and attributes.
#pragma once
#include <cstdint>

#include "formats.h"

class Arguments;

namespace calls {

struct Call {
  int64_t tokens, requests;  // that count: leading rows of the arguments that have these axes
  Dtype dtype, cache_dtype;  // of activations, and of caches
  Format format;             // of weights
  // Of quantized weights, and where there are two of them of those that are multiplied last.
  Storage codes_type, scale_type, offset_type, bias_type, down_codes_type, down_scale_type, down_offset_type;
};

// The type of a pointer to an argument; what is in `const` is not written.
#define POINTER_A(constness) constness void*
#define POINTER_W(constness) constness void*
#define POINTER_C(constness) constness void*
#define POINTER_Q(constness) constness uint8_t*
#define POINTER_S(constness) constness void*
#define POINTER_O(constness) constness void*
#define POINTER_B(constness) constness void*
#define POINTER_Q2(constness) constness uint8_t*
#define POINTER_S2(constness) constness void*
#define POINTER_O2(constness) constness void*
#define POINTER_F32(constness) constness float*
#define POINTER_I32(constness) constness int32_t*

#define KERNEL(name, types, ...)     \
  struct name : Call {               \
    __VA_ARGS__                      \
    void take(Arguments& arguments); \
  };
#define OPERATOR(name, ...) KERNEL(name, , __VA_ARGS__)
#define AXES(...) int64_t __VA_ARGS__;
#define IN(name, type, ...) POINTER_##type(const) name;
#define OPT(name, type, ...) POINTER_##type(const) name;
#define FLAT(name, type, ...) POINTER_##type(const) name;
#define STATE(name, type, ...) POINTER_##type() name;
#define OPTSTATE(name, type, ...) POINTER_##type() name;
#define OUT(name, type, ...) POINTER_##type() name;
#define SCALAR(name) int64_t name;
#define SIZE(...) int64_t __VA_ARGS__;
#define INT(name) int64_t name;
#define FLAG(name) bool name;
#define FLOAT(name) float name;
#define LET(name, value) int64_t name;
#define ROOM(axis, value)
#define CHECK(...)
#define VALIDATE() void validate(Arguments& arguments) const;
#include "operators.def"

}  // namespace calls

// How values lie in memory. Rows of activations, and caches, have a Dtype; a matrix of weights has a Format.
//
// The two are apart in every kernel's signature: a format says how a matrix is kept, and which activations it is
// multiplied with. A new format is a row of WEIGHT_FORMATS, and the overloads of linear.h for its type.
#pragma once
#include <cstdint>

enum class Dtype { f32, f16, bf16, e4m3 };  // the last of caches only

// name, MindSpore's name of its dtype, type of its blocks in a kernel, values a block, bytes a block, and the Dtype and
// type of the activations that it is multiplied with.
#define WEIGHT_FORMATS(ROW)                    \
  ROW(f32, "float32", float, 1, 4, f32, float) \
  ROW(f16, "float16", f16, 1, 2, f16, f16)     \
  ROW(bf16, "bfloat16", bf16, 1, 2, bf16, bf16)

#define ROW(name, ...) name,
enum class Format { WEIGHT_FORMATS(ROW) };
#undef ROW

struct FormatTraits {
  const char* dtype;
  int64_t block, bytes;
  Dtype activation;
};

#define ROW(name, dtype, type, block, bytes, activation, activations) {dtype, block, bytes, Dtype::activation},
constexpr FormatTraits kFormats[] = {WEIGHT_FORMATS(ROW)};
#undef ROW

constexpr int64_t size_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : dtype == Dtype::e4m3 ? 1 : 2; }
constexpr const FormatTraits& traits(Format format) { return kFormats[static_cast<int>(format)]; }

// What the codes of a quantized matrix stand for, and their bits: the contract's kinds, in the order of
// ops/cpu/quant.py.
#define CODES(ROW) \
  ROW(int4, 4)     \
  ROW(uint4, 4)    \
  ROW(e2m1, 4)     \
  ROW(nf4, 4)      \
  ROW(iq4nl, 4)    \
  ROW(int8, 8)     \
  ROW(uint8, 8)    \
  ROW(e4m3, 8)     \
  ROW(int6, 6)     \
  ROW(int5, 5)     \
  ROW(uint5, 5)

#define ROW(name, bits) name,
enum class Codes { CODES(ROW) };
#undef ROW
#define ROW(name, bits) bits,
constexpr int kCodeBits[] = {CODES(ROW)};
#undef ROW
constexpr int kCodes = sizeof(kCodeBits) / sizeof(int);
constexpr int bits_of(Codes codes) { return kCodeBits[static_cast<int>(codes)]; }

// How rows of activations meet such a matrix: as they are, or rounded to int8 by row, by 32 columns, or by a given
// step.
enum class Activations { floats, int8, int8_group, int8_static };

// How numbers lie in memory: factors, offsets and biases of a quantized matrix. u8: a power of two, exponent + 127. i8:
// of each kSuperBlock columns, a factor for each group and a float16 that all of these are multiplied by.
constexpr int64_t kSuperBlock = 256;
enum class Storage { f32, f16, bf16, u8, i8 };
constexpr int64_t size_of(Storage storage) {
  return storage == Storage::f32 ? 4 : storage == Storage::f16 || storage == Storage::bf16 ? 2 : 1;
}

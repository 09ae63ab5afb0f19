// What is computed with quantized matrices, one table an instruction set; instruction_sets.h picks one.
#pragma once
#include <cstdint>

#include "calls.h"
#include "formats.h"

// A matrix [n, k], as `pack` leaves it: see quant_layout.h. Columns of x in neighboring `group`s have factors of their
// own, and maybe offsets: of bytes, what is taken off a code, which starts at 0, before it is multiplied; else what is
// added to the value.
struct QuantMatrix {
  Codes kind;
  int64_t n, k, group;
  const uint8_t* codes;
  const void *scale, *offset;  // offset: null if there is none
  Storage scale_type, offset_type;

  int64_t groups() const { return (k + group - 1) / group; }
  int64_t bytes() const { return n * k * bits_of(kind) / 8; }
  // Of the factors of a row, so held.
  int64_t factor_bytes(Storage type) const {
    if (type == Storage::i8) return k / kSuperBlock * (kSuperBlock / group + 2);
    return groups() * size_of(type);
  }
  // The next but `index` of a stack of such matrices.
  QuantMatrix at(int64_t index) const {
    QuantMatrix found = *this;
    found.codes += index * bytes();
    found.scale = static_cast<const char*>(scale) + index * n * factor_bytes(scale_type);
    if (offset) found.offset = static_cast<const char*>(offset) + index * n * factor_bytes(offset_type);
    return found;
  }
};

struct QuantProduct {
  Dtype dtype;  // of x, and of y unless wide
  Activations activations;
  QuantMatrix weight;
  const void* x;                    // [rows, k]
  float input_scale, input_offset;  // of Activations::int8_static
  const void* bias;                 // null: none
  Storage bias_type;
  void* y;    // [rows, n]
  bool wide;  // y is float32
  int64_t rows;
};

struct QuantKernels {
  const char* isa;
  // Rearranges a row-major matrix in place: all three of it.
  void (*pack)(const QuantMatrix&);
  void (*linear)(const QuantProduct&);
  void (*embedding)(const calls::quant_embedding&);
  void (*experts)(const calls::quant_experts&);
};

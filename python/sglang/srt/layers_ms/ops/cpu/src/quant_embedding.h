// Rows of quantized matrices.
#pragma once
#include "elementwise.h"
#include "quant_decode.h"

namespace KERNEL_ISA {

// A row of a packed matrix.
template <typename T>
inline void quant_row(const QuantMatrix& a, int64_t row, T* y) {
  const float* values = table_of<Table<float, 256>>(a.kind).values;
  const int64_t first = row / kBlock * kBlock, width = std::min(kBlock, a.n - first), own = row - first;
  const uint8_t* block = a.codes + first * row_bytes(a);
  const char* scales = static_cast<const char*>(a.scale) + first * a.factor_bytes(a.scale_type);
  const char* offsets = static_cast<const char*>(a.offset);
  if (offsets) offsets += first * a.factor_bytes(a.offset_type);
  for (int64_t group = 0; group < a.groups(); ++group) {
    const int64_t end = std::min(a.k, (group + 1) * a.group);
    const float scale = factor_in(a, scales, a.scale_type, width, own, group);
    float offset = 0;
    if (offsets && a.offset_type == Storage::u8)
      offset = static_cast<float>(zero_of(a.kind) - static_cast<uint8_t>(offsets[group * width + own])) * scale;
    else if (offsets)
      offset = factor_in(a, offsets, a.offset_type, width, own, group);
    for (int64_t i = group * a.group; i < end; ++i)
      y[i] = from_float<T>(values[code_at(a, block, width, own, i)] * scale + offset);
  }
}

template <typename T>
void quant_embedding_as(const calls::quant_embedding& a) {
  const QuantMatrix weight{static_cast<Codes>(a.kind),
                           a.vocab,
                           a.width,
                           a.group ? a.group : a.width,
                           a.weight,
                           a.scale,
                           a.offset,
                           a.scale_type,
                           a.offset_type};
  T* y = out<T>(a.out);
  pool::each(a.tokens, [&](int64_t token) {
    const int64_t row = a.ids[token] - a.first;
    if (row >= 0 && row < a.vocab)
      quant_row(weight, row, y + token * a.width);
    else
      std::fill_n(y + token * a.width, a.width, T{});
  });
}

}  // namespace KERNEL_ISA

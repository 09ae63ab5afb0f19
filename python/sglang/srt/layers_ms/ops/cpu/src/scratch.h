// Memory that threads keep, and rows widened into it.
#pragma once
#include <cstdint>
#include <vector>

#include "simd.h"

namespace KERNEL_ISA {

// Memory of this thread that keeps its size from call to call, one a `purpose`: getting it from the system each time
// takes as long as the attention of a hundred keys.
enum class Purpose {
  wide_rows,  // linear.h
  partials,
  factors,
  rows,
  q,
  scores,
  weights,
  k,
  v,
  line,
  codes,  // attention.h
  head_in,
  head_out,
  head_k,
  head_v,
  latent,
  absorbed,
  found,  // mla.h
  index_q,
  index_k,
  index_scores,
  index_order,  // sparse.h
  lora,         // lora.h
  padded_block,
  padded_rows,
  rounded_rows,
  row_steps,
  row_sums,  // quant_layout.h, quant_rows.h
  state_keys,
  state_gates,
  state_rows,  // recurrent.h
  gated_row,   // states.h
  tile_codes,
  tile_factors  // quant_tiles.h
};
template <Purpose purpose, typename T>
inline T* scratch(int64_t size) {
  thread_local std::vector<T> memory;
  if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
  return memory.data();
}

// to = from in float32, and zeros up to a whole vector.
template <typename T>
inline void widen(const T* from, float* to, int64_t size) {
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) store(to + i, load(from + i));
  if (i < size) store(to + i, load_part(from + i, size - i));
}

}  // namespace KERNEL_ISA

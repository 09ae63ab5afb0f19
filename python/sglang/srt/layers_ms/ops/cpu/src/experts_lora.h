// What adapters add to the products of tokens with their experts' matrices.
#pragma once
#include <vector>

#include "lora.h"

namespace KERNEL_ISA {

// The adapters of rows that are sorted by expert. Of S slots, place e * S + s of the factors is what the adapter in
// slot s has for expert e. T: of activations; Call: the operator's arguments.
template <typename T, typename Call>
class SortedLora {
 public:
  explicit SortedLora(const Call& a) : a_(a), slots_(a.lora_slots ? a.places / a.experts : 0) {}

  static int64_t floats_of_row(const Call& a) { return a.lora_slots ? 2 * a.lora_rank : 0; }

  // hidden: memory for so many rows.
  void begin(int64_t rows, float* hidden) {
    if (slots_) place_of_.assign(rows, -1);
    hidden_ = hidden;
  }
  void set(int64_t row, int64_t expert, int64_t token) {
    if (!slots_ || a_.lora_slots[token] < 0) return;
    place_of_[row] = expert * slots_ + a_.lora_slots[token];
    used_ = true;
  }

  // What A makes of all rows: of gate and up, or of down.
  void shrink(bool down, const T* x) {
    if (!used_) return;
    const int64_t k = down ? a_.size : a_.width, parts = down ? 1 : 2, rows = place_of_.size();
    const T* matrices = in<T>(down ? a_.down_a : a_.gate_up_a);
    over_rows(rows, parts * a_.lora_rank * k, [&](int64_t first, int64_t last) {
      for (int64_t row = first, end; row < last; row = end) {
        const int64_t place = place_of_[row];
        for (end = row + 1; end < last && place_of_[end] == place;) ++end;
        for (int64_t part = 0; place >= 0 && part < parts; ++part)
          lora_dots(
              end - row, [&](int64_t i) { return x + (row + i) * k; },
              matrices + (part * a_.places + place) * a_.lora_rank * k, k, ranks(down)[place], k, hidden(row, part),
              2 * a_.lora_rank);
      }
    });
  }

  // y [count, width] += what B makes of it for the columns from `first` on of gate (0), up (1) or down (2).
  void add(int part, int64_t row, int64_t count, int64_t first, int64_t width, float* y, int64_t stride) const {
    if (!used_) return;
    const bool down = part == 2;
    const int64_t n = down ? a_.width : a_.size, before = part == 1 ? a_.places : 0;
    const T* matrices = in<T>(down ? a_.down_b : a_.gate_up_b) + first;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = place_of_[row + i];
      if (place < 0) continue;
      lora_add(hidden(row + i, part == 1), matrices + (before + place) * a_.lora_rank * n, n, ranks(down)[place],
               y + i * stride, width);
    }
  }

 private:
  const int32_t* ranks(bool down) const { return down ? a_.down_ranks : a_.gate_up_ranks; }
  float* hidden(int64_t row, int64_t part) const { return hidden_ + (row * 2 + part) * a_.lora_rank; }

  const Call& a_;
  int64_t slots_;
  bool used_ = false;
  std::vector<int64_t> place_of_;  // of each row, or -1
  float* hidden_ = nullptr;        // [rows, 2, rank]
};

}  // namespace KERNEL_ISA

// Mixtures of experts whose matrices are quantized.
#pragma once
#include "experts.h"
#include "quant_product.h"

namespace KERNEL_ISA {

template <typename T>
class QuantStacks {
 public:
  explicit QuantStacks(const calls::quant_experts& a)
      : dtype_(a.dtype),
        activations_(static_cast<Activations>(a.activations)),
        gate_up_{stack(a.gate_up_kind, a.size, a.width, a.gate_up_group)},
        down_{stack(a.down_kind, a.width, a.size, a.down_group)} {
    gate_up_.codes = a.gate_up, gate_up_.scale = a.gate_up_scale, gate_up_.offset = a.gate_up_offset;
    gate_up_.scale_type = a.scale_type, gate_up_.offset_type = a.offset_type;
    down_.codes = a.down, down_.scale = a.down_scale, down_.offset = a.down_offset;
    down_.scale_type = a.down_scale_type, down_.offset_type = a.down_offset_type;
    biases_[0] = in<T>(a.gate_up_bias), biases_[1] = in<T>(a.down_bias);
  }

  // As PlainStacks.
  void take(Part part, const T* x, int64_t count) {
    QuantProduct product{};
    product.dtype = dtype_, product.activations = activations_, product.weight = matrix(part), product.rows = count;
    meeting_ = meeting_of<T>(product.weight.kind, activations_);
    rows_ = meeting_.prepare(product, x);
  }
  static int64_t blocks(int64_t n, int64_t) { return blocks_of(n); }
  static Columns columns(int64_t block, int64_t n, int64_t) {
    return {block * kBlock, std::min(kBlock, n - block * kBlock), true};
  }
  void product(Part part, int64_t expert, int64_t row, int64_t count, const Columns& c, float* y, int64_t stride,
               bool) const {
    const QuantMatrix& all = matrix(part);
    const int64_t index = part == Part::down ? expert : expert * 2 + (part == Part::up);
    const QuantMatrix own = all.at(index);
    const QuantBlock block = block_of(own, c.first / kBlock);
    const T* biases = biases_[part == Part::down];
    float bias[kBlock] = {};
    for (int64_t i = 0; biases && i < c.width; ++i) bias[i] = to_float(biases[index * all.n + c.first + i]);
    alignas(64) float sums[kRowBlock * kBlock];
    meeting_.multiply(own, block, rows_, row, count, sums);
    store_sums(sums, count, c.width, bias, y, stride);
  }

 private:
  static QuantMatrix stack(int64_t kind, int64_t n, int64_t k, int64_t group) {
    QuantMatrix found{};
    found.kind = static_cast<Codes>(kind), found.n = n, found.k = k, found.group = group ? group : k;
    return found;
  }
  const QuantMatrix& matrix(Part part) const { return part == Part::down ? down_ : gate_up_; }

  Dtype dtype_;
  Activations activations_;
  QuantMatrix gate_up_, down_;
  const T* biases_[2];
  Meeting meeting_{};
  PreparedRows rows_{};
};

}  // namespace KERNEL_ISA

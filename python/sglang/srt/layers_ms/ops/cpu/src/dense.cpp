// Products with weights: by our kernels, or of many rows by another library's.
#include "operators.h"
#include "product.h"
#include "trace.h"

void calls::take_columns::validate(Arguments& arguments) const {
  arguments.check(within(order, size, size), "an order of other columns than %ld", size);
}

void calls::add_lora::validate(Arguments& arguments) const {
  int64_t columns = 0;
  for (int64_t part = 0; part < parts_count; ++part) {
    arguments.check(parts[part] >= 0, "a part of %d columns", parts[part]);
    columns += parts[part];
  }
  arguments.check(columns == size, "parts of %ld columns of %ld", columns, size);
  check_adapters(arguments, slots, tokens, max_loras, ranks, max_loras, rank);
}

void check_adapters(Arguments& arguments, const int32_t* slots, int64_t tokens, int64_t max_loras, const int32_t* ranks,
                    int64_t count, int64_t most) {
  for (int64_t i = 0; i < count; ++i)
    arguments.check(ranks[i] >= 0 && ranks[i] <= most, "an adapter of rank %d of %ld", ranks[i], most);
  for (int64_t row = 0; row < tokens; ++row)
    arguments.check(slots[row] >= -1 && slots[row] < max_loras, "slot %d of %ld", slots[row], max_loras);
}

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

LargeProducts large_products{nullptr, 0};  // another library's, if one was given

struct Product {
  Dtype dtype;
  Format format;
  LargeProduct sizes;
};

void compute(const Product& product) {
  const LargeProduct& a = product.sizes;
  int64_t first = 0;  // of the columns that another library has not computed
  if (large_products.product && product.format == Format::bf16 && a.rows >= large_products.least_rows)
    first = large_products.product(a);
  if (first < a.n)
    kernels->linear(product.dtype, product.format, a.x, a.weight, a.bias, a.y, a.wide, a.rows, a.k, a.n, first);
}

}  // namespace

void run(Arguments&, const calls::linear& a) {
  compute({a.dtype, a.format, {a.x, a.weight, a.bias, a.out, false, a.tokens, a.k, a.n}});
}

void run(Arguments&, const calls::linear_fp32& a) {
  const bool wide = a.dtype != Dtype::f32;
  compute({a.dtype, a.format, {a.x, a.weight, a.bias, a.out, wide, a.tokens, a.k, a.n}});
}

EXPORTED void mindspore_cpu_use_products(LargeProducts products) { large_products = products; }

// y[rows, n] = x[rows, k] * packed weight[n, k]. Called outside graphs, and not as an operator: MindSpore would copy
// the weight first.
EXPORTED void mindspore_cpu_logits(int format, const void* x, const void* weight, float* y, int64_t rows, int64_t k,
                                   int64_t n) {
  trace::Timer timer("logits");
  const Format of = static_cast<Format>(format);
  const Dtype dtype = traits(of).activation;
  compute({dtype, of, {x, weight, nullptr, y, dtype != Dtype::f32, rows, k, n}});
}

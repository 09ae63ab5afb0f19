// oneDNN's matrix product on our packed weights and our threads: the library that comes with MindSpore, which knows
// AMX.
//
// Built apart from the operators, because it is linked to that library; __init__.py loads it where the processor has
// AMX. Up to kMostRows rows are one product, which reads the weights once. Kernels are generated for each number of
// rows, and forgotten when they are many.
#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "oneapi/dnnl/dnnl_threadpool.hpp"
#include "product.h"

namespace {

using dnnl::memory;
constexpr int64_t kMostRows = 1024, kLeastRows = 128, kBlock = 64;
constexpr size_t kMostKernels = 512;

class Pool : public dnnl::threadpool_interop::threadpool_iface {
 public:
  explicit Pool(const Threads& threads) : threads_(threads) {}
  int get_num_threads() const override { return threads_.count(); }
  bool get_in_parallel() const override { return threads_.inside(); }
  uint64_t get_flags() const override { return 0; }
  void wait() override {}
  void parallel_for(int n, const std::function<void(int, int)>& f) override {
    auto work = [&](int64_t i) { f(static_cast<int>(i), n); };
    threads_.run(n, [](void* context, int64_t i) { (*static_cast<decltype(work)*>(context))(i); }, &work);
  }

 private:
  Threads threads_;
};

class Library {
 public:
  explicit Library(const Threads& threads)
      : pool_(threads),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(dnnl::threadpool_interop::make_stream(engine_, &pool_)) {}

  void product(const LargeProduct& a, int64_t first_row, int64_t rows, int64_t columns) {
    const int64_t size = a.wide ? 4 : 2;
    const Kernel& kernel = find({rows, a.k, columns, a.n, a.bias != nullptr, a.wide});
    auto at = [](const void* p, int64_t bytes) { return static_cast<char*>(const_cast<void*>(p)) + bytes; };
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, {kernel.description.src_desc(), engine_, at(a.x, first_row * a.k * 2)}},
        {DNNL_ARG_WEIGHTS, {kernel.description.weights_desc(), engine_, at(a.weight, 0)}},
        {DNNL_ARG_DST, {kernel.description.dst_desc(), engine_, at(a.y, first_row * a.n * size)}},
        {DNNL_ARG_SCRATCHPAD, {kernel.description.scratchpad_desc(), engine_, scratch(kernel)}}};
    if (a.bias)
      arguments.emplace(DNNL_ARG_BIAS,
                        memory(kernel.description.query_md(dnnl::query::weights_md, 1), engine_, at(a.bias, 0)));
    kernel.primitive.execute(stream_, arguments);
  }

  std::string implementation(int64_t rows, int64_t k, int64_t n) {
    return find({rows, k, n, n, false, false}).description.impl_info_str();
  }

 private:
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, bool, bool>;
  struct Kernel {
    dnnl::matmul::primitive_desc description;
    dnnl::matmul primitive;
  };

  const Kernel& find(const Key& key) {
    auto found = kernels_.find(key);
    if (found == kernels_.end() && kernels_.size() >= kMostKernels) kernels_.clear();
    if (found == kernels_.end()) found = kernels_.emplace(key, make(key)).first;
    return found->second;
  }

  Kernel make(const Key& key) {
    const auto [rows, k, columns, n, biased, wide] = key;
    const auto type = wide ? memory::data_type::f32 : memory::data_type::bf16;
    const memory::desc x({rows, k}, memory::data_type::bf16, memory::format_tag::ab);
    const memory::desc weight({k, columns}, memory::data_type::bf16, memory::format_tag::BA16a64b2a);
    const memory::desc bias({1, columns}, memory::data_type::bf16, memory::format_tag::ab);
    const memory::desc y({rows, columns}, type, memory::dims{n, 1});
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    auto description = biased ? dnnl::matmul::primitive_desc(engine_, x, weight, bias, y, attributes)
                              : dnnl::matmul::primitive_desc(engine_, x, weight, y, attributes);
    return {description, dnnl::matmul(description)};
  }

  void* scratch(const Kernel& kernel) {
    const size_t size = kernel.description.scratchpad_desc().get_size();
    if (scratch_.size() < size) scratch_.resize(size);
    return scratch_.data();
  }

  Pool pool_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  std::map<Key, Kernel> kernels_;
  std::vector<char> scratch_;
};

Library* library = nullptr;

int64_t product(const LargeProduct& a) {
  const int64_t columns = a.n / kBlock * kBlock, rows = a.rows;
  if (a.k % 32 || columns == 0) return 0;
  static std::mutex one_at_a_time;
  std::lock_guard<std::mutex> lock(one_at_a_time);
  try {
    for (int64_t row = 0; row < rows;) {
      // Pieces of kMostRows, and before a last one that would be small a piece that leaves more for it.
      int64_t piece = std::min(rows - row, kMostRows);
      if (rows - row > kMostRows && rows - row < kMostRows + kLeastRows) piece = kMostRows / 2;
      library->product(a, row, piece, columns);
      row += piece;
    }
  } catch (const dnnl::error& error) {
    std::fprintf(stderr, "oneDNN's product of [%ld, %ld] and [%ld, %ld] failed: %s\n", rows, a.k, a.k, columns,
                 error.what());
    return 0;
  }
  return columns;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) LargeProducts mindspore_cpu_onednn(Threads threads) {
  if (!library) library = new Library(threads);  // for the life of the process, as the threads are
  return {product, kLeastRows};
}

// oneDNN's name of the kernel for x [rows, k] and a packed weight [n, k], such as brg_matmul:avx10_1_512_amx.
extern "C" __attribute__((visibility("default"))) const char* mindspore_cpu_onednn_kernel(int64_t rows, int64_t k,
                                                                                          int64_t n) {
  static std::string name;
  return (name = library->implementation(rows, k, n)).c_str();
}

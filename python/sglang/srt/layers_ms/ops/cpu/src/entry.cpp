// The operators as MindSpore calls them (AOT custom operators), with every argument checked before it is used.
//
// A compiled graph has one shape for all steps: its tensors have room for the most tokens and requests, and
// `mindspore_cpu_set_valid_rows` says how many rows of them this step uses. Rows after those are neither read nor written.
// Each function gets its inputs, then its outputs; a result other than 0 becomes a RuntimeError in Python.
#include <cstdio>
#include <cstring>
#include <map>
#include <vector>

#include "capture.h"
#include "group.h"
#include "instruction_sets.h"
#include "kernels.h"
#include "parallel.h"
#include "product.h"
#include "trace.h"

#define EXPORTED __attribute__((visibility("default")))

namespace {

const Kernels* kernels = pick(nullptr);
LargeProducts large_products{nullptr, 0};  // another library's, if one was given
int64_t step_tokens = -1, step_requests = -1;  // -1: as many as the tensors have
std::vector<int64_t> step_counts;              // tokens of each attention replica; none: as many as here
// Of this step's tensors with rows of other ranks, by how many rows they have room for: how many count.
std::map<int64_t, int64_t> valid_rows_by_size;

// The arguments of one call, checked as they are taken.
class Arguments {
 public:
  Arguments(const char* op, int count, void** data, int* ranks, int64_t** shapes, const char** dtypes)
      : op_(op), count_(count), data_(data), ranks_(ranks), shapes_(shapes), dtypes_(dtypes) {}

  int count() const { return count_; }
  void* data(int i) const { return data_[i]; }
  int64_t last(int i) const { return shapes_[i][ranks_[i] - 1]; }
  int64_t dim(int i, int axis) const { return shapes_[i][axis]; }

  int64_t size(int i) const {
    int64_t size = 1;
    for (int axis = 0; axis < ranks_[i]; ++axis) size *= shapes_[i][axis];
    return size;
  }

  Dtype dtype(int i) const {
    if (!std::strcmp(dtypes_[i], "float32")) return Dtype::f32;
    if (!std::strcmp(dtypes_[i], "float16")) return Dtype::f16;
    if (!std::strcmp(dtypes_[i], "bfloat16")) return Dtype::bf16;
    fail("argument %d is %s; floating point wanted", i, dtypes_[i]);
    return Dtype::f32;
  }

  const float* floats(int i, int64_t count) {
    if (dtype(i) != Dtype::f32 || size(i) != count) fail("argument %d: %ld float32 wanted", i, count);
    return static_cast<const float*>(data_[i]);
  }

  const int32_t* ints(int i) {
    if (std::strcmp(dtypes_[i], "int32")) fail("argument %d is %s; int32 wanted", i, dtypes_[i]);
    return static_cast<const int32_t*>(data_[i]);
  }

  const float* floats(int i) {
    if (dtype(i) != Dtype::f32) fail("argument %d is %s; float32 wanted", i, dtypes_[i]);
    return static_cast<const float*>(data_[i]);
  }

  // The argument if it is used, one value for each head; else null.
  const float* per_head_or_null(int i, bool used, int64_t heads) {
    if (!used) return nullptr;
    if (size(i) != heads) fail("argument %d has %ld values for %ld heads", i, size(i), heads);
    return floats(i);
  }

  int64_t tokens(int i) {
    const auto room = valid_rows_by_size.find(dim(i, 0));
    return used(i, room == valid_rows_by_size.end() ? step_tokens : room->second, "tokens");
  }
  int64_t requests(int i) { return used(i, step_requests, "requests"); }

  template <typename... A>
  void check(bool condition, const char* message, A... arguments) {
    if (!condition) fail(message, arguments...);
  }

  bool failed() const { return failed_; }

 private:
  int64_t used(int i, int64_t step, const char* what) {
    if (step > dim(i, 0)) fail("the step has %ld %s, argument %d has room for %ld", step, what, i, dim(i, 0));
    return step < 0 ? dim(i, 0) : step;
  }

  template <typename... A>
  void fail(const char* message, A... arguments) const {
    if (!failed_) {
      std::fprintf(stderr, "mindspore cpu operator %s: ", op_);
      std::fprintf(stderr, message, arguments...);
      std::fputc('\n', stderr);
    }
    failed_ = true;
  }

  const char* op_;
  int count_;
  void** data_;
  int* ranks_;
  int64_t** shapes_;
  const char** dtypes_;
  mutable bool failed_ = false;
};

int64_t size_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

bool within(const int32_t* values, int64_t count, int64_t end) {
  for (int64_t i = 0; i < count; ++i)
    if (values[i] < 0 || values[i] >= end) return false;
  return true;
}

// Every page that a request's tokens lie in must be one of the cache.
void check_tables(Arguments& a, const Requests& call, int64_t slots, int64_t tokens) {
  int64_t queries = 0;
  for (int64_t i = 0; i < call.requests && !a.failed(); ++i) {
    const int64_t length = call.seq_lens[i], blocks = (length + call.page_size - 1) / call.page_size;
    a.check(call.query_lens[i] > 0 && call.query_lens[i] <= length, "request %ld has %d queries of %ld tokens", i,
           call.query_lens[i], length);
    a.check(blocks <= call.blocks, "request %ld has %ld tokens, its table %ld pages", i, length, call.blocks);
    if (a.failed()) return;
    a.check(within(call.block_tables + i * call.blocks, blocks, slots / call.page_size),
           "request %ld has a page that is not in the cache", i);
    queries += call.query_lens[i];
  }
  a.check(queries == tokens, "the requests have %ld queries, the step %ld tokens", queries, tokens);
}

// Arguments from `first` on: block_tables [B, blocks], query_lens [B], seq_lens [B], page_size [1].
void take_requests(Arguments& a, int first, int64_t slots, int64_t tokens, Requests& call) {
  call.block_tables = a.ints(first);
  call.query_lens = a.ints(first + 1);
  call.seq_lens = a.ints(first + 2);
  const int32_t* page_size = a.ints(first + 3);
  call.requests = a.requests(first + 1);
  call.blocks = a.dim(first, 1);
  if (a.failed()) return;
  call.page_size = *page_size;
  a.check(call.page_size > 0, "page size %ld", call.page_size);
  if (!a.failed()) check_tables(a, call, slots, tokens);
}

// Arguments: qkv [T, (H + 2 K) * D]; from `weights` on q_weight [H * D], k_weight [K * D]; last the result, like qkv.
QKNorm take_qk(Arguments& a, int weights) {
  QKNorm call{};
  call.qkv = a.data(0);
  call.q_weight = a.data(weights);
  call.k_weight = a.data(weights + 1);
  call.out = a.data(a.count() - 1);
  call.tokens = a.tokens(0);
  call.q_size = a.size(weights);
  call.kv_size = a.size(weights + 1);
  a.check(a.last(0) == call.q_size + 2 * call.kv_size && a.dtype(weights) == a.dtype(0) &&
             a.dtype(weights + 1) == a.dtype(0),
         "%ld columns, weights for %ld queries and %ld keys, or their dtypes differ", a.last(0), call.q_size,
         call.kv_size);
  return call;
}

}  // namespace

// outputs: how many of the arguments, the last ones, are results
#define OPERATOR(name, outputs)                                                                                        \
  static void name##_checked(Arguments& a);                                                                            \
  extern "C" EXPORTED int name(int count, void** data, int* ranks, int64_t** shapes, const char** dtypes, void*, void*) { \
    if (auto* recording = capture::current()) recording->add(name, outputs, count, data, ranks, shapes, dtypes);       \
    trace::Timer timer(#name);                                                                                         \
    Arguments arguments(#name, count, data, ranks, shapes, dtypes);                                                    \
    name##_checked(arguments);                                                                                         \
    return arguments.failed() ? 1 : 0;                                                                                 \
  }                                                                                                                    \
  static void name##_checked(Arguments& a)

extern "C" EXPORTED const char* mindspore_cpu_isa() { return kernels ? kernels->isa : ""; }
// Computes with this instruction set from now on, if the processor has it -> whether it does.
extern "C" EXPORTED int mindspore_cpu_use(const char* isa) {
  const Kernels* found = pick(isa);
  if (found) kernels = found;
  return found != nullptr;
}
extern "C" EXPORTED int mindspore_cpu_has_amx() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16");
#else
  return 0;
#endif
}
extern "C" EXPORTED void mindspore_cpu_use_products(LargeProducts products) { large_products = products; }
extern "C" EXPORTED Threads mindspore_cpu_thread_functions() { return {pool::threads, pool::run, pool::inside}; }
extern "C" EXPORTED void mindspore_cpu_threads(int threads, const int* processors) {
  pool::configure(threads, processors);
}
// Recordings of src/capture.h: begin, run the graph, finish -> whether it can be replayed. Ranges are memory that lasts.
extern "C" EXPORTED capture::Recording* mindspore_cpu_begin_recording(const capture::Range* lasting, int64_t count) {
  auto* recording = new capture::Recording(std::vector<capture::Range>(lasting, lasting + count));
  capture::begin(recording);
  return recording;
}
extern "C" EXPORTED int mindspore_cpu_finish_recording(capture::Recording* recording) {
  capture::begin(nullptr);
  return recording->finish();
}
extern "C" EXPORTED int mindspore_cpu_replay(capture::Recording* recording) { return recording->run(); }
extern "C" EXPORTED void* mindspore_cpu_replayed(capture::Recording* recording, const void* address) {
  return recording->replayed(address);
}
extern "C" EXPORTED void mindspore_cpu_drop_recording(capture::Recording* recording) { delete recording; }
extern "C" EXPORTED void mindspore_cpu_trace(int on) { trace::record(on); }
extern "C" EXPORTED int64_t mindspore_cpu_take_events(trace::Event* events, int64_t most) {
  return trace::take(events, most);
}
extern "C" EXPORTED void mindspore_cpu_set_valid_rows(int64_t tokens, int64_t requests) {
  step_tokens = tokens;
  step_requests = requests;
  step_counts.clear();
  valid_rows_by_size.clear();
}
// The tokens of each attention replica in the step that was begun.
extern "C" EXPORTED void mindspore_cpu_set_replica_tokens(int64_t replicas, const int64_t* counts) {
  step_counts.assign(counts, counts + replicas);
}
extern "C" EXPORTED void mindspore_cpu_prepack(int dtype, void* weight, int64_t n, int64_t k) {
  kernels->pack(static_cast<Dtype>(dtype), weight, n, k);
}
extern "C" EXPORTED void mindspore_cpu_unpack(int dtype, void* weight, int64_t n, int64_t k) {
  kernels->unpack(static_cast<Dtype>(dtype), weight, n, k);
}

// ids [T], packed weight [N, width], first [1] -> [T, width]
OPERATOR(embedding, 1) {
  const int64_t tokens = a.tokens(0);
  const int32_t *ids = a.ints(0), *first = a.ints(2);
  const Dtype dtype = a.dtype(1);
  if (a.failed()) return;
  kernels->embedding(dtype, ids, a.data(1), a.data(3), *first, tokens, a.dim(1, 0), a.dim(1, 1));
}

static void multiply(Dtype dtype, const LargeProduct& a, int64_t row, int64_t rows, int64_t first_column) {
  const char* x = static_cast<const char*>(a.x) + row * a.k * size_of(dtype);
  char* y = static_cast<char*>(a.y) + row * a.n * (a.wide ? 4 : size_of(dtype));
  kernels->linear(dtype, x, a.weight, a.bias, y, a.wide, rows, a.k, a.n, first_column);
}

static void product(Dtype dtype, const LargeProduct& whole) {
  int64_t rows = 0, columns = 0;  // of the corner that another library has computed
  if (large_products.product && dtype == Dtype::bf16 && whole.rows >= large_products.least_rows) {
    columns = large_products.product(whole);
    rows = columns ? whole.rows / large_products.least_rows * large_products.least_rows : 0;
  }
  if (rows > 0 && columns < whole.n) multiply(dtype, whole, 0, rows, columns);
  if (rows < whole.rows) multiply(dtype, whole, rows, whole.rows - rows, 0);
}

// x [T, k], packed weight [n, k], bias [n] if there is one -> [T, n]
OPERATOR(linear, 1) {
  const Dtype dtype = a.dtype(0);
  const int64_t tokens = a.tokens(0), k = a.last(0), n = a.dim(1, 0);
  const bool biased = a.count() == 4;
  a.check(a.dtype(1) == dtype && a.last(1) == k, "x has %ld columns, the weight %ld, or their dtypes differ", k,
         a.last(1));
  const int y = a.count() - 1;
  if (a.failed()) return;
  const bool wide = a.dtype(y) == Dtype::f32 && dtype != Dtype::f32;
  product(dtype, {a.data(0), a.data(1), biased ? a.data(2) : nullptr, a.data(y), wide, tokens, k, n});
}

// x [T, groups * size], weight [size], eps and offset [2] -> like x
OPERATOR(rms_norm, 1) {
  const int64_t tokens = a.tokens(0), size = a.size(1);
  const float* rms = a.floats(2, 2);
  a.check(a.last(0) % size == 0 && a.dtype(0) == a.dtype(1), "rows of %ld, weight of %ld", a.last(0), size);
  if (a.failed()) return;
  kernels->rms_norm(a.dtype(0), a.data(0), a.data(1), a.data(3), {rms[0], rms[1]}, tokens * (a.last(0) / size), size);
}

// x [T, groups * size], weight [size], bias [size] if there is one, eps [1] -> like x
OPERATOR(layer_norm, 1) {
  const int64_t tokens = a.tokens(0), size = a.size(1);
  const bool biased = a.count() == 5;
  const int last = a.count() - 1;
  const float* eps = a.floats(last - 1, 1);
  a.check(a.last(0) % size == 0 && a.dtype(0) == a.dtype(1), "rows of %ld, weight of %ld", a.last(0), size);
  a.check(!biased || (a.size(2) == size && a.dtype(2) == a.dtype(0)), "weight of %ld, bias of %ld", size, a.size(2));
  if (a.failed()) return;
  kernels->layer_norm(a.dtype(0), a.data(0), a.data(1), biased ? a.data(2) : nullptr, a.data(last), *eps,
                      tokens * (a.last(0) / size), size);
}

// x, y [T, size], factor [1] -> like x
OPERATOR(add_scaled, 1) {
  const int64_t tokens = a.tokens(0), size = a.last(0);
  const float* factor = a.floats(2, 1);
  a.check(a.size(1) == a.size(0) && a.last(1) == size && a.dtype(0) == a.dtype(1),
         "x has %ld columns, y %ld, or their rows or dtypes differ", size, a.last(1));
  if (a.failed()) return;
  kernels->add(a.dtype(0), a.data(0), a.data(1), a.data(3), *factor, tokens, size);
}

// x [T, size], factor [1] -> like x
OPERATOR(scaled, 1) {
  const int64_t tokens = a.tokens(0);
  const float* factor = a.floats(1, 1);
  if (a.failed()) return;
  kernels->add(a.dtype(0), a.data(0), nullptr, a.data(2), *factor, tokens, a.last(0));
}

// qkv [T, (H + 2 K) * D], q_weight [H * D], k_weight [K * D], eps [1], group (0: all) and whether centered [2] -> like qkv
OPERATOR(qk_norm, 1) {
  QKNorm call = take_qk(a, 1);
  const float* eps = a.floats(3, 1);
  const int32_t* how = a.ints(4);
  if (a.failed()) return;
  call.eps = *eps;
  call.group = how[0];
  call.centered = how[1];
  a.check(call.group >= 0 && (!call.group || (call.q_size % call.group == 0 && call.kv_size % call.group == 0)),
         "groups of %ld in %ld queries and %ld keys", call.group, call.q_size, call.kv_size);
  if (a.failed()) return;
  kernels->qk_norm(a.dtype(0), call);
}

// qkv [T, n + 2 * kv], kv [1] -> float32 [T, 2]
OPERATOR(qk_sum_squares, 1) {
  const int64_t tokens = a.tokens(0), columns = a.last(0);
  const int32_t* kv = a.ints(1);
  if (a.failed()) return;
  a.check(*kv >= 0 && 2 * *kv <= columns, "%d keys in %ld columns", *kv, columns);
  a.check(a.dtype(2) == Dtype::f32 && a.last(2) == 2, "sums of %ld columns", a.last(2));
  if (a.failed()) return;
  kernels->qk_sum_squares(a.dtype(0), a.data(0), static_cast<float*>(a.data(2)), tokens, columns - 2 * *kv, *kv);
}

// qkv [T, q + 2 * k], float32 sums [T, 2], q_weight [q], k_weight [k], q_count, k_count and eps [3] -> like qkv
OPERATOR(qk_rms_norm_tp, 1) {
  QKNorm call = take_qk(a, 2);
  const float* counts = a.floats(4, 3);
  a.check(a.dtype(1) == Dtype::f32 && a.last(1) == 2 && a.tokens(1) >= call.tokens, "sums of %ld columns", a.last(1));
  if (a.failed()) return;
  call.eps = counts[2];
  kernels->qk_rms_norm_tp(a.dtype(0), call, static_cast<const float*>(a.data(1)), counts[0], counts[1]);
}

// x, residual [T, size], weight [size], eps and offset [2] -> norm, sum
OPERATOR(add_rms_norm, 2) {
  const int64_t tokens = a.tokens(0), size = a.last(0);
  const float* rms = a.floats(3, 2);
  a.check(a.last(1) == size && a.size(2) == size && a.dtype(0) == a.dtype(1) && a.dtype(0) == a.dtype(2),
         "x has %ld columns, the residual %ld, the weight %ld, or their dtypes differ", size, a.last(1), a.size(2));
  if (a.failed()) return;
  kernels->add_rms_norm(a.dtype(0), a.data(0), a.data(1), a.data(2), a.data(4), a.data(5), {rms[0], rms[1]}, tokens,
                        size);
}

static void act_and_mul(Arguments& a, int activation) {
  const int64_t tokens = a.tokens(0);
  if (a.failed()) return;
  kernels->act_and_mul(a.dtype(0), activation, a.data(0), a.data(1), tokens, a.last(1));
}

// [T, 2 * size] -> [T, size]
OPERATOR(silu_and_mul, 1) { act_and_mul(a, 0); }
OPERATOR(gelu_and_mul, 1) { act_and_mul(a, 1); }
OPERATOR(gelu_tanh_and_mul, 1) { act_and_mul(a, 2); }

// qkv [T, (H + 2 K) * D], q_norm [D], k_norm [D] (of one value: none), cos, sin [P, R / 2], positions [T],
// caches [slots, K, D], slots [T], eps and offset [2], whether to rotate and whether interleaved [2] -> q [T, H * D];
// writes the caches
OPERATOR(qkv_to_cache, 1) {
  QKV call{};
  call.tokens = a.tokens(0);
  call.dtype = a.dtype(0);
  call.cache_dtype = a.dtype(6);
  call.kv_heads = a.dim(6, 1);
  call.head_dim = a.dim(6, 2);
  call.heads = a.last(0) / call.head_dim - 2 * call.kv_heads;
  const int32_t* rotation = a.ints(10);
  if (a.failed()) return;
  call.half = rotation[0] ? a.last(3) : 0;
  call.interleaved = rotation[1];
  const bool normed = a.size(1) == call.head_dim;
  call.qkv = a.data(0);
  call.q_norm = normed ? a.data(1) : nullptr;
  call.k_norm = normed ? a.data(2) : nullptr;
  call.cos = static_cast<const float*>(a.data(3));
  call.sin = static_cast<const float*>(a.data(4));
  call.positions = a.ints(5);
  call.k_cache = a.data(6);
  call.v_cache = a.data(7);
  call.slots = a.ints(8);
  const float* rms = a.floats(9, 2);
  call.rms = {rms[0], rms[1]};
  call.q = a.data(11);
  a.check(call.heads > 0 && a.last(11) == call.heads * call.head_dim && a.dtype(7) == call.cache_dtype,
         "%ld columns do not hold %ld key and value heads of %ld", a.last(0), call.kv_heads, call.head_dim);
  a.check(2 * call.half <= call.head_dim, "rotary tables of %ld for heads of %ld", call.half, call.head_dim);
  if (a.failed()) return;
  a.check(!call.half || within(call.positions, call.tokens, a.dim(3, 0)), "a position is outside the rotary table of %ld", a.dim(3, 0));
  a.check(within(call.slots, call.tokens, a.dim(6, 0)), "a slot is outside the cache of %ld", a.dim(6, 0));
  if (a.failed()) return;
  kernels->qkv_to_cache(call);
}

// q [T, H * D], caches [slots, K, D], block_tables [B, blocks], query_lens [B], seq_lens [B], page_size [1],
// scale and soft cap [2], sinks [H], slopes [H] (of those that are not used anything), window, whether sinks and slopes
// are used [3] -> like q
OPERATOR(paged_attention, 1) {
  Attention call{};
  const int64_t tokens = a.tokens(0);
  call.q = a.data(0);
  call.k_cache = a.data(1);
  call.v_cache = a.data(2);
  const float* factors = a.floats(7);
  const int32_t* options = a.ints(10);
  call.out = a.data(11);
  call.kv_heads = a.dim(1, 1);
  call.head_dim = a.dim(1, 2);
  call.heads = a.last(0) / call.head_dim;
  call.dtype = a.dtype(0);
  call.cache_dtype = a.dtype(1);
  a.check(a.size(7) == 2 && a.size(10) == 3, "%ld factors, %ld options", a.size(7), a.size(10));
  if (a.failed()) return;
  call.scale = factors[0];
  call.soft_cap = factors[1];
  call.window = options[0];
  call.sinks = a.per_head_or_null(8, options[1], call.heads);
  call.slopes = a.per_head_or_null(9, options[2], call.heads);
  a.check(call.window >= 0 && call.soft_cap >= 0, "window %ld, soft cap %g", call.window, call.soft_cap);
  a.check(a.last(0) % call.head_dim == 0 && call.heads % call.kv_heads == 0, "%ld query columns, %ld heads of %ld",
         a.last(0), call.kv_heads, call.head_dim);
  if (a.failed()) return;
  take_requests(a, 3, a.dim(1, 0), tokens, call);
  if (a.failed()) return;
  kernels->attention(call);
}

// logits [T, experts] float32, bias [experts] float32 (of one value: none), chosen [k], integers [5]: sigmoid, groups,
// top_groups, group_top, renormalize; numbers [2]: scaling, soft cap -> weights [T, k] float32, experts [T, k] int32
OPERATOR(route, 2) {
  Route call{};
  call.tokens = a.tokens(0);
  call.experts = a.last(0);
  call.top_k = a.last(2);
  a.check(a.dtype(0) == Dtype::f32 && a.dtype(1) == Dtype::f32, "logits and bias must be float32");
  a.check(a.size(3) == 5 && a.size(4) == 2, "%ld integers and %ld numbers", a.size(3), a.size(4));
  const int32_t* integers = a.ints(3);
  call.chosen = const_cast<int32_t*>(a.ints(6));
  if (a.failed()) return;
  call.logits = static_cast<const float*>(a.data(0));
  call.bias = a.size(1) == call.experts ? static_cast<const float*>(a.data(1)) : nullptr;
  call.weights = static_cast<float*>(a.data(5));
  call.sigmoid = integers[0];
  call.groups = integers[1];
  call.top_groups = integers[2];
  call.group_top = integers[3];
  call.renormalize = integers[4];
  call.scaling = static_cast<const float*>(a.data(4))[0];
  call.soft_cap = static_cast<const float*>(a.data(4))[1];
  a.check(call.top_k > 0 && call.top_k <= call.experts, "%ld of %ld experts", call.top_k, call.experts);
  a.check(call.groups > 0 && call.experts % call.groups == 0, "%ld experts in %ld groups", call.experts, call.groups);
  if (a.failed()) return;
  const int64_t size = call.experts / call.groups;
  a.check(call.top_groups > 0 && call.top_groups <= call.groups && call.group_top > 0 && call.group_top <= size &&
             call.top_groups * size >= call.top_k,
         "%ld of %ld groups, %ld of %ld experts in each", call.top_groups, call.groups, call.group_top, size);
  a.check(a.last(5) == call.top_k && a.last(6) == call.top_k && a.dtype(5) == Dtype::f32, "results of another shape");
  if (a.failed()) return;
  kernels->route(call);
}

// x [T, width], packed gate_up [experts, 2, size, width], its bias [experts, 2, size], packed down [experts, width,
// size], its bias [experts, width] (biases of one value: none), weights [T, k] float32, experts [T, k], integers [3]:
// activation, the first of the experts in the stacks, and of how many they are; numbers [2]: alpha, limit -> like x
OPERATOR(fused_experts, 1) {
  Experts call{};
  call.dtype = a.dtype(0);
  call.tokens = a.tokens(0);
  call.width = a.last(0);
  call.experts = a.dim(3, 0);
  call.size = a.last(3);
  call.top_k = a.last(5);
  call.chosen = a.ints(6);
  const int32_t* integers = a.ints(7);
  a.check(a.size(7) == 3, "%ld integers", a.size(7));
  for (int i = 1; i < 5; ++i) a.check(a.dtype(i) == call.dtype, "argument %d is not of the dtype of x", i);
  a.check(a.size(1) == call.experts * 2 * call.size * call.width && a.last(1) == call.width &&
             a.size(3) == call.experts * call.size * call.width,
         "the stacks are not of %ld experts of %ld and %ld", call.experts, call.width, call.size);
  a.check(a.size(2) == 1 || a.size(2) == call.experts * 2 * call.size, "a first bias of %ld values", a.size(2));
  a.check(a.size(4) == 1 || a.size(4) == call.experts * call.width, "a second bias of %ld values", a.size(4));
  a.check(a.dtype(5) == Dtype::f32 && a.last(6) == call.top_k && a.size(8) == 2, "weights and experts do not fit");
  a.check(a.tokens(5) == call.tokens && a.tokens(6) == call.tokens, "weights or experts of other tokens");
  if (a.failed()) return;
  call.activation = integers[0];
  call.first = integers[1];
  a.check(call.activation >= 0 && call.activation <= 3, "activation %d", call.activation);
  a.check(call.first >= 0 && call.first + call.experts <= integers[2], "%ld experts from %ld on, of %d", call.experts,
         call.first, integers[2]);
  a.check(within(call.chosen, call.tokens * call.top_k, integers[2]), "an expert is none of the %d", integers[2]);
  if (a.failed()) return;
  call.x = a.data(0);
  call.gate_up = a.data(1);
  call.gate_up_bias = a.size(2) > 1 ? a.data(2) : nullptr;
  call.down = a.data(3);
  call.down_bias = a.size(4) > 1 ? a.data(4) : nullptr;
  call.weights = static_cast<const float*>(a.data(5));
  call.alpha = static_cast<const float*>(a.data(8))[0];
  call.limit = static_cast<const float*>(a.data(8))[1];
  call.y = a.data(9);
  kernels->experts(call);
}

// x [T, size], limit [1] -> like x
OPERATOR(clipped, 1) {
  const int64_t tokens = a.tokens(0);
  const float* limit = a.floats(1, 1);
  if (a.failed()) return;
  kernels->clip(a.dtype(0), a.data(0), a.data(2), *limit, tokens, a.last(0));
}

// experts [T, k], location [experts, 1 + most], chosen [places], all int32 -> places [T, k]; adds to chosen
OPERATOR(to_physical_experts, 1) {
  const int64_t tokens = a.tokens(0), top_k = a.last(0), experts = a.dim(1, 0), row = a.last(1), places = a.size(2);
  const int32_t *ids = a.ints(0), *location = a.ints(1);
  int32_t *chosen = const_cast<int32_t*>(a.ints(2)), *found = const_cast<int32_t*>(a.ints(3));
  if (a.failed()) return;
  a.check(within(ids, tokens * top_k, experts), "an expert is none of the %ld", experts);
  for (int64_t i = 0; i < experts && !a.failed(); ++i) {
    const int32_t count = location[i * row];
    a.check(count > 0 && count < row && within(location + i * row + 1, count, places), "expert %ld has no places", i);
  }
  if (a.failed()) return;
  for (int64_t i = 0; i < tokens * top_k; ++i) {
    const int32_t* its = location + ids[i] * row;
    found[i] = its[1 + i / top_k % its[0]];
    ++chosen[found[i]];
  }
}

// x, other [T, size], gate [T, 1] -> like x
OPERATOR(add_gated, 1) {
  const int64_t tokens = a.tokens(0), size = a.last(0);
  a.check(a.last(1) == size && a.last(2) == 1 && a.tokens(1) == tokens && a.tokens(2) == tokens &&
             a.dtype(1) == a.dtype(0) && a.dtype(2) == a.dtype(0),
         "x has %ld columns, the other %ld, the gate %ld, or their dtypes differ", size, a.last(1), a.last(2));
  if (a.failed()) return;
  kernels->add_gated(a.dtype(0), a.data(0), a.data(1), a.data(2), a.data(3), tokens, size);
}

// More operators, with the helpers above.
#include "group_entry.h"
#include "mla_entry.h"

// y[rows, n] = x[rows, k] * packed weight[n, k]. Called outside graphs, and not as an operator: MindSpore would copy
// the weight first.
extern "C" EXPORTED void mindspore_cpu_logits(int dtype, const void* x, const void* weight, float* y, int64_t rows,
                                              int64_t k, int64_t n) {
  trace::Timer timer("logits");
  const Dtype kind = static_cast<Dtype>(dtype);
  product(kind, {x, weight, nullptr, y, kind != Dtype::f32, rows, k, n});
}

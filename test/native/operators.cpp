// The C++ operators against plain statements of them in double, called as MindSpore calls them: over random shapes, and
// with arguments that must be refused. Arrays have exactly the bytes that they need, so that an address sanitizer sees
// every access outside; built for another processor it runs in an emulator. test_native.py builds and runs it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "library.h"

namespace {

using Operator = int (*)(int, void**, int*, int64_t**, const char**, void*, void*);
using Shape = std::vector<int64_t>;
#if defined(__aarch64__)
typedef __fp16 Half;
#else
typedef _Float16 Half;
#endif
std::mt19937 generator(7);
int checks = 0, failures = 0;
const std::string kDtypes[] = {"float32", "float16", "bfloat16"};
const double kLimits[] = {2e-6, 2e-3, 1.6e-2};  // of the largest value

// Of caches: float8 is given as bytes, whose values are those of e4m3fn.
const std::string kCaches[] = {"float32", "float16", "bfloat16", "float8"};

double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator); }
int64_t any(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }
int index_of(const std::string& dtype) {
  for (int i = 0; i < 3; ++i)
    if (kDtypes[i] == dtype) return i;
  return -1;
}
// Of what is read of a cache, whose values are exact, and of what is written to it.
double limit_of_reads(const std::string& dtype, const std::string& cache) {
  return cache == "float8" ? kLimits[index_of(dtype)] : std::max(kLimits[index_of(dtype)], kLimits[index_of(cache)]);
}
double limit_of_writes(const std::string& dtype, const std::string& cache) {
  return cache == "float8" ? 0.0625 + kLimits[index_of(dtype)] : limit_of_reads(dtype, cache);
}

double float8_value(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double size = exponent ? std::ldexp(8 + mantissa, exponent - 10) : std::ldexp(mantissa, -9);
  return code & 128 ? -size : size;
}

// Values of one dtype; `exact` is what they are, in double.
struct Array {
  std::string dtype;
  Shape shape;
  int64_t size = 1;
  std::unique_ptr<char[]> bytes;
  bool is_float8;

  Array(std::string name, Shape shape)
      : dtype(name == "float8" ? "uint8" : name), shape(std::move(shape)), is_float8(name == "float8") {
    for (int64_t length : this->shape) size *= length;
    bytes.reset(new char[size * width()]());
  }
  bool is_byte() const { return dtype == "int8" || dtype == "uint8"; }
  int64_t width() const { return is_byte() ? 1 : dtype == "float32" || dtype == "int32" ? 4 : 2; }
  void set(int64_t i, double value) {
    const float f = static_cast<float>(value);
    if (dtype == "float32") std::memcpy(&bytes[i * 4], &f, 4);
    if (is_float8) {
      int nearest = 0;
      for (int code = 0; code < 256; ++code)
        if (code % 128 != 127 && std::fabs(float8_value(code) - value) < std::fabs(float8_value(nearest) - value))
          nearest = code;
      bytes[i] = static_cast<char>(nearest);
      return;
    }
    if (is_byte()) bytes[i] = static_cast<char>(static_cast<int>(value));
    if (dtype == "int32") {
      const int32_t n = static_cast<int32_t>(value);
      std::memcpy(&bytes[i * 4], &n, 4);
    }
    if (dtype == "float16") {
      const Half h = static_cast<Half>(f);
      std::memcpy(&bytes[i * 2], &h, 2);
    }
    if (dtype == "bfloat16") {
      uint32_t u;
      std::memcpy(&u, &f, 4);
      const uint16_t b = static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
      std::memcpy(&bytes[i * 2], &b, 2);
    }
  }
  double get(int64_t i) const {
    float f = 0;
    if (is_float8) return float8_value(static_cast<uint8_t>(bytes[i]));
    if (dtype == "float32") std::memcpy(&f, &bytes[i * 4], 4);
    if (dtype == "int8") return static_cast<int8_t>(bytes[i]);
    if (dtype == "uint8") return static_cast<uint8_t>(bytes[i]);
    if (dtype == "int32") {
      int32_t n;
      std::memcpy(&n, &bytes[i * 4], 4);
      return n;
    }
    if (dtype == "float16") {
      Half h;
      std::memcpy(&h, &bytes[i * 2], 2);
      f = static_cast<float>(h);
    }
    if (dtype == "bfloat16") {
      uint16_t b;
      std::memcpy(&b, &bytes[i * 2], 2);
      const uint32_t u = static_cast<uint32_t>(b) << 16;
      std::memcpy(&f, &u, 4);
    }
    return f;
  }
  Array& fill(double low = -1, double high = 1) {
    for (int64_t i = 0; i < size; ++i) set(i, uniform(low, high));
    return *this;
  }
};

Array ints(const std::vector<int64_t>& values) {
  Array found("int32", {static_cast<int64_t>(values.size())});
  for (size_t i = 0; i < values.size(); ++i) found.set(i, values[i]);
  return found;
}

Array numbers(const std::vector<double>& values) {
  Array found("float32", {static_cast<int64_t>(values.size())});
  for (size_t i = 0; i < values.size(); ++i) found.set(i, values[i]);
  return found;
}

Array number(double value) { return numbers({value}); }

Array nothing("int8", {1});  // what stands where an optional argument is not given

// The valid rows that operators are given from now on: none, or those of as many tokens and requests.
Array step_rows = ints({0});
void all_rows_count() { step_rows = ints({0}); }
void rows_count(int64_t tokens, int64_t requests) { step_rows = ints({tokens, requests}); }

int call(Operator op, std::vector<Array*> arrays) {
  arrays.insert(arrays.begin(), &step_rows);
  std::vector<void*> data;
  std::vector<int> ranks;
  std::vector<int64_t*> shapes;
  std::vector<const char*> dtypes;
  for (Array* array : arrays) {
    data.push_back(array->bytes.get());
    ranks.push_back(static_cast<int>(array->shape.size()));
    shapes.push_back(array->shape.data());
    dtypes.push_back(array->dtype.c_str());
  }
  return op(static_cast<int>(arrays.size()), data.data(), ranks.data(), shapes.data(), dtypes.data(), nullptr, nullptr);
}

void expect(bool holds, const std::string& what) {
  ++checks;
  if (holds) return;
  ++failures;
  std::printf("FAILED (%s): %s\n", mindspore_cpu_isa(), what.c_str());
}

// found[i] is wanted(i) for the first `count`, within the limit of a dtype.
void close(const Array& found, int64_t count, const std::function<double(int64_t)>& wanted, double limit,
           const std::string& what) {
  double largest = 1e-3, worst = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double want = wanted(i), have = found.get(i);
    largest = std::max(largest, std::fabs(want));
    worst = std::isfinite(have) ? std::max(worst, std::fabs(have - want)) : INFINITY;
  }
  expect(worst <= limit * largest, what + " " + found.dtype + ": off by " + std::to_string(worst));
}
void close(const Array& found, int64_t count, const std::function<double(int64_t)>& wanted, const std::string& dtype,
           const std::string& what) {
  close(found, count, wanted, kLimits[index_of(dtype)], what);
}

void test_linear(const std::string& dtype) {
  // Long ones are multiplied part by part.
  const int64_t rows = any(1, 140), k = any(0, 3) ? any(1, 90) : any(100, 400), n = any(1, 210);
  Array x(dtype, {rows, k}), w(dtype, {n, k}), bias(dtype, {n}), y(dtype, {rows, n});
  x.fill(), w.fill(), bias.fill();
  Array packed(dtype, {n, k});
  std::memcpy(packed.bytes.get(), w.bytes.get(), w.size * w.width());
  mindspore_cpu_prepack(index_of(dtype), packed.bytes.get(), n, k);
  const bool biased = any(0, 1);
  std::vector<Array*> arguments{&x, &packed, biased ? &bias : &nothing, &y};
  expect(call(linear, arguments) == 0, "linear");
  auto product = [&](int64_t i) {
    double total = 0;
    for (int64_t j = 0; j < k; ++j) total += x.get(i / n * k + j) * w.get(i % n * k + j);
    return total;
  };
  close(y, y.size, [&](int64_t i) { return product(i) + (biased ? bias.get(i % n) : 0); }, dtype, "linear");
  const int64_t row = any(0, rows - 1);
  Array one(dtype, {1, k}), alone(dtype, {1, n});
  std::memcpy(one.bytes.get(), x.bytes.get() + row * k * x.width(), k * x.width());
  arguments.front() = &one, arguments.back() = &alone;
  expect(call(linear, arguments) == 0, "linear of one row");
  expect(!std::memcmp(alone.bytes.get(), y.bytes.get() + row * n * y.width(), n * y.width()),
         "a row's product is the same among others");
  Array logits("float32", {rows, n});
  mindspore_cpu_logits(index_of(dtype), x.bytes.get(), packed.bytes.get(), reinterpret_cast<float*>(logits.bytes.get()),
                       rows, k, n);
  close(logits, logits.size, product, "float32", "logits of " + dtype);
  mindspore_cpu_unpack(index_of(dtype), packed.bytes.get(), n, k);
  expect(!std::memcmp(packed.bytes.get(), w.bytes.get(), w.size * w.width()), "unpack undoes pack");
}

void test_norms(const std::string& dtype) {
  const int64_t rows = any(1, 70), size = any(1, 200);
  const double eps = 1e-5, offset = any(0, 1);
  Array x(dtype, {rows, size}), residual(dtype, {rows, size}), weight(dtype, {size}), y(dtype, {rows, size});
  Array total(dtype, {rows, size}), epsilon = numbers({eps, offset});
  x.fill(), residual.fill(), weight.fill(0.5, 1.5);
  auto normed = [&](const Array& of, int64_t i) {
    double squares = 0;
    for (int64_t j = 0; j < size; ++j) squares += std::pow(of.get(i / size * size + j), 2);
    return of.get(i) / std::sqrt(squares / size + eps) * (weight.get(i % size) + offset);
  };
  expect(call(rms_norm, {&x, &weight, &epsilon, &y}) == 0, "rms_norm");
  close(y, y.size, [&](int64_t i) { return normed(x, i); }, dtype, "rms_norm");
  expect(call(add_rms_norm, {&x, &residual, &weight, &epsilon, &y, &total}) == 0, "add_rms_norm");
  close(total, y.size, [&](int64_t i) { return x.get(i) + residual.get(i); }, dtype, "sum");
  close(y, y.size, [&](int64_t i) { return normed(total, i); }, dtype, "add_rms_norm");
}

// x[i] with the mean taken off where centered, over the root of the mean of the squares of its group.
double unit(const Array& x, int64_t row, int64_t columns, int64_t first, int64_t size, int64_t i, double eps,
            bool centered) {
  double mean = 0, squares = 0;
  auto at = [&](int64_t j) { return x.get(row * columns + first + j); };
  for (int64_t j = 0; centered && j < size; ++j) mean += at(j) / size;
  for (int64_t j = 0; j < size; ++j) squares += std::pow(at(j) - mean, 2);
  return (at(i) - mean) / std::sqrt(squares / size + eps);
}

void test_layer_norm(const std::string& dtype) {
  const int64_t rows = any(1, 70), size = any(2, 200), groups = any(1, 3);
  Array x(dtype, {rows, groups * size}), weight(dtype, {size}), bias(dtype, {size}), y(dtype, x.shape);
  Array eps = number(1e-5), short_bias(dtype, {size - 1});
  x.fill(), weight.fill(0.5, 1.5), bias.fill();
  auto wanted = [&](int64_t i) {
    return unit(x, i / size, size, 0, size, i % size, 1e-5, true) * weight.get(i % size);
  };
  expect(call(layer_norm, {&x, &weight, &nothing, &eps, &y}) == 0, "layer_norm");
  close(y, y.size, wanted, dtype, "layer_norm");
  expect(call(layer_norm, {&x, &weight, &bias, &eps, &y}) == 0, "layer_norm with bias");
  close(y, y.size, [&](int64_t i) { return wanted(i) + bias.get(i % size); }, dtype, "layer_norm with bias");
  expect(call(layer_norm, {&x, &weight, &short_bias, &eps, &y}) != 0, "layer_norm takes a short bias");
}

void test_sums(const std::string& dtype) {
  const int64_t rows = any(1, 70), size = any(1, 200);
  Array x(dtype, {rows, size}), other(dtype, x.shape), y(dtype, x.shape), factor = number(0.37),
                                                                          more(dtype, {rows + 1, size});
  x.fill(), other.fill();
  expect(call(add, {&x, &other, &factor, &y}) == 0, "add");
  close(y, y.size, [&](int64_t i) { return x.get(i) + 0.37 * other.get(i); }, dtype, "add");
  expect(call(scale, {&x, &factor, &y}) == 0, "scale");
  close(y, y.size, [&](int64_t i) { return 0.37 * x.get(i); }, dtype, "scale");
  expect(call(add, {&x, &more, &factor, &y}) != 0, "add takes other shapes");
}

void test_qk_norm(const std::string& dtype) {
  const int64_t rows = any(1, 40), kv = any(1, 3), all = kv * any(1, 4), size = any(2, 40),
                columns = (all + 2 * kv) * size;
  const bool whole = any(0, 1), centered = any(0, 1);
  Array qkv(dtype, {rows, columns}), q(dtype, {all, size}), k(dtype, {kv, size}), y(dtype, qkv.shape),
      eps = number(1e-5);
  Array how = ints({size, whole, centered}), uneven = ints({size + 1, 0, centered});
  qkv.fill(), q.fill(0.5, 1.5), k.fill(0.5, 1.5);
  expect(call(qk_norm, {&qkv, &q, &k, &how, &eps, &y}) == 0, "qk_norm");
  auto wanted = [&](int64_t i) {
    const int64_t row = i / columns, column = i % columns, part = column < all * size ? 0 : all * size;
    const Array& weight = part ? k : q;
    if (column >= (all + kv) * size) return qkv.get(i);
    const int64_t group = whole ? weight.size : size, first = part + (column - part) / group * group;
    return unit(qkv, row, columns, first, group, column - first, 1e-5, centered) * weight.get(column - part);
  };
  close(y, y.size, wanted, dtype, "qk_norm");
  if (q.size % (size + 1) || k.size % (size + 1))
    expect(call(qk_norm, {&qkv, &q, &k, &uneven, &eps, &y}) != 0, "qk_norm takes groups that do not fit");
}

void test_qk_norm_of_ranks(const std::string& dtype) {
  const int64_t rows = any(1, 40), q_size = any(1, 150), kv = any(1, 60), columns = q_size + 2 * kv;
  Array qkv(dtype, {rows, columns}), q(dtype, {q_size}), k(dtype, {kv}), y(dtype, qkv.shape),
      sums("float32", {rows, 2});
  Array size = ints({kv}), many = ints({columns}), narrow("float32", {rows, 1});
  Array counts("float32", {3});
  const double factors[] = {2.0 * q_size, 3.0 * kv, 1e-5};
  for (int i = 0; i < 3; ++i) counts.set(i, factors[i]);
  qkv.fill(), q.fill(0.5, 1.5), k.fill(0.5, 1.5);
  auto squares = [&](int64_t row, int64_t first, int64_t count) {
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += std::pow(qkv.get(row * columns + first + i), 2);
    return total;
  };
  expect(call(qk_sum_squares, {&qkv, &size, &sums}) == 0, "qk_sum_squares");
  auto wanted_sum = [&](int64_t i) { return i % 2 ? squares(i / 2, q_size, kv) : squares(i / 2, 0, q_size); };
  close(sums, sums.size, wanted_sum, "float32", "qk_sum_squares");
  expect(call(qk_rms_norm_tp, {&qkv, &sums, &q, &k, &counts, &y}) == 0, "qk_rms_norm_tp");
  auto wanted = [&](int64_t i) {
    const int64_t row = i / columns, column = i % columns, key = column >= q_size;
    if (column >= q_size + kv) return qkv.get(i);
    const double mean = sums.get(2 * row + key) / factors[key];
    return qkv.get(i) / std::sqrt(mean + 1e-5) * (key ? k.get(column - q_size) : q.get(column));
  };
  close(y, y.size, wanted, dtype, "qk_rms_norm_tp");
  expect(call(qk_sum_squares, {&qkv, &many, &sums}) != 0, "qk_sum_squares takes more keys than there are columns");
  expect(call(qk_rms_norm_tp, {&qkv, &narrow, &q, &k, &counts, &y}) != 0, "qk_rms_norm_tp takes one sum");
}

void test_embedding(const std::string& dtype) {
  const int64_t tokens = any(1, 9), rows = any(1, 150), width = any(1, 40), first = any(0, 30);
  Array ids("int32", {tokens}), weight(dtype, {rows, width}), y(dtype, {tokens, width}), start = ints({first});
  weight.fill();
  for (int64_t i = 0; i < tokens; ++i) ids.set(i, any(0, 190));
  Array packed(dtype, {rows, width});
  std::memcpy(packed.bytes.get(), weight.bytes.get(), weight.size * weight.width());
  mindspore_cpu_prepack(index_of(dtype), packed.bytes.get(), rows, width);
  expect(call(embedding, {&ids, &packed, &start, &y}) == 0, "embedding");
  auto wanted = [&](int64_t i) {
    const int64_t row = static_cast<int64_t>(ids.get(i / width)) - first;
    return row >= 0 && row < rows ? weight.get(row * width + i % width) : 0;
  };
  close(y, y.size, wanted, dtype, "embedding");
}

// Requests with pages of a cache in random order, some with a prefix that is there already, and padding after the last.
struct Batch {
  int64_t page_size, pages, blocks, tokens = 0;
  std::vector<int64_t> query_lens, seq_lens, table;
  Batch() {
    const int64_t requests = any(1, 4);
    page_size = std::vector<int64_t>{1, 4, 16}[any(0, 2)];
    for (int64_t i = 0; i < requests; ++i) {
      const int64_t length = any(1, any(0, 1) ? 20 : 300);
      seq_lens.push_back(length);
      query_lens.push_back(any(1, std::vector<int64_t>{1, std::min<int64_t>(length, 20), length}[any(0, 2)]));
      tokens += query_lens.back();
    }
    blocks = 0;
    for (int64_t length : seq_lens) blocks = std::max(blocks, (length + page_size - 1) / page_size);
    ++blocks;
    pages = blocks * requests + 1;
    std::vector<int64_t> order(pages);
    for (int64_t i = 0; i < pages; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), generator);
    table.assign(order.begin(), order.begin() + requests * blocks);
  }
  int64_t slot(int64_t request, int64_t place) const {
    return table[request * blocks + place / page_size] * page_size + place % page_size;
  }
};

struct Heads {
  int64_t kv, group, size;
  Heads() : kv(any(1, 3)), group(any(1, 5)), size(std::vector<int64_t>{24, 64, 80, 96, 128, 256}[any(0, 5)]) {}
};

// What attention may have beside products and the causal mask, each in about every third case.
struct Features {
  int64_t window;
  double soft_cap;
  bool sinks, slopes, bidirectional, images;
  Features()
      : window(any(0, 2) ? 0 : any(1, 150)),
        soft_cap(any(0, 2) ? 0 : 1.5),
        sinks(!any(0, 2)),
        slopes(!any(0, 2)),
        bidirectional(!any(0, 2)),
        images(!bidirectional && any(0, 1)) {}
  double score(double product, double slope, int64_t distance) const {
    const double capped = soft_cap > 0 ? soft_cap * std::tanh(product / soft_cap) : product;
    return slopes ? capped - slope * distance : capped;
  }
};

void test_attention(const std::string& dtype, const std::string& cache_dtype) {
  const Batch batch;
  const Heads heads;
  const Features features;
  const int64_t all = heads.kv * heads.group, requests = batch.seq_lens.size(), padding = any(0, 3);
  Array q(dtype, {batch.tokens + padding, all * heads.size}), out(dtype, q.shape);
  Array k(cache_dtype, {batch.pages * batch.page_size, heads.kv, heads.size}), v(cache_dtype, k.shape);
  Array table("int32", {requests, batch.blocks}), page = ints({batch.page_size});
  q.fill(-2, 2), k.fill(-2, 2), v.fill();
  for (int64_t i = 0; i < table.size; ++i) table.set(i, batch.table[i]);
  Array query_lens = ints(batch.query_lens), seq_lens = ints(batch.seq_lens);
  const double scale = 1 / std::sqrt(heads.size);
  Array factors("float32", {2}), sinks("float32", {all}), slopes("float32", {all});
  factors.set(0, scale), factors.set(1, features.soft_cap);
  sinks.fill(), slopes.fill(0, 0.05);
  Array options = ints({features.window, features.bidirectional}), last_seen("int32", {batch.tokens + padding});
  for (int64_t i = 0; i < last_seen.size; ++i) last_seen.set(i, any(0, 300));
  rows_count(batch.tokens, requests);
  Array *sink = features.sinks ? &sinks : &nothing, *slope = features.slopes ? &slopes : &nothing;
  const double k_scale = k.is_float8 ? 0.7 : 1, v_scale = k.is_float8 ? 1.3 : 1;
  Array scales = numbers({k_scale, v_scale}), *scale_pair = k.is_float8 ? &scales : &nothing;
  Array* images = features.images ? &last_seen : &nothing;
  const std::vector<Array*> arguments{&q,   &k,    &v,         &table, &query_lens, &seq_lens, &page,
                                      sink, slope, scale_pair, images, &options,    &factors,  &out};
  expect(call(paged_attention, arguments) == 0, "paged_attention");
  int64_t token = 0, worst_row = -1;
  double worst = 0;
  for (int64_t request = 0; request < requests; ++request)
    for (int64_t i = 0; i < batch.query_lens[request]; ++i, ++token)
      for (int64_t head = 0; head < all; ++head) {
        const int64_t own = batch.seq_lens[request] - batch.query_lens[request] + i, kv = head / heads.group;
        int64_t seen = features.bidirectional ? batch.seq_lens[request] : own + 1;
        if (features.images)
          seen = std::max(seen, std::min<int64_t>(batch.seq_lens[request], last_seen.get(token) + 1));
        std::vector<double> weight(seen);
        double most = features.sinks ? sinks.get(head) : -INFINITY;
        for (int64_t j = 0; j < seen; ++j) {
          weight[j] = -INFINITY;
          if (features.window && own - j >= features.window) continue;
          if (features.window && features.bidirectional && j - own >= features.window) continue;
          const int64_t at = (batch.slot(request, j) * heads.kv + kv) * heads.size;
          double score = 0;
          for (int64_t d = 0; d < heads.size; ++d)
            score += q.get((token * all + head) * heads.size + d) * k.get(at + d);
          weight[j] = features.score(score * scale * k_scale, slopes.get(head), own - j);
          most = std::max(most, weight[j]);
        }
        double sum = features.sinks ? std::exp(sinks.get(head) - most) : 0;
        for (double& w : weight) sum += w = std::exp(w - most);
        for (int64_t d = 0; d < heads.size; ++d) {
          double wanted = 0;
          for (int64_t j = 0; j < seen; ++j)
            wanted += v_scale * weight[j] / sum * v.get((batch.slot(request, j) * heads.kv + kv) * heads.size + d);
          const double off = std::fabs(out.get((token * all + head) * heads.size + d) - wanted);
          if (!(off <= worst)) worst = off, worst_row = token;
        }
      }
  const double limit = v_scale * limit_of_reads(dtype, cache_dtype);
  expect(worst <= limit, "paged_attention " + dtype + ", cache " + cache_dtype + ", head size " +
                             std::to_string(heads.size) + ": token " + std::to_string(worst_row) + " off by " +
                             std::to_string(worst));
  for (int64_t i = batch.tokens * all * heads.size; i < out.size; ++i)
    expect(out.get(i) == 0, "paged_attention writes padding");
  // What must be refused: a page outside the cache, lengths that do not fit, an empty request.
  Array broken = ints({batch.seq_lens[0] + 1000});
  auto refused = [&](int argument, Array* bad, const std::string& what) {
    std::vector<Array*> changed = arguments;
    changed[argument] = bad;
    expect(call(paged_attention, changed) != 0, "paged_attention takes " + what);
  };
  Array outside("int32", table.shape), no_queries = ints(batch.query_lens), too_long = ints(batch.seq_lens);
  for (int64_t i = 0; i < outside.size; ++i) outside.set(i, batch.pages);
  no_queries.set(0, 0), too_long.set(0, batch.blocks * batch.page_size + 1);
  refused(3, &outside, "pages outside the cache");
  refused(4, &no_queries, "a request without queries");
  refused(5, &too_long, "a length past the table");
  Array behind = ints({-1, 0}), of_less("float32", {all + 1}), halves("float16", {all}), many = ints({0, 0, 0}),
        one = number(0), three = numbers({1, 1, 1});
  refused(12, &one, "a scale without a soft cap");
  refused(11, &behind, "a window before the first key");
  refused(11, &many, "too many options");
  Array both = ints({0, 1});
  if (features.images && last_seen.size > 1) refused(11, &both, "places up to which tokens see where they see all");
  refused(9, &three, "scales of more than keys and values");
  refused(7, &of_less, "sinks of other heads");
  refused(7, &halves, "sinks of half precision");
  all_rows_count();
}

void test_cache_write(const std::string& dtype, const std::string& cache_dtype) {
  const Heads heads;
  const int64_t tokens = any(1, 40), slots = tokens + any(1, 9), positions = any(5, 50), all = heads.kv * heads.group;
  const int64_t half = any(0, 1) ? heads.size / 2 : heads.size / 4, size = heads.size;
  const double eps = 1e-6, offset = any(0, 1);
  const bool normed = any(0, 1), rotates = any(0, 3), interleaved = any(0, 1), last = any(0, 1);
  Array qkv(dtype, {tokens, (all + 2 * heads.kv) * size}), q_norm(dtype, {size}), k_norm(dtype, q_norm.shape);
  Array cos("float32", {positions, half}), sin("float32", {positions, half}), place("int32", {tokens});
  Array k(cache_dtype, {slots, heads.kv, size}), v(cache_dtype, k.shape), slot("int32", {tokens}),
      epsilon = numbers({eps, offset});
  Array q(dtype, {tokens, all * size}), order = ints({interleaved, last});
  qkv.fill(), q_norm.fill(0.5, 1.5), k_norm.fill(0.5, 1.5), cos.fill(), sin.fill();
  for (int64_t i = 0; i < tokens; ++i) place.set(i, any(0, positions - 1)), slot.set(i, slots - 1 - i);
  auto given = [](bool is, Array& array) { return is ? &array : &nothing; };
  Array scales = numbers({0.7, 1.3});
  const std::vector<Array*> arguments{&qkv,
                                      given(normed, q_norm),
                                      given(normed, k_norm),
                                      given(rotates, cos),
                                      given(rotates, sin),
                                      &place,
                                      &k,
                                      &v,
                                      &slot,
                                      given(k.is_float8, scales),
                                      &order,
                                      &epsilon,
                                      &q};
  expect(call(qkv_to_cache, arguments) == 0, "qkv_to_cache");
  auto in = [&](int64_t token, int64_t head, int64_t d) {
    return qkv.get((token * (all + 2 * heads.kv) + head) * size + d);
  };
  auto wanted = [&](int64_t token, int64_t head, int64_t d) {
    using Values = std::function<double(int64_t)>;
    const Values raw = [&](int64_t at) { return in(token, head, at); };
    auto normalized = [&](const Values& from, int64_t at) {
      if (!normed) return from(at);
      double squares = 0;
      for (int64_t j = 0; j < size; ++j) squares += std::pow(from(j), 2);
      return from(at) / std::sqrt(squares / size + eps) * ((head < all ? q_norm : k_norm).get(at) + offset);
    };
    auto turned = [&](const Values& from, int64_t at) {
      if (!rotates || at >= 2 * half) return from(at);
      const int64_t row = static_cast<int64_t>(place.get(token)) * half + (interleaved ? at / 2 : at % half);
      const int64_t apart = interleaved ? 1 : half;
      return (interleaved ? at % 2 == 0 : at < half) ? from(at) * cos.get(row) - from(at + apart) * sin.get(row)
                                                     : from(at) * cos.get(row) + from(at - apart) * sin.get(row);
    };
    if (last) return normalized([&](int64_t at) { return turned(raw, at); }, d);
    return turned([&](int64_t at) { return normalized(raw, at); }, d);
  };
  close(q, q.size, [&](int64_t i) { return wanted(i / (all * size), i / size % all, i % size); }, dtype, "queries");
  auto token_of = [&](int64_t i) { return slots - 1 - i / (heads.kv * size); };
  auto written = [&](const Array& cache, int64_t first, bool rotated, const std::string& what) {
    auto want = [&](int64_t i) -> double {
      const int64_t token = token_of(i), head = first + i / size % heads.kv, d = i % size;
      if (token >= tokens) return 0;  // a slot that nobody was given
      return (rotated ? wanted(token, head, d) : in(token, head, d)) / (k.is_float8 ? scales.get(!rotated) : 1);
    };
    close(cache, cache.size, want, limit_of_writes(dtype, cache_dtype), what);
  };
  written(k, all, true, "keys");
  written(v, all + heads.kv, false, "values");
  Array far("int32", {tokens}), negative("int32", {tokens});
  for (int64_t i = 0; i < tokens; ++i) far.set(i, slots), negative.set(i, -1);
  for (Array* bad : {&far, &negative})
    for (int argument : {5, 8}) {
      std::vector<Array*> changed = arguments;
      changed[argument] = bad;
      if (argument == 5 && (!rotates || (bad == &far && slots < positions))) continue;
      expect(call(qkv_to_cache, changed) != 0, "qkv_to_cache takes a slot or a position outside");
    }
}

#include "dispatch.h"
#include "steps.h"
#include "values.h"
#include "lora.h"
#include "experts.h"
#include "quantized.h"
#include "mla_operators.h"
#include "sparse_operators.h"
#include "state_operators.h"
#include "streams.h"
#include "vision_operators.h"

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 20;
  const std::string only = count > 2 ? arguments[2] : "";  // an instruction set; none: all that this machine has
  mindspore_cpu_threads(3, nullptr);
  int tables = 0;
  for (const char* isa : {"avx512_amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2", "i8mm", "dotprod", "generic"}) {
    if ((!only.empty() && only != isa) || !mindspore_cpu_use(isa)) continue;
    ++tables;
    for (int round = 0; round < rounds; ++round)
      for (const std::string& dtype : kDtypes) {
        test_layer_norm(dtype), test_sums(dtype), test_qk_norm(dtype), test_qk_norm_of_ranks(dtype);
        test_linear(dtype), test_norms(dtype), test_activations(dtype), test_values(dtype), test_embedding(dtype);
        test_quant_linear(dtype), test_quant_replay(dtype), test_quant_embedding(dtype), test_columns(dtype),
            test_quant_experts(dtype);
        test_activate(dtype), test_rows_by_index(dtype), test_segment_attention(dtype), test_mrope(dtype);
        test_lora(dtype), test_rows_of_a_step(dtype), test_replay(dtype), test_route(), test_sparsemixer(),
            test_scaled_routes(), test_experts(dtype), test_dispatch(dtype);
        test_recurrent_states(dtype), test_kimi_delta(dtype), test_gates(dtype);
        for (const std::string& cache_dtype : kDtypes) test_causal_conv(dtype, cache_dtype);
        for (const std::string& cache_dtype : kCaches) {
          test_attention(dtype, cache_dtype);
          test_cache_write(dtype, cache_dtype);
          test_latent_write(dtype, cache_dtype), test_mla_attention(dtype, cache_dtype);
          test_choice(dtype, cache_dtype), test_chosen(dtype, cache_dtype);
        }
        test_turned(dtype), test_streams(dtype), test_sparse_gate(dtype);
      }
    std::printf("%s: %d checks so far, %d failed\n", isa, checks, failures);
  }
  return failures > 0 || tables == 0;
}

// Products with quantized matrices, beside plain statements of them; part of operators.cpp.
#pragma once

const char* const kKinds[] = {"int4",  "uint4", "e2m1", "nf4",  "iq4nl", "int8",
                              "uint8", "e4m3",  "int6", "int5", "uint5"};  // enum Codes
const int kLastKind = 10, kInTwoParts = 4;                                 // the dtype of scales of super-blocks
int bits_of_kind(int kind) { return kind < 5 ? 4 : kind < 8 ? 8 : kind == 8 ? 6 : 5; }
// Columns that a matrix of this kind has a multiple of.
int64_t unit_of_kind(int kind) { return kind < 5 ? 2 : kind < 8 ? 1 : kind == 8 ? 16 : 32; }
const std::vector<std::string> kStorages{"float32", "float16", "bfloat16", "uint8", "int8"};  // enum Storage

int storage_of(const std::string& dtype) {
  return static_cast<int>(std::find(kStorages.begin(), kStorages.end(), dtype) - kStorages.begin());
}

// What a code stands for: OCP's e2m1 and e4m3, QLoRA's table, llama.cpp's, or the number.
double value_of(const std::string& kind, int code) {
  const double e2m1[] = {0, .5, 1, 1.5, 2, 3, 4, 6};
  const double nf4[] = {-1.0,
                        -0.6961928009986877,
                        -0.5250730514526367,
                        -0.39491748809814453,
                        -0.28444138169288635,
                        -0.18477343022823334,
                        -0.09105003625154495,
                        0.0,
                        0.07958029955625534,
                        0.16093020141124725,
                        0.24611230194568634,
                        0.33791524171829224,
                        0.44070982933044434,
                        0.5626170039176941,
                        0.7229568362236023,
                        1.0};
  const double iq4nl[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  if (kind == "int4") return code - 8;
  if (kind == "int6") return code - 32;
  if (kind == "int5") return code - 16;
  if (kind == "e2m1") return code < 8 ? e2m1[code] : -e2m1[code - 8];
  if (kind == "nf4") return nf4[code];
  if (kind == "iq4nl") return iq4nl[code];
  if (kind == "int8") return static_cast<int8_t>(code);
  if (kind != "e4m3") return code;
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double size = exponent ? std::ldexp(1 + mantissa / 8.0, exponent - 7) : std::ldexp(mantissa / 8.0, -6);
  return code & 128 ? -size : size;
}

// Matrices [count, n, k], row-major and packed, and the values that they stand for.
struct Quantized {
  int kind;
  int64_t count, n, k, group, groups;
  int64_t bits;
  Array codes, scale, offset;
  std::string how;  // "": no offsets, "zero_point" or "min"

  // scale_type: of kStorages; kInTwoParts: factors of groups, and of 256 columns.

  Quantized(int64_t count, int64_t n, int64_t least_k, int kind, int scale_type)
      : kind(kind),
        count(count),
        n(n),
        k(multiple(least_k, scale_type == kInTwoParts ? 256 : unit_of_kind(kind))),
        group(scale_type == kInTwoParts ? 16 << any(kind > 8, 3)
                                        : std::vector<int64_t>{0, 16, 32, 64, 128, 192}[any(0, 5)]),
        groups(group ? (k + group - 1) / group : 1),
        bits(bits_of_kind(kind)),
        codes(kind == 5 ? "int8" : "uint8", {count, n, k * bits / 8}),
        scale(kStorages[scale_type], {count, n, groups}),
        offset("uint8", {count, n, groups}) {
    if (kind > 8 && group == 16) group = 32, groups = (k + 31) / 32, scale = Array(scale.dtype, {count, n, groups});
    for (int64_t i = 0; i < codes.size; ++i) codes.set(i, any(0, 255));
    if (name() == "e4m3")
      for (int64_t i = 0; i < codes.size; ++i)
        if ((static_cast<int>(codes.get(i)) & 127) == 127) codes.set(i, 0x80);
    for (int64_t i = 0; i < scale.size; ++i) scale.set(i, scale_type == 3 ? any(118, 130) : uniform(-1, 1));
    if (scale_type == kInTwoParts) {
      scale = in_two_parts(), how = any(0, 1) ? "min" : "";
      if (!how.empty()) offset = in_two_parts();
    } else if (any(0, 1)) {
      const int type = any(0, 3);
      how = type == 3 ? "zero_point" : "min";
      offset = Array(kStorages[type], offset.shape);
      for (int64_t i = 0; i < offset.size; ++i) offset.set(i, type == 3 ? any(0, (1 << bits) - 1) : uniform(-1, 1));
    }
  }
  static int64_t multiple(int64_t least, int64_t of) { return (least + of - 1) / of * of; }
  // Of each 256 columns: a byte for each group, and a float16.
  Array in_two_parts() const {
    const int64_t of_super = 256 / group;
    Array found("int8", {count, n, k / 256 * (of_super + 2)});
    for (int64_t i = 0; i < found.size; i += of_super + 2) {
      for (int64_t j = 0; j < of_super; ++j) found.set(i + j, any(-128, 127));
      const Half whole = static_cast<Half>(uniform(-0.01, 0.01));
      std::memcpy(found.bytes.get() + i + of_super, &whole, 2);
    }
    return found;
  }
  double factor(const Array& of, int64_t row, int64_t group_of_row) const {
    const int64_t of_super = 256 / std::max<int64_t>(group, 1);
    if (of.dtype != "int8") return of.get(row * groups + group_of_row);
    const int64_t start = row * of.shape[2] + group_of_row / of_super * (of_super + 2);
    Half whole;
    std::memcpy(&whole, of.bytes.get() + start + of_super, 2);
    return of.get(start + group_of_row % of_super) * static_cast<double>(static_cast<float>(whole));
  }
  std::string name() const { return kKinds[kind]; }
  std::string describe() const {
    return name() + " [" + std::to_string(n) + ", " + std::to_string(k) + "] group " + std::to_string(group) + " " +
           scale.dtype + " " + how + " " + offset.dtype;
  }
  int byte(int64_t at) const { return static_cast<uint8_t>(codes.bytes[at]); }
  int code_at(int64_t at) const {
    if (bits == 8) return byte(at);
    if (bits == 4) return byte(at / 2) >> (at % 2 * 4) & 15;
    const int64_t upper = bits - 4, columns = 32 / upper, a_byte = 8 / upper;
    const int64_t unit = at / columns * (columns * bits / 8), own = at % columns;
    const int high = byte(unit + columns / 2 + own / a_byte) >> (own % a_byte * upper) & ((1 << upper) - 1);
    return (byte(unit + own / 2) >> (own % 2 * 4) & 15) | high << 4;
  }
  double value(int64_t row, int64_t column) const {  // row: of all matrices
    const int64_t own = group ? column / group : 0;
    const double code = value_of(name(), code_at(row * k + column)), held = factor(scale, row, own);
    const double by = scale.dtype == "uint8" ? std::ldexp(1.0, static_cast<int>(held) - 127) : held;
    const double zero = -value_of(name(), name() == "int8" ? 128 : 0);  // of codes that start at 0
    const bool in_tables = kind > 1 && kind < 5;
    if (how == "zero_point") return (code + (in_tables ? 0 : zero) - offset.get(row * groups + own)) * by;
    return code * by + (how == "min" ? factor(offset, row, own) : 0);
  }
  std::vector<double> values() const {
    std::vector<double> found(count * n * k);
    for (int64_t i = 0; i < count * n * k; ++i) found[i] = value(i / k, i % k);
    return found;
  }
  Array* offsets() { return how.empty() ? &nothing : &offset; }
  void pack() {
    mindspore_cpu_prepack_quant(kind, count, n, k, group, codes.bytes.get(), scale.bytes.get(), storage_of(scale.dtype),
                                how.empty() ? nullptr : offset.bytes.get(), storage_of(offset.dtype));
  }
};

// x as it is multiplied: 0 as it is, 1 rounded by row, 2 by 32 columns, 3 by a given step.
std::vector<double> rounded_rows(const Array& x, int activations, double step, double offset) {
  const int64_t k = x.shape[1];
  std::vector<double> found(x.size);
  for (int64_t i = 0; i < x.size; ++i) found[i] = x.get(i);
  if (!activations) return found;
  const int64_t group = activations == 2 ? 32 : k;
  for (int64_t first = 0; first < x.size; first += std::min(group, k - first % k)) {
    const int64_t count = std::min(group, k - first % k);
    float most = 0;
    for (int64_t i = first; i < first + count; ++i) most = std::max(most, std::fabs(static_cast<float>(found[i])));
    const float own = activations == 3 ? static_cast<float>(step) : std::max(most, 1e-30f) / 127;
    for (int64_t i = first; i < first + count; ++i) {
      const double whole = std::nearbyint(static_cast<float>(found[i]) / own) + (activations == 3 ? offset : 0);
      found[i] = std::min(127.0, std::max(-128.0, whole)) * own;
    }
  }
  return found;
}

void test_quant_linear(const std::string& dtype) {
  for (int turn = 0; turn < 4; ++turn) {
    const int kind = static_cast<int>(any(0, kLastKind));
    const bool integers = std::string(kKinds[kind]) != "nf4" && std::string(kKinds[kind]) != "e4m3";
    const int activations = integers ? any(0, 3) : 0;
    const int64_t rows = any(0, 1) ? any(1, 9) : any(1, 140), n = any(1, 210);
    Quantized w(1, n, any(0, 3) ? any(1, 90) : any(100, 600), kind, static_cast<int>(any(0, kInTwoParts)));
    const int64_t k = w.k;
    Array x(dtype, {rows, k}), y(dtype, {rows, n}), bias(any(0, 1) ? dtype : "float32", {n});
    x.fill(), bias.fill();
    for (int64_t i = 0; i < k && rows > 1; ++i) x.set(i, 0);
    const bool biased = any(0, 1);
    const double step = 0.01, zero = 3;
    Array steps = number(step), zeros = number(zero), attributes = ints({kind, w.group, activations});
    const std::vector<double> values = w.values();
    w.codes.shape = {n, w.codes.shape[2]}, w.scale.shape = {n, w.scale.shape[2]},
    w.offset.shape = {n, w.offset.shape[2]};
    w.pack();
    Array *given = activations == 3 ? &steps : &nothing, *offset = activations == 3 ? &zeros : &nothing;
    std::vector<Array*> arguments{
        &x, &w.codes, &w.scale, w.offsets(), given, offset, biased ? &bias : &nothing, &attributes, &y};
    const std::string what = "quant_linear of " + w.describe() + ", " + std::to_string(rows) + " rows, activations " +
                             std::to_string(activations);
    expect(call(quant_linear, arguments) == 0, what);
    const std::vector<double> taken = rounded_rows(x, activations, step, zero);
    std::vector<double> products(y.size);
    for (int64_t i = 0; i < y.size; ++i)
      for (int64_t j = 0; j < k; ++j) products[i] += taken[i / n * k + j] * values[i % n * k + j];
    auto product = [&](int64_t i) { return products[i]; };
    close(y, y.size, [&](int64_t i) { return product(i) + (biased ? bias.get(i % n) : 0); }, dtype, what);
    const int64_t row = any(0, rows - 1);
    Array one(dtype, {1, k}), alone(dtype, {1, n});
    std::memcpy(one.bytes.get(), x.bytes.get() + row * k * x.width(), k * x.width());
    std::vector<Array*> of_one = arguments;
    of_one.front() = &one, of_one.back() = &alone;
    expect(call(quant_linear, of_one) == 0, what + ", one row");
    expect(!std::memcmp(alone.bytes.get(), y.bytes.get() + row * n * y.width(), n * y.width()),
           what + ": a row's product is the same among others");
    if (activations != 3) {
      Array logits("float32", {rows, n});
      mindspore_cpu_quant_logits(index_of(dtype), activations, kind, w.group, x.bytes.get(), w.codes.bytes.get(),
                                 w.scale.bytes.get(), storage_of(w.scale.dtype),
                                 w.how.empty() ? nullptr : w.offset.bytes.get(), storage_of(w.offset.dtype),
                                 reinterpret_cast<float*>(logits.bytes.get()), rows, k, n);
      close(logits, logits.size, product, "float32", what + " as logits");
    }
    for (const double bad : {NAN, INFINITY}) {
      if (activations == 3) break;  // what is far away is clipped
      const double was = x.get((rows - 1) * k);
      x.set((rows - 1) * k, bad);
      expect(call(quant_linear, arguments) == 0, what + " of no number");
      bool kept = true;
      for (int64_t i = 0; i < y.size; ++i) kept &= std::isfinite(y.get(i)) == (i < (rows - 1) * n);
      expect(kept, what + ": what is no number stays, and in its row");
      x.set((rows - 1) * k, was);
    }
    Array none = ints({kLastKind + 1, w.group, 0}), odd = ints({kind, 24, 0}), other = ints({kind, w.group, 4}),
          more = ints({kind, 16 * (k / 16 + 2), activations}), halves("float16", w.codes.shape);
    auto refused = [&](int argument, Array* bad, const std::string& why) {
      std::vector<Array*> changed = arguments;
      changed[argument] = bad;
      expect(call(quant_linear, changed) != 0, "quant_linear takes " + why);
    };
    refused(7, &none, "an unknown kind"), refused(7, &odd, "groups of 24"), refused(7, &other, "unknown activations");
    if (w.groups > 1) refused(7, &more, "a group that is longer than the scales say");
    refused(1, &halves, "codes of half precision");
    if (activations != 3) refused(4, &steps, "a step that nobody wants");
  }
}

// Codes are bytes: a recording that copied two for each would read what is not theirs.
void test_quant_replay(const std::string& dtype) {
  Quantized w(1, 70, 64, 5, 0);
  w.group = 0, w.groups = 1, w.how = "", w.scale = Array("float32", {70, 1}), w.scale.fill();
  w.pack();
  w.codes.shape = {70, 64};
  Array x(dtype, {3, 64}), y(dtype, {3, 70}), attributes = ints({5, 0, 1});
  x.fill();
  const Range lasting[] = {{x.bytes.get(), x.size * x.width()}};
  void* recording = mindspore_cpu_begin_recording(lasting, 1);
  call(quant_linear, {&x, &w.codes, &w.scale, &nothing, &nothing, &nothing, &nothing, &attributes, &y});
  expect(mindspore_cpu_finish_recording(recording), "a recording of quant_linear is complete");
  std::memset(w.codes.bytes.get(), 0, w.codes.size);
  expect(mindspore_cpu_replay(recording) == 0, "a replay of quant_linear");
  expect(!std::memcmp(mindspore_cpu_replayed(recording, y.bytes.get()), y.bytes.get(), y.size * y.width()),
         "a replay of quant_linear is equal");
  mindspore_cpu_drop_recording(recording);
}

void test_quant_embedding(const std::string& dtype) {
  for (int turn = 0; turn < 4; ++turn) {
    const int kind = static_cast<int>(any(0, kLastKind));
    const int64_t tokens = any(1, 9), rows = any(1, 150), first = any(0, 30);
    Quantized w(1, rows, any(1, 100), kind, static_cast<int>(any(0, kInTwoParts)));
    Array ids("int32", {tokens}), like(dtype, {1}), width("int32", {w.k}), y(dtype, {tokens, w.k});
    Array attributes = ints({kind, w.group, first}), odd = ints({kind, 24, first}), wide("int32", {w.k + 2});
    for (int64_t i = 0; i < tokens; ++i) ids.set(i, any(0, 190));
    const std::vector<double> values = w.values();
    w.codes.shape = {rows, w.codes.shape[2]}, w.scale.shape = {rows, w.scale.shape[2]};
    w.offset.shape = {rows, w.offset.shape[2]};
    w.pack();
    std::vector<Array*> arguments{&ids, &w.codes, &w.scale, w.offsets(), &like, &width, &attributes, &y};
    expect(call(quant_embedding, arguments) == 0, "quant_embedding");
    auto wanted = [&](int64_t i) {
      const int64_t row = static_cast<int64_t>(ids.get(i / w.k)) - first;
      return row >= 0 && row < rows ? values[row * w.k + i % w.k] : 0;
    };
    close(y, y.size, wanted, dtype, "quant_embedding of " + w.describe());
    arguments[6] = &odd;
    expect(call(quant_embedding, arguments) != 0, "quant_embedding takes groups of 24");
    arguments[6] = &attributes, arguments[5] = &wide;
    expect(call(quant_embedding, arguments) != 0, "quant_embedding takes rows that are longer than their codes");
  }
}

void test_columns(const std::string& dtype) {
  const int64_t rows = any(1, 40), size = any(1, 90), other = any(1, 90), all = size + other;
  Array x(dtype, {rows, size}), more(dtype, {rows, other}), both(dtype, {rows, all}), taken(dtype, x.shape);
  Array order("int32", {size}), outside("int32", {size});
  x.fill(), more.fill();
  for (int64_t i = 0; i < size; ++i) order.set(i, size - 1 - i), outside.set(i, size);
  expect(call(concat_columns, {&x, &more, &both}) == 0, "concat_columns");
  auto beside = [&](int64_t i) {
    return i % all < size ? x.get(i / all * size + i % all) : more.get(i / all * other + i % all - size);
  };
  close(both, both.size, beside, dtype, "concat_columns");
  expect(call(take_columns, {&x, &order, &taken}) == 0, "take_columns");
  close(taken, x.size, [&](int64_t i) { return x.get(i / size * size + size - 1 - i % size); }, dtype, "take_columns");
  expect(call(take_columns, {&x, &outside, &taken}) != 0, "take_columns takes columns that there are not");
}

double gated_as(int64_t kind, double gate, double up, double alpha, double limit) {
  if (kind == 0) return gate / (1 + std::exp(-gate)) * up;
  if (kind == 1) return 0.5 * gate * (1 + std::erf(gate / std::sqrt(2.0))) * up;
  if (kind == 2) return 0.5 * gate * (1 + std::tanh(std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate))) * up;
  up = std::min(std::max(up, -limit), limit);
  if (kind == 5) return std::min(gate / (1 + std::exp(-gate)), limit) * up;
  gate = std::min(gate, limit);
  return gate / (1 + std::exp(-alpha * gate)) * (up + 1);
}

void test_quant_experts(const std::string& dtype) {
  const int64_t tokens = any(1, any(0, 3) ? 9 : 250), experts = any(1, 5), before = any(0, 3),
                all = before + experts + any(0, 3), top_k = any(1, all);
  const int gated[] = {0, 1, 2, 3, 5}, activation = gated[any(0, 4)];
  const int activations = any(0, 1) ? 0 : 1 + any(0, 1);
  const int kinds[] = {0, 5, 9, 1, 6, 2, 4, 8, 10, 3, 7}, kind = kinds[any(0, activations ? 8 : 10)],
            down_kind = kinds[any(0, activations ? 8 : 10)];
  const int64_t unit = std::max<int64_t>(2, std::max(unit_of_kind(kind), unit_of_kind(down_kind))),
                width = unit * any(1, 112 / unit), size = unit * any(1, 144 / unit);
  Quantized gate_up(experts * 2, size, width, kind, any(0, 2)), down(experts, width, size, down_kind, any(0, 2));
  for (Quantized* one : {&gate_up, &down})
    for (int64_t i = 0; i < one->scale.size; ++i)
      one->scale.set(i, uniform(-0.01, 0.01)), one->offset.set(i, one->how == "min" ? uniform(-0.1, 0.1) : any(0, 15));
  const std::vector<double> first = gate_up.values(), second = down.values();
  gate_up.pack(), down.pack();
  gate_up.codes.shape = {experts, 2, size, gate_up.codes.shape[2]};
  gate_up.scale.shape = gate_up.offset.shape = {experts, 2, size, gate_up.groups};
  const bool biased = any(0, 1);
  Array x(dtype, {tokens, width}), inner(dtype, {experts, 2, size}), outer(dtype, {experts, width}), y(dtype, x.shape);
  Array weights("float32", {tokens, top_k}), chosen("int32", {tokens, top_k}), numbers("float32", {2});
  const double alpha = 1.7, limit = 0.6;
  x.fill(), inner.fill(), outer.fill(), weights.fill(0, 1), numbers.set(0, alpha), numbers.set(1, limit);
  for (int64_t i = 0; i < chosen.size; ++i) chosen.set(i, (i + i / top_k) % all);
  Array attributes = ints({activation, before, all, kind, gate_up.group, down_kind, down.group, activations});
  ExpertAdapters adapters(dtype, tokens, experts, size, width);
  std::vector<Array*> arguments{&x,
                                &gate_up.codes,
                                &gate_up.scale,
                                gate_up.offsets(),
                                biased ? &inner : &nothing,
                                &down.codes,
                                &down.scale,
                                down.offsets(),
                                biased ? &outer : &nothing,
                                &weights,
                                &chosen,
                                &attributes,
                                &numbers,
                                &y};
  adapters.put(arguments, 11);
  const std::string what = "quant_experts of " + gate_up.describe() + ", " + down.describe();
  expect(call(quant_experts, arguments) == 0, what);
  const std::vector<double> rows = rounded_rows(x, activations, 0, 0);
  std::vector<double> wanted(y.size);
  for (int64_t i = 0; i < tokens * top_k; ++i) {
    const int64_t token = i / top_k, expert = static_cast<int64_t>(chosen.get(i)) - before;
    if (expert < 0 || expert >= experts) continue;
    Array middle(dtype, {1, size});
    for (int64_t j = 0; j < size; ++j) {
      double found[2];
      for (int64_t part = 0; part < 2; ++part) {
        const int64_t row = (expert * 2 + part) * size + j;
        found[part] = biased ? inner.get(row) : 0;
        for (int64_t c = 0; c < width; ++c) found[part] += first[row * width + c] * rows[token * width + c];
        found[part] += adapters.added(token, expert, part, j, [&](int64_t c) { return x.get(token * width + c); });
      }
      middle.set(j, gated_as(activation, found[0], found[1], alpha, limit));
    }
    const std::vector<double> taken = rounded_rows(middle, activations, 0, 0);
    for (int64_t c = 0; c < width; ++c) {
      double found = biased ? outer.get(expert * width + c) : 0;
      for (int64_t j = 0; j < size; ++j) found += second[(expert * width + c) * size + j] * taken[j];
      found += adapters.added(token, expert, 2, c, [&](int64_t j) { return middle.get(j); });
      wanted[token * width + c] += weights.get(i) * found;
    }
  }
  // What is rounded in the middle may be rounded to a neighbor.
  close(y, y.size, [&](int64_t i) { return wanted[i]; }, activations ? "bfloat16" : dtype, what + " " + dtype);
  chosen.set(chosen.size - 1, all);
  expect(call(quant_experts, arguments) != 0, "quant_experts takes an expert that there is not");
  chosen.set(chosen.size - 1, 0);
  Array given = ints({activation, before, all, kind, gate_up.group, down_kind, down.group, 3});
  arguments[18] = &given;
  expect(call(quant_experts, arguments) != 0, "quant_experts takes activations with a given step");
}

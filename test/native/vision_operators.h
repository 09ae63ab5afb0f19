// Tests of the operators of vision towers; a part of operators.cpp, whose helpers they use.
void test_activate(const std::string& dtype) {
  const int64_t rows = any(1, 30), size = any(1, 300), drawn = any(0, 4), kind = drawn < 4 ? drawn : 6;
  Array x(dtype, {rows, size}), y(dtype, {rows, size}), which = ints({kind}), other = ints({7});
  x.fill(-4, 4);
  auto wanted = [&](int64_t i) {
    const double v = x.get(i);
    if (kind == 0) return v / (1 + std::exp(-v));
    if (kind == 1) return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
    if (kind == 2) return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    if (kind == 6) return std::tanh(v);
    return v / (1 + std::exp(-1.702 * v));
  };
  expect(call(activate, {&x, &which, &y}) == 0, "activate");
  close(y, y.size, wanted, dtype, "activate " + std::to_string(kind));
  expect(call(activate, {&x, &other, &y}) != 0, "activate takes a kind that there is not");
}

void test_rows_by_index(const std::string& dtype) {
  const int64_t rows = any(1, 40), count = any(1, 50), size = any(1, 70);
  Array x(dtype, {count, size}), index("int32", {rows}), outside = ints(std::vector<int64_t>(rows, count));
  Array found(dtype, {rows, size}), others(dtype, {rows, size}), put(dtype, {rows, size}), mask("int32", {rows});
  x.fill(), others.fill();
  for (int64_t i = 0; i < rows; ++i) index.set(i, any(-1, count - 1)), mask.set(i, any(0, 1) * any(1, 9));
  auto row = [&](int64_t i) { return static_cast<int64_t>(index.get(i / size)); };
  expect(call(take_rows, {&index, &x, &found}) == 0, "take_rows");
  close(
      found, found.size, [&](int64_t i) { return row(i) < 0 ? 0 : x.get(row(i) * size + i % size); }, dtype,
      "take_rows");
  expect(call(take_rows, {&outside, &x, &found}) != 0, "take_rows takes rows that there are not");
  expect(call(put_rows, {&found, &others, &mask, &put}) == 0, "put_rows");
  close(put, put.size, [&](int64_t i) { return (mask.get(i / size) != 0 ? others : found).get(i); }, dtype, "put_rows");
}

// Value d of a head that begins at `first`, turned by a row of tables with `half` columns.
double turned_half(const Array& x, int64_t first, int64_t d, const Array& cos, const Array& sin, int64_t row,
                   int64_t half) {
  const int64_t at = row * half + d % half;
  return d < half ? x.get(first + d) * cos.get(at) - x.get(first + d + half) * sin.get(at)
                  : x.get(first + d) * cos.get(at) + x.get(first + d - half) * sin.get(at);
}

void test_segment_attention(const std::string& dtype) {
  const int64_t heads = any(1, 3), half = any(1, 20), size = 2 * half, segments = any(1, 4), rotates = any(0, 1);
  std::vector<int64_t> ends{0};
  for (int64_t i = 0; i < segments; ++i) ends.push_back(ends.back() + (any(0, 5) ? any(1, 40) : any(129, 300)));
  const int64_t rows = ends.back(), width = heads * size;
  Array qkv(dtype, {rows, 3 * width}), cos("float32", {rows, half}), sin("float32", {rows, half}),
      y(dtype, {rows, width});
  Array bounds = ints(ends), head_count = ints({heads}), scale = number(0.3);
  qkv.fill(), cos.fill(), sin.fill();
  Array* tables[] = {rotates ? &cos : &nothing, rotates ? &sin : &nothing};
  std::vector<Array*> arguments{&qkv, tables[0], tables[1], &bounds, &head_count, &scale, &y};
  expect(call(segment_attention, arguments) == 0, "segment_attention");
  auto value = [&](int64_t row, int64_t part, int64_t head, int64_t d) {
    const int64_t first = row * 3 * width + part * width + head * size;
    return rotates && part < 2 ? turned_half(qkv, first, d, cos, sin, row, half) : qkv.get(first + d);
  };
  // A few rows only: each is as long a sum as its segment.
  for (int turn = 0; turn < 3; ++turn) {
    const int64_t row = any(0, rows - 1), head = any(0, heads - 1);
    int64_t begin = 0, end = 0;
    for (int64_t i = 0; i < segments; ++i)
      if (row >= ends[i] && row < ends[i + 1]) begin = ends[i], end = ends[i + 1];
    std::vector<double> weights;
    double total = 0;
    for (int64_t key = begin; key < end; ++key) {
      double score = 0;
      for (int64_t d = 0; d < size; ++d) score += value(row, 0, head, d) * value(key, 1, head, d);
      weights.push_back(std::exp(0.3 * score)), total += weights.back();
    }
    Array found(dtype, {size});
    std::memcpy(found.bytes.get(), &y.bytes[(row * width + head * size) * y.width()], size * y.width());
    auto wanted = [&](int64_t d) {
      double sum = 0;
      for (int64_t key = begin; key < end; ++key) sum += weights[key - begin] / total * value(key, 2, head, d);
      return sum;
    };
    close(found, size, wanted, dtype, "segment_attention");
  }
  auto refused = [&](int argument, Array bad, const std::string& what) {
    std::vector<Array*> changed = arguments;
    changed[argument] = &bad;
    expect(call(segment_attention, changed) != 0, "segment_attention takes " + what);
  };
  refused(3, ints({0, rows + 1}), "segments that end behind its rows");
  refused(3, ints({0, rows + 1, rows}), "segments that end before they begin");
  refused(4, ints({heads + 3 * width}), "heads that its rows do not have");
}

void test_mrope(const std::string& dtype) {
  const int64_t tokens = any(1, 30), half = any(1, 20), size = 2 * half, kv = any(1, 3), heads = any(1, 5);
  const int64_t positions = any(4, 40), columns = (heads + 2 * kv) * size, normed = any(0, 1);
  Array qkv(dtype, {tokens, columns}), q_norm(dtype, {size}), k_norm(dtype, {size}), y(dtype, {tokens, columns});
  Array cos("float32", {positions, half}), sin("float32", {positions, half}), axes("int32", {half});
  Array kv_heads = ints({kv}), eps = number(1e-5), far = ints(std::vector<int64_t>(tokens, positions));
  std::vector<Array> places;
  for (int axis = 0; axis < 3; ++axis) places.emplace_back("int32", Shape{tokens});
  qkv.fill(), q_norm.fill(0.5, 1.5), k_norm.fill(0.5, 1.5), cos.fill(), sin.fill();
  for (int64_t i = 0; i < half; ++i) axes.set(i, any(0, 2));
  for (Array& place : places)
    for (int64_t i = 0; i < tokens; ++i) place.set(i, any(0, positions - 1));
  Array *t = &places[0], *h = &places[1], *w = &places[2];
  Array* norms[] = {normed ? &q_norm : &nothing, normed ? &k_norm : &nothing};
  const std::vector<Array*> arguments{&qkv, norms[0], norms[1], &cos, &sin, &axes, t, h, w, &kv_heads, &eps, &y};
  expect(call(mrope, arguments) == 0, "mrope");
  auto wanted = [&](int64_t i) {
    const int64_t token = i / columns, head = i % columns / size, d = i % size, first = i - d;
    if (head >= heads + kv) return qkv.get(i);
    double squares = 0;
    for (int64_t j = 0; j < size; ++j) squares += std::pow(qkv.get(first + j), 2);
    auto at = [&](int64_t j) {
      if (!normed) return qkv.get(first + j);
      return qkv.get(first + j) / std::sqrt(squares / size + 1e-5) * (head < heads ? q_norm : k_norm).get(j);
    };
    const Array& place = places[static_cast<int64_t>(axes.get(d % half))];
    const int64_t row = static_cast<int64_t>(place.get(token)) * half + d % half;
    return d < half ? at(d) * cos.get(row) - at(d + half) * sin.get(row)
                    : at(d) * cos.get(row) + at(d - half) * sin.get(row);
  };
  close(y, y.size, wanted, dtype, "mrope");
  for (int argument : {6, 7, 8}) {
    std::vector<Array*> changed = arguments;
    changed[argument] = &far;
    expect(call(mrope, changed) != 0, "mrope takes a position outside its tables");
  }
}

// Streams of a token and sparse activations, beside plain statements of them; part of operators.cpp.
#pragma once

void test_streams(const std::string& dtype) {
  const int64_t rows = any(1, 20), streams = any(1, 5), size = any(1, 60), columns = streams * size;
  Array x(dtype, {rows, columns}), y(dtype, {rows, size}), mixed(dtype, x.shape), factors(dtype, {size});
  Array square(dtype, {rows, streams * streams}), weights(dtype, {rows, streams}), one(dtype, y.shape);
  Array number_of = ints({streams}), more = ints({streams + 1}), first = ints({any(0, streams)}), offset = number(0.7);
  x.fill(), y.fill(), square.fill(), weights.fill(), factors.fill();
  expect(call(mix_streams, {&x, &square, &number_of, &mixed}) == 0, "mix_streams");
  auto predicted = [&](int64_t i) {
    const int64_t row = i / columns, stream = i % columns / size;
    double total = x.get(i);
    for (int64_t j = 0; j < streams; ++j)
      total += square.get((row * streams + stream) * streams + j) * x.get(row * columns + j * size + i % size);
    return total;
  };
  close(mixed, mixed.size, predicted, dtype, "mix_streams");
  expect(call(mix_streams, {&x, &square, &more, &mixed}) != 0, "mix_streams takes weights of fewer streams");
  for (Array* given : {&weights, &nothing}) {
    expect(call(add_to_streams, {&x, &y, given, &first, &offset, &mixed}) == 0, "add_to_streams");
    auto added = [&](int64_t i) {
      const int64_t row = i / columns, stream = i % columns / size;
      const double weight = given == &weights ? weights.get(row * streams + stream) : 0;
      return x.get(i) + (stream < first.get(0) ? 0 : weight + 0.7) * y.get(row * size + i % size);
    };
    close(mixed, mixed.size, added, dtype, "add_to_streams");
  }
  Array taken("int32", {size}), last = ints({streams - 1}), beyond = ints({streams}), eps = number(0.2);
  expect(call(take_stream, {&x, &taken, &last, &one}) == 0, "take_stream");
  auto of_last = [&](int64_t i) { return x.get(i / size * columns + columns - size + i % size); };
  close(one, one.size, of_last, dtype, "take_stream");
  expect(call(take_stream, {&x, &taken, &beyond, &one}) != 0, "take_stream takes one too far");
  expect(call(scale_columns, {&y, &factors, &one}) == 0, "scale_columns");
  close(one, one.size, [&](int64_t i) { return y.get(i) * factors.get(i % size); }, dtype, "scale_columns");
  Array like(dtype, y.shape);
  like.fill();
  expect(call(match_magnitude, {&y, &like, &eps, &one}) == 0, "match_magnitude");
  auto mean = [&](Array& of, int64_t row) {
    double total = 0;
    for (int64_t i = row * size; i < (row + 1) * size; ++i) total += std::pow(of.get(i), 2) / size;
    return total;
  };
  auto matched = [&](int64_t i) {
    return y.get(i) * std::sqrt(mean(like, i / size) / std::max(mean(y, i / size), 0.2));
  };
  close(one, one.size, matched, dtype, "match_magnitude");
}

void test_sparse_gate(const std::string& dtype) {
  const int64_t rows = any(1, 20), size = any(1, 60), count = size + any(0, 9);
  Array both(dtype, {rows, 2 * size}), moments("float32", {rows, 2}), out(dtype, {rows, size});
  Array counted = ints({count}), deviations = number(0.4), none = ints({0});
  both.fill();
  expect(call(gate_moments, {&both, &moments}) == 0, "gate_moments");
  auto sums = [&](int64_t i) {
    double total = 0;
    for (int64_t j = 0; j < size; ++j) total += std::pow(both.get(i / 2 * 2 * size + j), i % 2 + 1);
    return total;
  };
  close(moments, moments.size, sums, "float32", "gate_moments");
  expect(call(sparse_gelu_and_mul, {&both, &moments, &counted, &deviations, &out}) == 0, "sparse_gelu_and_mul");
  auto activated = [&](int64_t i) {
    const int64_t row = i / size;
    const double average = sums(2 * row) / count, squares = sums(2 * row + 1) / count;
    const double cutoff = average + 0.4 * std::sqrt(squares - average * average);
    const double x = std::max(both.get(row * 2 * size + i % size) - cutoff, 0.0);
    const double gelu = x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    return gelu * both.get(row * 2 * size + size + i % size);
  };
  close(out, out.size, activated, dtype, "sparse_gelu_and_mul");
  expect(call(sparse_gelu_and_mul, {&both, &moments, &none, &deviations, &out}) != 0, "sparse_gelu_and_mul of none");
}

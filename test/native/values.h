// What activations and gates compute, value by value; part of operators.cpp.
#pragma once

void test_activations(const std::string& dtype) {
  const int64_t rows = any(1, 40), size = any(1, 150);
  Array x(dtype, {rows, 2 * size}), y(dtype, {rows, size});
  x.fill(-9, 9);
  auto gate = [&](int64_t i) { return x.get(i / size * 2 * size + i % size); };
  auto up = [&](int64_t i) { return x.get(i / size * 2 * size + size + i % size); };
  expect(call(silu_and_mul, {&x, &y}) == 0, "silu_and_mul");
  close(y, y.size, [&](int64_t i) { return gate(i) / (1 + std::exp(-gate(i))) * up(i); }, dtype, "silu_and_mul");
  Array limit = number(1.3);
  expect(call(silu_and_mul_clamped, {&x, &limit, &y}) == 0, "silu_and_mul_clamped");
  auto clamped = [&](int64_t i) {
    return std::min(gate(i) / (1 + std::exp(-gate(i))), 1.3) * std::min(std::max(up(i), -1.3), 1.3);
  };
  close(y, y.size, clamped, dtype, "silu_and_mul_clamped");
  expect(call(gelu_and_mul, {&x, &y}) == 0, "gelu_and_mul");
  close(
      y, y.size, [&](int64_t i) { return 0.5 * gate(i) * (1 + std::erf(gate(i) / std::sqrt(2.0))) * up(i); }, dtype,
      "gelu_and_mul");
  expect(call(gelu_tanh_and_mul, {&x, &y}) == 0, "gelu_tanh_and_mul");
  auto tanh_gelu = [&](int64_t i) {
    const double g = gate(i);
    return 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * up(i);
  };
  close(y, y.size, tanh_gelu, dtype, "gelu_tanh_and_mul");
}

void test_values(const std::string& dtype) {
  const int64_t rows = any(1, 40), heads = any(1, 5), width = any(1, 50), size = heads * width, positions = any(1, 9);
  Array x(dtype, {rows, size}), y(dtype, x.shape), gate(dtype, {rows, heads}), place("int32", {rows});
  Array factors("float32", {positions}), p("float32", {1}), n("float32", {1}), constants = numbers({0.5, -1e-6});
  x.fill(-4, 4), gate.fill(-4, 4), factors.fill(), p.fill(), n.fill();
  for (int64_t i = 0; i < rows; ++i) place.set(i, any(0, positions - 1));
  auto above = [&](int64_t i) { return std::max(x.get(i), 0.0); };
  for (int64_t squared : {0, 1}) {
    Array kind = ints({4 + squared});
    expect(call(activate, {&x, &kind, &y}) == 0, "activate");
    close(y, y.size, [&](int64_t i) { return squared ? above(i) * above(i) : above(i); }, dtype, "relu");
  }
  expect(call(xielu, {&x, &p, &n, &constants, &y}) == 0, "xielu");
  auto softplus = [](double a) { return std::log1p(std::exp(a)); };
  auto learned = [&](int64_t i) {
    const double v = x.get(i), below = (0.5 + softplus(n.get(0))) * (std::expm1(std::min(v, -1e-6)) - v);
    return (v > 0 ? softplus(p.get(0)) * v * v : below) + 0.5 * v;
  };
  close(y, y.size, learned, dtype, "xielu");
  expect(call(gate_heads, {&x, &gate, &y}) == 0, "gate_heads");
  close(y, y.size, [&](int64_t i) { return x.get(i) / (1 + std::exp(-gate.get(i / width))); }, dtype, "gate_heads");
  const int64_t columns = any(0, size);
  Array count = ints({columns}), many = ints({size + 1}), far("int32", {rows});
  expect(call(scale_by_position, {&x, &factors, &place, &count, &y}) == 0, "scale_by_position");
  auto scaled = [&](int64_t i) {
    const double factor = i % size < columns ? factors.get(static_cast<int64_t>(place.get(i / size))) : 1;
    return x.get(i) * factor;
  };
  close(y, y.size, scaled, dtype, "scale_by_position");
  for (int64_t i = 0; i < rows; ++i) far.set(i, positions);
  expect(call(scale_by_position, {&x, &factors, &far, &count, &y}) != 0, "scale_by_position takes far positions");
  expect(call(scale_by_position, {&x, &factors, &place, &many, &y}) != 0, "scale_by_position takes many columns");
}

void test_turned(const std::string& dtype) {
  const int64_t rows = any(1, 20), heads = any(1, 4), half = any(1, 20), size = 2 * half + any(0, 20);
  const int64_t positions = any(1, 30);
  Array q(dtype, {rows, heads * size}), norm(dtype, {size}), out(dtype, q.shape), place("int32", {rows});
  Array cos("float32", {positions, half}), sin("float32", {positions, half}), eps = number(1e-5);
  Array far = ints(std::vector<int64_t>(rows, positions)), factor("float32", {1});
  q.fill(), norm.fill(0.5, 1.5), cos.fill(), sin.fill(), factor.fill();
  for (int64_t i = 0; i < rows; ++i) place.set(i, any(0, positions - 1));
  expect(call(turn_queries, {&q, &norm, &cos, &sin, &place, &eps, &out}) == 0, "turn_queries");
  auto normalized = [&](int64_t first, int64_t d) {
    double squares = 0;
    for (int64_t j = 0; j < size; ++j) squares += std::pow(q.get(first + j), 2);
    return q.get(first + d) / std::sqrt(squares / size + 1e-5) * norm.get(d);
  };
  auto wanted = [&](int64_t i) {
    const int64_t d = i % size, first = i - d, row = static_cast<int64_t>(place.get(i / (heads * size))) * half;
    if (d >= 2 * half) return normalized(first, d);
    const double other = normalized(first, (d + half) % (2 * half)), turn = sin.get(row + d % half);
    return normalized(first, d) * cos.get(row + d % half) + (d >= half ? other : -other) * turn;
  };
  close(out, out.size, wanted, dtype, "turn_queries");
  expect(call(turn_queries, {&q, &norm, &cos, &sin, &far, &eps, &out}) != 0, "turn_queries takes a position outside");
  expect(call(scale_by, {&q, &factor, &out}) == 0, "scale_by");
  close(out, out.size, [&](int64_t i) { return q.get(i) * factor.get(0); }, dtype, "scale_by");
}

// What adapters add, of any sizes, and slots and ranks that there are not; part of operators.cpp.
#pragma once

void test_lora(const std::string& dtype) {
  const int64_t rows = any(1, any(0, 3) ? 9 : 150), k = any(1, 90), loras = any(1, 4), rank = any(1, 20);
  std::vector<int64_t> parts(any(1, 3)), ranks(loras), slots(rows);
  int64_t size = 0;
  for (int64_t& part : parts) size += part = any(0, 4) ? any(1, 90) : any(500, 700);
  for (int64_t& one : ranks) one = any(0, rank);
  for (int64_t& slot : slots) slot = any(-1, loras - 1);
  const int64_t count = parts.size();
  Array y(dtype, {rows, size}), x(dtype, {rows, k}), a(dtype, {count, loras, rank, k}), b(dtype, {loras * rank * size});
  Array of_rows = ints(slots), of_slots = ints(ranks), of_parts = ints(parts), out(dtype, {rows, size});
  y.fill(), x.fill(), a.fill(), b.fill();
  std::vector<Array*> arguments{&y, &x, &of_rows, &a, &b, &of_slots, &of_parts, &out};
  expect(call(add_lora, arguments) == 0, "add_lora");
  std::vector<double> hidden(rows * count * rank);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t part = 0; slots[row] >= 0 && part < count; ++part)
      for (int64_t r = 0; r < ranks[slots[row]]; ++r)
        for (int64_t i = 0; i < k; ++i)
          hidden[(row * count + part) * rank + r] +=
              x.get(row * k + i) * a.get(((part * loras + slots[row]) * rank + r) * k + i);
  auto wanted = [&](int64_t i) {
    const int64_t row = i / size;
    int64_t column = i % size, part = 0, begin = 0;
    while (column >= parts[part]) column -= parts[part], begin += loras * rank * parts[part++];
    double total = y.get(i);
    for (int64_t r = 0; slots[row] >= 0 && r < ranks[slots[row]]; ++r)
      total += hidden[(row * count + part) * rank + r] * b.get(begin + (slots[row] * rank + r) * parts[part] + column);
    return total;
  };
  close(out, out.size, wanted, dtype, "add_lora");
  const int64_t row = any(0, rows - 1);
  Array one_y(dtype, {1, size}), one_x(dtype, {1, k}), slot = ints({slots[row]}), alone(dtype, {1, size});
  std::memcpy(one_y.bytes.get(), y.bytes.get() + row * size * y.width(), size * y.width());
  std::memcpy(one_x.bytes.get(), x.bytes.get() + row * k * x.width(), k * x.width());
  std::vector<Array*> of_one{&one_y, &one_x, &slot, &a, &b, &of_slots, &of_parts, &alone};
  expect(call(add_lora, of_one) == 0, "add_lora of one row");
  expect(!std::memcmp(alone.bytes.get(), out.bytes.get() + row * size * out.width(), size * out.width()),
         "what an adapter adds to a row is the same among others");
  of_slots.set(loras - 1, rank + 1);
  expect(call(add_lora, arguments) != 0, "add_lora takes a rank for which there is no room");
  of_slots.set(loras - 1, ranks.back()), of_rows.set(rows - 1, loras);
  expect(call(add_lora, arguments) != 0, "add_lora takes a slot that there is not");
  of_rows.set(rows - 1, -2);
  expect(call(add_lora, arguments) != 0, "add_lora takes a slot below -1");
  of_rows.set(rows - 1, -1), of_parts.set(0, parts[0] + 1);
  expect(call(add_lora, arguments) != 0, "add_lora takes parts of more columns than there are");
}

// What adapters have for experts, of S slots: of gate and up, and of down.
struct ExpertAdapters {
  int64_t experts, slots = any(1, 3), rank = any(1, 9), size, width;
  bool given = any(0, 1);
  Array of_rows, gate_up_a, gate_up_b, gate_up_ranks, down_a, down_b, down_ranks;

  ExpertAdapters(const std::string& dtype, int64_t tokens, int64_t experts, int64_t size, int64_t width)
      : experts(experts),
        size(size),
        width(width),
        of_rows("int32", {tokens}),
        gate_up_a(dtype, {2, experts * slots, rank, width}),
        gate_up_b(dtype, {experts * slots * rank * 2 * size}),
        gate_up_ranks("int32", {experts * slots}),
        down_a(dtype, {1, experts * slots, rank, size}),
        down_b(dtype, {experts * slots * rank * width}),
        down_ranks("int32", {experts * slots}) {
    for (int64_t i = 0; i < tokens; ++i) of_rows.set(i, any(-1, slots - 1));
    for (int64_t i = 0; i < experts * slots; ++i) gate_up_ranks.set(i, any(0, rank)), down_ranks.set(i, any(0, rank));
    for (Array* one : {&gate_up_a, &gate_up_b, &down_a, &down_b}) one->fill(-0.3, 0.3);
  }
  void put(std::vector<Array*>& arguments, int64_t place) {
    std::vector<Array*> own{&of_rows, &gate_up_a, &gate_up_b, &gate_up_ranks, &down_a, &down_b, &down_ranks};
    if (!given) std::fill(own.begin(), own.end(), &nothing);
    arguments.insert(arguments.begin() + place, own.begin(), own.end());
  }
  // What is added to row `row` of gate (0), up (1) or down (2) of an expert, of x(i).
  double added(int64_t token, int64_t expert, int part, int64_t row, const std::function<double(int64_t)>& x) const {
    if (!given || of_rows.get(token) < 0) return 0;
    const bool down = part == 2;
    const int64_t place = expert * slots + static_cast<int64_t>(of_rows.get(token)), places = experts * slots;
    const int64_t k = down ? size : width, n = down ? width : size, before = part == 1 ? places : 0;
    const Array &a = down ? down_a : gate_up_a, &b = down ? down_b : gate_up_b;
    double found = 0;
    for (int64_t r = 0; r < (down ? down_ranks : gate_up_ranks).get(place); ++r) {
      double hidden = 0;
      for (int64_t i = 0; i < k; ++i) hidden += a.get(((before + place) * rank + r) * k + i) * x(i);
      found += hidden * b.get(((before + place) * rank + r) * n + row);
    }
    return found;
  }
};

// Rows that are sent to experts and come back, in a group of one rank; part of operators.cpp. Several:
// test/distributed.
#pragma once

int group_of_one() {
  static std::vector<char> memory(mindspore_cpu_group_size(1) + 64);
  void* start = memory.data();
  size_t room = memory.size();
  std::align(64, room - 64, start, room);
  const int process = 1;
  static const int number = mindspore_cpu_join(start, 0, 1, &process, 1.0, 0, 1, nullptr);
  return number;
}

void test_dispatch(const std::string& dtype) {
  const int64_t tokens = any(0, 40), room = tokens + any(1, 5), width = any(0, 4) ? any(1, 90) : any(30000, 60000);
  const int64_t top_k = any(1, 9), held = any(1, 20), all = room;
  Array x(dtype, {room, width}), weights("float32", {room, top_k}), experts("int32", {room, top_k});
  Array integers = ints({group_of_one(), held}), words("int32", {1, 1}), rows(dtype, {all, width});
  Array taken("float32", {all, top_k}), places("int32", {all, top_k}), routes("int32", {all, 1}), counted("int32", {2});
  x.fill(), weights.fill();
  for (int64_t i = 0; i < experts.size; ++i) experts.set(i, i < tokens * top_k ? any(0, held - 1) : 1 << 20);
  rows_count(tokens, 1);
  std::vector<Array*> sent{&x, &weights, &experts, &words, &integers, &rows, &taken, &places, &routes, &counted};
  expect(call(dispatch_experts, sent) == 0, "dispatch_experts");
  expect(counted.get(0) == tokens, "how many rows arrive is told");
  const auto same = [](const Array& a, const Array& b, int64_t rows) {
    return !std::memcmp(a.bytes.get(), b.bytes.get(), rows * a.shape[1] * a.width());
  };
  expect(same(x, rows, tokens) && same(weights, taken, tokens) && same(experts, places, tokens),
         "what is sent arrives");
  Array found(dtype, {room, width}), which = ints({group_of_one()}), one("int32", {1});
  expect(call(combine_experts, {&rows, &routes, &one, &which, &found}) == 0, "combine_experts");
  expect(same(x, found, tokens), "what arrived comes back");
  if (tokens) {
    experts.set(0, held);
    expect(call(dispatch_experts, sent) != 0, "dispatch_experts takes a place that no rank has");
  }
  all_rows_count();
}

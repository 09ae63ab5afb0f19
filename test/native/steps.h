// Steps that use a part of what tensors have room for, and runs that are replayed; part of operators.cpp.
#pragma once

void test_rows_of_a_step(const std::string& dtype) {
  Array x(dtype, {8, 32}), weight(dtype, {32}), epsilon = numbers({1e-5, 0}), y(dtype, {8, 32});
  x.fill(), weight.fill();
  rows_count(3, 1);
  expect(call(rms_norm, {&x, &weight, &epsilon, &y}) == 0, "rms_norm of a step");
  for (int64_t i = 3 * 32; i < y.size; ++i) expect(y.get(i) == 0, "rms_norm writes rows after the step's");
  rows_count(9, 1);
  expect(call(rms_norm, {&x, &weight, &epsilon, &y}) != 0, "rms_norm takes a step of more rows than there are");
  rows_count(0, 0);
  expect(call(rms_norm, {&x, &weight, &epsilon, &y}) == 0, "rms_norm of an empty step");
  all_rows_count();
}

void test_replay(const std::string& dtype) {
  Array x(dtype, {5, 64}), norm(dtype, {64}), epsilon = numbers({1e-5, 0}), y(dtype, {5, 64}), z(dtype, {5, 32});
  x.fill(), norm.fill();
  const Range lasting[] = {{x.bytes.get(), x.size * x.width()}, {norm.bytes.get(), norm.size * norm.width()}};
  void* recording = mindspore_cpu_begin_recording(lasting, 2);
  call(rms_norm, {&x, &norm, &epsilon, &y});
  call(silu_and_mul, {&y, &z});
  expect(mindspore_cpu_finish_recording(recording), "a recording is complete");
  x.fill();
  epsilon.set(0, 1e9);  // a constant of the graph, which a replay has a copy of
  const Array untouched(dtype, {5, 32});
  std::memset(z.bytes.get(), 0, z.size * z.width());
  expect(mindspore_cpu_replay(recording) == 0, "a replay");
  expect(!std::memcmp(z.bytes.get(), untouched.bytes.get(), z.size * z.width()), "a replay has results of its own");
  Array again = numbers({1e-5, 0});
  call(rms_norm, {&x, &norm, &again, &y});
  call(silu_and_mul, {&y, &z});
  expect(!std::memcmp(mindspore_cpu_replayed(recording, z.bytes.get()), z.bytes.get(), z.size * z.width()),
         "a replay is equal");
  mindspore_cpu_drop_recording(recording);
}

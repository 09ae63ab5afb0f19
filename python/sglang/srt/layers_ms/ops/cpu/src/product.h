// A library's matrix product for many rows, which may take the place of the one in linear.h.
#pragma once
#include <cstdint>

// y[rows, n] = x[rows, k] * the first whole blocks of 64 columns of a packed bfloat16 weight, + bias (may be null).
struct LargeProduct {
  const void *x, *weight, *bias;
  void* y;  // bfloat16, or float32 where wide
  bool wide;
  int64_t rows, k, n;  // n: columns of y in all
};

struct LargeProducts {
  // Computes the first columns of all rows, which are least_rows or more -> how many columns.
  int64_t (*product)(const LargeProduct&);
  int64_t least_rows;
};

// What such a library needs of us: our threads.
struct Threads {
  int (*count)();
  void (*run)(int64_t tasks, void (*body)(void*, int64_t), void* context);
  bool (*inside)();  // whether this thread works on a task
};

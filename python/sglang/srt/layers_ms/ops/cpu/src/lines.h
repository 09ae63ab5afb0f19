// Scratch memory for tiles, and for registers that fill a cache line.
#pragma once
#include "scratch.h"

namespace KERNEL_ISA {

// The least multiple that is not less.
inline int64_t rounded_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// As scratch, from the start of a cache line on: tiles, and registers that fill one, read no two lines for one then.
template <Purpose purpose, typename T>
inline T* lines(int64_t size) {
  struct alignas(64) Line {
    char bytes[64];
  };
  return reinterpret_cast<T*>(scratch<purpose, Line>(rounded_up(size * sizeof(T), sizeof(Line)) / sizeof(Line)));
}

}  // namespace KERNEL_ISA

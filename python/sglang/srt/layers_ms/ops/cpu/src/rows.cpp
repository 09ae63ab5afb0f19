// Rows of memory that are copied to other rows, such as pages of keys and values to a pool of the host.
#include <algorithm>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "parallel.h"

namespace {

constexpr int64_t kTask = 1 << 18;    // bytes: more than it takes to hand out a task
constexpr int64_t kCached = 1 << 20;  // bytes of a call that caches may keep until somebody reads them

struct RowCopy {  // as ops.RowCopy
  char* target;
  int64_t target_stride;
  const char* source;
  int64_t source_stride, size;
};

// Past the caches: memory is not read before it is written, which is a third of what a copy moves.
void stream(char* to, const char* from, int64_t size) {
#if defined(__x86_64__)
  const int64_t head = std::min<int64_t>(size, -reinterpret_cast<intptr_t>(to) & 63);
  std::memcpy(to, from, head);
  int64_t i = head;
  for (; i + 64 <= size; i += 64)
    for (int64_t j = i; j < i + 64; j += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + j), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + j)));
  std::memcpy(to + i, from + i, size - i);
  _mm_sfence();
#else
  std::memcpy(to, from, size);
#endif
}

}  // namespace

// Copies the same rows of several tensors: row from_rows[i] of each source becomes row to_rows[i] of its target.
extern "C" __attribute__((visibility("default"))) void mindspore_cpu_copy_rows(const RowCopy* copies, int64_t tensors,
                                                                               const int64_t* to_rows,
                                                                               const int64_t* from_rows,
                                                                               int64_t count) {
  if (!count) return;
  int64_t bytes = 0, largest = 1;
  for (int64_t i = 0; i < tensors; ++i) {
    bytes += copies[i].size * count;
    largest = std::max(largest, copies[i].size);
  }
  const int64_t rows = std::max<int64_t>(1, kTask / largest), tasks = (count + rows - 1) / rows;
  pool::each(tensors * tasks, [&](int64_t task) {
    const RowCopy& copy = copies[task / tasks];
    const int64_t begin = task % tasks * rows, end = std::min(count, begin + rows);
    for (int64_t i = begin; i < end; ++i) {
      char* to = copy.target + to_rows[i] * copy.target_stride;
      const char* from = copy.source + from_rows[i] * copy.source_stride;
      if (bytes > kCached)
        stream(to, from, copy.size);
      else
        std::memcpy(to, from, copy.size);
    }
  });
}

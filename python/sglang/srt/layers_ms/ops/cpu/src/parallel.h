// One thread pool for all operators: the calling thread works too, and idle workers sleep.
#pragma once
#include <cstdint>

namespace pool {

// Threads that work on each operator, the caller included, and unless null where each one but the caller stays:
// processors[1] and so on. Takes effect before the first call of `run` only.
void configure(int threads, const int* processors);
int threads();
bool inside();  // whether this thread works on a task

// Calls body(context, task) for every task in [0, tasks), in any order, on all threads; returns when all are done.
// Inside a task, on its thread alone.
void run(int64_t tasks, void (*body)(void*, int64_t), void* context);

template <typename F>
void each(int64_t tasks, F&& f) {
  run(tasks, [](void* context, int64_t task) { (*static_cast<F*>(context))(task); }, &f);
}

}  // namespace pool

// When each operator ran, kept while a trace is wanted.
#pragma once
#include <cstdint>

namespace trace {

struct Event {
  const char* op;
  int64_t start, duration;  // nanoseconds; start on the steady clock, which is Python's perf_counter too
};

void record(bool on);
bool recording();
void add(const Event&);
int64_t now();
// Moves the oldest events into `events` -> how many; at most `most`.
int64_t take(Event* events, int64_t most);

class Timer {  // adds an event for its life
 public:
  explicit Timer(const char* op) : op_(op), start_(recording() ? now() : 0) {}
  ~Timer() {
    if (start_) add({op_, start_, now() - start_});
  }

 private:
  const char* op_;
  int64_t start_;
};

}  // namespace trace

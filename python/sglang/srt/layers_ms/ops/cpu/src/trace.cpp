#include "trace.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <vector>

namespace trace {
namespace {

constexpr size_t kMost = 1 << 20;  // events that nobody takes are dropped after so many
std::atomic<bool> on{false};
std::mutex mutex;
std::vector<Event> kept;

}  // namespace

void record(bool wanted) { on = wanted; }
bool recording() { return on.load(std::memory_order_relaxed); }

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void add(const Event& event) {
  std::lock_guard<std::mutex> lock(mutex);
  if (kept.size() < kMost) kept.push_back(event);
}

int64_t take(Event* events, int64_t most) {
  std::lock_guard<std::mutex> lock(mutex);
  const size_t count = std::min(kept.size(), static_cast<size_t>(most));
  std::copy(kept.begin(), kept.begin() + count, events);
  kept.erase(kept.begin(), kept.begin() + count);
  return static_cast<int64_t>(count);
}

}  // namespace trace

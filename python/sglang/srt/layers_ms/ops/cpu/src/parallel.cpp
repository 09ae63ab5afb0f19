#include "parallel.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace pool {
namespace {

constexpr uint32_t kOpen = 1u << 31;
constexpr int kSpins = 20000;  // tens of microseconds: longer than the gaps inside a step, shorter than those between

thread_local bool in_task = false;

struct Job {
  void (*body)(void*, int64_t) = nullptr;
  void* context = nullptr;
  int64_t tasks = 0;
};

class Pool {
 public:
  Pool(int threads, const std::vector<int>& processors) {
    for (int i = 1; i < threads; ++i) {
      workers_.emplace_back([this] { work(); });
      if (!processors.empty()) pin(workers_.back(), processors[i]);
    }
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  void run(const Job& job) {
    std::lock_guard<std::mutex> one_job_at_a_time(jobs_);
    job_ = job;
    next_.store(0, std::memory_order_relaxed);
    gate_.store(kOpen);
    generation_.fetch_add(1);
    if (sleepers_.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
    drain();
    // Only those that came in are waited for: a worker that the system has not run yet costs nothing.
    gate_.fetch_and(~kOpen);
    while (gate_.load() != 0) pause();
  }

 private:
  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  static void pin(std::thread& thread, int processor) {
    cpu_set_t where;
    CPU_ZERO(&where);
    CPU_SET(processor, &where);
    pthread_setaffinity_np(thread.native_handle(), sizeof(where), &where);  // a hint: without it the system decides
  }

  void drain() {
    in_task = true;
    for (int64_t task; (task = next_.fetch_add(1)) < job_.tasks;) job_.body(job_.context, task);
    in_task = false;
  }

  bool enter() {
    for (uint32_t gate = gate_.load(); gate & kOpen;)
      if (gate_.compare_exchange_weak(gate, gate + 1)) return true;
    return false;
  }

  uint64_t await(uint64_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      if (generation_.load() != seen) return generation_.load();
      pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return generation_.load() != seen; });
    sleepers_.fetch_sub(1);
    return generation_.load();
  }

  void work() {
    for (uint64_t seen = 0;;) {
      seen = await(seen);
      if (stop_) return;
      if (!enter()) continue;
      drain();
      gate_.fetch_sub(1);
    }
  }

  std::mutex jobs_, mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<uint32_t> gate_{0};  // kOpen while a job takes workers, plus how many are inside
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  Job job_;
  std::vector<std::thread> workers_;
};

int configured = 1;
std::vector<int> pinned;

}  // namespace

void configure(int threads, const int* processors) {
  configured = threads < 1 ? 1 : threads;
  pinned = processors ? std::vector<int>(processors, processors + configured) : std::vector<int>();
}

int threads() { return configured; }

bool inside() { return in_task; }

void run(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  if (tasks <= 1 || configured == 1 || in_task) {
    for (int64_t task = 0; task < tasks; ++task) body(context, task);
    return;
  }
  static Pool instance(configured, pinned);
  instance.run(Job{body, context, tasks});
}

}  // namespace pool

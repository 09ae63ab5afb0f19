#include "group.h"

#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

#include "parallel.h"

namespace group {
namespace {

constexpr int64_t kLine = 128;             // bytes that no two ranks write to
constexpr int64_t kPart = int64_t{1} << 20;  // bytes of a rank's values that are shared at a time
constexpr int64_t kPiece = 1 << 15;        // bytes that are worth a thread
constexpr int kSpins = 10000, kPatient = 1000;  // reads of a counter before others may run, and between looks at the clock

struct alignas(kLine) Counter {
  std::atomic<uint64_t> parts;
};

struct Group {
  Counter* counters;  // [ranks] how many parts each rank has shared
  char* places;       // [ranks, 2, kPart]: a rank writes a part while others may still read the one before
  int rank, ranks;
  std::vector<int> processes;
  double patience;
  Host host;
  uint64_t shared = 0;
  char* place(int of, uint64_t part) const { return places + (of * 2 + static_cast<int64_t>(part % 2)) * kPart; }
};

std::vector<Group> groups;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool ended(int process) { return kill(process, 0) && errno == ESRCH; }

// Until this rank has shared that many parts -> whether it has.
bool await(const Group& group, int rank, uint64_t parts) {
  const std::atomic<uint64_t>& counter = group.counters[rank].parts;
  double began = 0;
  for (int64_t spins = 0; counter.load(std::memory_order_acquire) < parts; ++spins) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
    if (spins < kSpins) continue;
    sched_yield();
    if (spins % kPatient) continue;
    if (began == 0) began = now();
    const bool gone = ended(group.processes[rank]);
    if (!gone && now() - began < group.patience) continue;
    const bool here = rank >= group.host.first && rank < group.host.first + group.host.ranks;
    std::fprintf(stderr, "mindspore cpu operator all_reduce: rank %d (%s %d) %s\n", rank,
                 here ? "process" : "of another host, which we reach through process", group.processes[rank],
                 gone ? "has ended" : "has not come in time");
    return false;
  }
  return true;
}

// On the first rank of a host: what all ranks of other hosts have shared of a part, at the places of these -> whether it
// is there. The others wait for them as for ranks of this host.
bool fetch(const Group& group, uint64_t part, int64_t bytes) {
  const Host& host = group.host;
  if (!host.exchange || group.rank != host.first) return true;
  for (int rank = host.first; rank < host.first + host.ranks; ++rank)
    if (!await(group, rank, part + 1)) return false;
  if (host.exchange(group.place(0, part), 2 * kPart, bytes)) return false;  // which has told why
  for (int rank = 0; rank < group.ranks; ++rank)
    if (rank < host.first || rank >= host.first + host.ranks)
      group.counters[rank].parts.store(part + 1, std::memory_order_release);
  return true;
}

// f(first, bytes) over pieces of [0, bytes).
template <typename F>
void over_pieces(int64_t bytes, F&& f) {
  pool::each((bytes + kPiece - 1) / kPiece, [&](int64_t piece) {
    f(piece * kPiece, std::min(kPiece, bytes - piece * kPiece));
  });
}

}  // namespace

int64_t size(int ranks) { return ranks * (kLine + 2 * kPart); }

int join(void* memory, int rank, int ranks, const int* processes, double patience, Host host) {
  char* start = static_cast<char*>(memory);
  groups.push_back({reinterpret_cast<Counter*>(start), start + ranks * kLine, rank, ranks,
                    std::vector<int>(processes, processes + ranks), patience, host});
  return count() - 1;
}

int count() { return static_cast<int>(groups.size()); }

int all_reduce(int number, const Kernels& kernels, Dtype dtype, const void* x, void* y, int64_t count) {
  Group& group = groups[number];
  const int64_t width = dtype == Dtype::f32 ? 4 : 2, all = count * width;
  for (int64_t done = 0; done < all; done += kPart) {
    const int64_t bytes = std::min(kPart, all - done);
    const uint64_t part = group.shared++;
    const char* from = static_cast<const char*>(x) + done;
    char *mine = group.place(group.rank, part), *to = static_cast<char*>(y) + done;
    over_pieces(bytes, [&](int64_t first, int64_t size) { std::memcpy(mine + first, from + first, size); });
    group.counters[group.rank].parts.store(part + 1, std::memory_order_release);
    if (!fetch(group, part, bytes)) return 1;
    for (int rank = 0; rank < group.ranks; ++rank)
      if (!await(group, rank, part + 1)) return 1;
    over_pieces(bytes, [&](int64_t first, int64_t size) {
      std::vector<const void*> parts(group.ranks);
      for (int rank = 0; rank < group.ranks; ++rank) parts[rank] = group.place(rank, part) + first;
      kernels.sum(dtype, parts.data(), group.ranks, to + first, size / width);
    });
  }
  return 0;
}

}  // namespace group

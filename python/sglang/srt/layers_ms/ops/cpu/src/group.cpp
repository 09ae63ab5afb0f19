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

constexpr int64_t kLine = 128;       // bytes that no two ranks write to
constexpr int64_t kPiece = 1 << 15;  // bytes that are worth a thread
constexpr int kSpins = 10000,
              kPatient = 1000;  // reads of a counter before others may run, and between looks at the clock

struct alignas(kLine) Counter {
  std::atomic<uint64_t> parts;
};

struct Mail {
  Counter sent, taken;  // how many parts the rank has sent, and how many of them were taken
  Counter to;           // the rank that the last one is for
};

struct Group {
  Counter* counters;  // [ranks] how many parts each rank has shared
  Mail* mails;        // [ranks]
  char* places;       // [ranks, 2, kPart]: a rank writes a part while others may still read the one before
  char* letters;      // [ranks, kPart]: what each rank sends to one other
  int rank, ranks;
  std::vector<int> processes;
  double patience;
  Host host;
  uint64_t shared = 0;
  char* place(int of, uint64_t part) const { return places + (of * 2 + static_cast<int64_t>(part % 2)) * kPart; }
};

std::vector<Group> groups;

int64_t width_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

bool ended(int process) { return kill(process, 0) && errno == ESRCH; }

uint64_t value(const Counter& counter) { return counter.parts.load(std::memory_order_acquire); }

void set(Counter& counter, uint64_t value) { counter.parts.store(value, std::memory_order_release); }

bool on_host(const Group& group, int rank) {
  return rank >= group.host.first && rank < group.host.first + group.host.ranks;
}

// Until `done` says so, which another rank brings about -> whether it has.
template <typename F>
bool await(const Group& group, int rank, F&& done) {
  double began = 0;
  for (int64_t spins = 0; !done(); ++spins) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
    if (spins < kSpins) continue;
    sched_yield();
    if (spins % kPatient) continue;
    if (began == 0) began = now();
    const bool gone = ended(group.processes[rank]);
    if (!gone && now() - began < group.patience) continue;
    std::fprintf(stderr, "mindspore cpu collective: rank %d (%s %d) ", rank,
                 on_host(group, rank) ? "process" : "of another host, which we reach through process",
                 group.processes[rank]);
    std::fprintf(stderr, gone ? "has ended\n" : "has not come within %g s (--dist-timeout)\n", group.patience);
    return false;
  }
  return true;
}

// On the first rank of a host: what all ranks of other hosts have shared of a part, at the places of these -> whether
// it is there. The others wait for them as for ranks of this host.
bool fetch(const Group& group, uint64_t part, int64_t bytes) {
  const Host& host = group.host;
  if (!host.exchange || group.rank != host.first) return true;
  for (int rank = host.first; rank < host.first + host.ranks; ++rank)
    if (!await(group, rank, [&] { return value(group.counters[rank]) > part; })) return false;
  if (host.exchange(group.place(0, part), 2 * kPart, bytes)) return false;  // which has told why
  for (int rank = 0; rank < group.ranks; ++rank)
    if (!on_host(group, rank)) set(group.counters[rank], part + 1);
  return true;
}

// f(first, bytes) over pieces of [0, bytes).
template <typename F>
void over_pieces(int64_t bytes, F&& f) {
  pool::each((bytes + kPiece - 1) / kPiece,
             [&](int64_t piece) { f(piece * kPiece, std::min(kPiece, bytes - piece * kPiece)); });
}

// All ranks together, for `longest` bytes of the rank that shares the most: write(place, done, bytes) shares this
// rank's bytes from `done` on, at most so many; then read(part, done, bytes) finds those of all ranks at
// group.place(rank, part). each: how many bytes are shared at a time.
template <typename Write, typename Read>
int together(Group& group, int64_t longest, Write&& write, Read&& read, int64_t each = kPart) {
  for (int64_t done = 0; done < longest; done += each) {
    const int64_t bytes = std::min(each, longest - done);
    const uint64_t part = group.shared++;
    write(group.place(group.rank, part), done, bytes);
    set(group.counters[group.rank], part + 1);
    if (!fetch(group, part, bytes)) return 1;
    for (int rank = 0; rank < group.ranks; ++rank)
      if (!await(group, rank, [&] { return value(group.counters[rank]) > part; })) return 1;
    read(part, done, bytes);
  }
  return 0;
}

// How many of the bytes [done, done + bytes) are among the first `all`.
int64_t left(int64_t all, int64_t done, int64_t bytes) { return std::max<int64_t>(0, std::min(bytes, all - done)); }

void copy(char* to, const char* from, int64_t bytes) {
  over_pieces(bytes, [&](int64_t first, int64_t size) { std::memcpy(to + first, from + first, size); });
}

// to = the sum of the bytes [first, first + bytes) of every rank's place, in the order of the ranks.
void fuse_all_reduce(const Group& group, const Kernels& kernels, Dtype dtype, uint64_t part, int64_t first,
                     int64_t bytes, char* to) {
  over_pieces(bytes, [&](int64_t piece, int64_t size) {
    std::vector<const void*> parts(group.ranks);
    for (int rank = 0; rank < group.ranks; ++rank) parts[rank] = group.place(rank, part) + first + piece;
    kernels.sum(dtype, parts.data(), group.ranks, to + piece, size / width_of(dtype));
  });
}

// f(row) for rows [0, count) of so many bytes.
template <typename F>
void over_rows(int64_t count, int64_t bytes, F&& f) {
  const int64_t rows = std::max<int64_t>(1, kPiece / bytes);
  pool::each((count + rows - 1) / rows, [&](int64_t piece) {
    for (int64_t row = piece * rows; row < std::min(count, (piece + 1) * rows); ++row) f(row);
  });
}

// f(rank, row, place) for the rows [first, last) of every rank in the order of `Routes`; place: in that order, which
// goes on from `place`.
template <typename F>
void walk(const Routes& routes, int ranks, int64_t first, int64_t last, int64_t& place, F&& f) {
  for (int64_t row = first; row < last; ++row)
    for (int rank = 0; rank < ranks; ++rank)
      if (row < routes.rows[rank]) f(rank, row, place++);
}

bool wants(const Routes& routes, int64_t place, int rank) {
  return static_cast<uint32_t>(routes.wanted[place * routes.words + rank / 32]) >> rank % 32 & 1;
}

void want(const Routes& routes, int64_t place, int rank) {
  int32_t& word = routes.wanted[place * routes.words + rank / 32];
  word = static_cast<int32_t>(static_cast<uint32_t>(word) | uint32_t{1} << rank % 32);
}

std::vector<int64_t> starts_of(const int64_t* sizes, int ranks) {
  std::vector<int64_t> starts(ranks + 1, 0);
  for (int rank = 0; rank < ranks; ++rank) starts[rank + 1] = starts[rank] + sizes[rank];
  return starts;
}

}  // namespace

int64_t size(int ranks) { return ranks * (static_cast<int64_t>(sizeof(Counter) + sizeof(Mail)) + 3 * kPart); }

int join(void* memory, int rank, int ranks, const int* processes, double patience, Host host) {
  Counter* counters = static_cast<Counter*>(memory);
  Mail* mails = reinterpret_cast<Mail*>(counters + ranks);
  char* places = reinterpret_cast<char*>(mails + ranks);
  groups.push_back({counters, mails, places, places + 2 * ranks * kPart, rank, ranks,
                    std::vector<int>(processes, processes + ranks), patience, host});
  return count() - 1;
}

int count() { return static_cast<int>(groups.size()); }

int ranks_of(int number) { return groups[number].ranks; }

int rank_in(int number) { return groups[number].rank; }

bool here(int number, int rank) { return on_host(groups[number], rank); }

int all_reduce(int number, const Kernels& kernels, Dtype dtype, const void* x, void* y, int64_t count) {
  Group& group = groups[number];
  return together(
      group, count * width_of(dtype),
      [&](char* place, int64_t done, int64_t bytes) { copy(place, static_cast<const char*>(x) + done, bytes); },
      [&](uint64_t part, int64_t done, int64_t bytes) {
        fuse_all_reduce(group, kernels, dtype, part, 0, bytes, static_cast<char*>(y) + done);
      });
}

int all_gather(int number, const void* x, void* y, const int64_t* sizes) {
  Group& group = groups[number];
  const std::vector<int64_t> starts = starts_of(sizes, group.ranks);
  return together(
      group, *std::max_element(sizes, sizes + group.ranks),
      [&](char* place, int64_t done, int64_t bytes) {
        copy(place, static_cast<const char*>(x) + done, left(sizes[group.rank], done, bytes));
      },
      [&](uint64_t part, int64_t done, int64_t bytes) {
        for (int rank = 0; rank < group.ranks; ++rank)
          copy(static_cast<char*>(y) + starts[rank] + done, group.place(rank, part), left(sizes[rank], done, bytes));
      });
}

int reduce_scatter(int number, const Kernels& kernels, Dtype dtype, const void* x, void* y, const int64_t* sizes) {
  Group& group = groups[number];
  const std::vector<int64_t> starts = starts_of(sizes, group.ranks);
  const int64_t start = starts[group.rank], end = starts[group.rank + 1];
  return together(
      group, starts.back(),
      [&](char* place, int64_t done, int64_t bytes) { copy(place, static_cast<const char*>(x) + done, bytes); },
      [&](uint64_t part, int64_t done, int64_t bytes) {
        const int64_t first = std::max(start, done), last = std::min(end, done + bytes);
        if (first < last)
          fuse_all_reduce(group, kernels, dtype, part, first - done, last - first,
                          static_cast<char*>(y) + first - start);
      });
}

int all_to_all(int number, const void* x, void* y, const int64_t* sent, const int64_t* received) {
  Group& group = groups[number];
  const int ranks = group.ranks;
  const std::vector<int64_t> same(ranks, ranks * sizeof(int64_t));
  std::vector<int64_t> every(ranks * ranks);  // bytes from each rank to each
  if (all_gather(number, sent, every.data(), same.data())) return 1;
  std::vector<std::vector<int64_t>> starts;
  for (int rank = 0; rank < ranks; ++rank) starts.push_back(starts_of(&every[rank * ranks], ranks));
  const std::vector<int64_t> places = starts_of(received, ranks);
  int64_t longest = 0;
  bool fits = true;
  for (int rank = 0; rank < ranks; ++rank) {
    longest = std::max(longest, starts[rank].back());
    fits &= every[rank * ranks + group.rank] == received[rank];
  }
  const int missing = together(
      group, longest,
      [&](char* place, int64_t done, int64_t bytes) {
        copy(place, static_cast<const char*>(x) + done, left(starts[group.rank].back(), done, bytes));
      },
      [&](uint64_t part, int64_t done, int64_t bytes) {
        for (int rank = 0; fits && rank < ranks; ++rank) {
          const int64_t start = starts[rank][group.rank];
          const int64_t first = std::max(start, done), last = std::min(starts[rank][group.rank + 1], done + bytes);
          if (first < last)
            copy(static_cast<char*>(y) + places[rank] + first - start, group.place(rank, part) + first - done,
                 last - first);
        }
      });
  return missing ? 1 : fits ? 0 : 2;
}

// A rank writes each of its rows once, behind what was chosen for it, and takes those of the others that it wants: all
// know how many rows each has, so that they meet once. Rows come in the order of `Routes`, whatever is shared at a
// time.
int64_t dispatch(int number, const Dispatch& a) {
  Group& group = groups[number];
  const int64_t choices = a.top_k * 4, letter = (2 * choices + a.row + 63) / 64 * 64;
  const int64_t* rows = a.routes.rows;
  int64_t place = 0, received = 0;
  const int missing = together(
      group, *std::max_element(rows, rows + group.ranks) * letter,
      [&](char* to, int64_t done, int64_t bytes) {
        const int64_t first = done / letter;
        over_rows(left(rows[group.rank] * letter, done, bytes) / letter, letter, [&](int64_t row) {
          const int64_t own = (first + row) * a.stride;
          char* start = to + row * letter;
          std::memcpy(start, a.experts + own * a.top_k, choices);
          std::memcpy(start + choices, a.weights + own * a.top_k, choices);
          std::memcpy(start + 2 * choices, a.x + own * a.row, a.row);
        });
      },
      [&](uint64_t part, int64_t done, int64_t bytes) {
        const int64_t first = done / letter;
        std::vector<const char*> taken;
        walk(a.routes, group.ranks, first, first + bytes / letter, place, [&](int rank, int64_t row, int64_t at) {
          const char* start = group.place(rank, part) + (row - first) * letter;
          const int32_t* chosen = reinterpret_cast<const int32_t*>(start);
          std::fill_n(a.routes.wanted + at * a.routes.words, a.routes.words, 0);
          for (int64_t i = 0; i < a.top_k; ++i) want(a.routes, at, chosen[i] / static_cast<int32_t>(a.held));
          if (wants(a.routes, at, group.rank)) taken.push_back(start);
        });
        over_rows(taken.size(), letter, [&](int64_t row) {
          const int64_t at = received + row;
          std::memcpy(a.taken_experts + at * a.top_k, taken[row], choices);
          std::memcpy(a.taken_weights + at * a.top_k, taken[row] + choices, choices);
          std::memcpy(a.taken + at * a.row, taken[row] + 2 * choices, a.row);
        });
        received += taken.size();
      },
      kPart / letter * letter);
  return missing ? -1 : received;
}

// At a time so many rows of every rank that the results of one rank for all of them have room: a row's results are
// there together, and are added up in the order of the ranks.
int combine(int number, const Kernels& kernels, Dtype dtype, const Combine& a) {
  struct Result {
    int rank;
    int64_t row;  // of those that the rank has shared
  };
  Group& group = groups[number];
  const int64_t all = group.ranks * a.row, *rows = a.routes.rows;
  int64_t place = 0, given = 0;
  std::vector<Result> results;  // for this rank's rows, one row's behind the other's
  std::vector<int64_t> ends;    // of those of each row
  return together(
      group, *std::max_element(rows, rows + group.ranks) * all,
      [&](char* to, int64_t done, int64_t bytes) {
        std::vector<int64_t> shared(group.ranks, 0);
        results.clear(), ends.clear();
        walk(a.routes, group.ranks, done / all, (done + bytes) / all, place, [&](int owner, int64_t, int64_t at) {
          for (int rank = 0; rank < group.ranks; ++rank) {
            if (!wants(a.routes, at, rank)) continue;
            if (owner == group.rank) results.push_back({rank, shared[rank]});
            ++shared[rank];
          }
          if (owner == group.rank) ends.push_back(results.size());
        });
        copy(to, a.y + given * a.row, shared[group.rank] * a.row);
        given += shared[group.rank];
      },
      [&](uint64_t part, int64_t done, int64_t) {
        const int64_t first = done / all;
        over_rows(ends.size(), a.row, [&](int64_t row) {
          std::vector<const void*> parts;
          for (int64_t i = row ? ends[row - 1] : 0; i < ends[row]; ++i)
            parts.push_back(group.place(results[i].rank, part) + results[i].row * a.row);
          kernels.sum(dtype, parts.data(), static_cast<int>(parts.size()), a.sum + (first + row) * a.stride * a.row,
                      a.row / width_of(dtype));
        });
      },
      kPart / all * all);
}

int broadcast(int number, int root, const void* x, void* y, int64_t size) {
  Group& group = groups[number];
  return together(
      group, size,
      [&](char* place, int64_t done, int64_t bytes) {
        if (group.rank == root) copy(place, static_cast<const char*>(x) + done, bytes);
      },
      [&](uint64_t part, int64_t done, int64_t bytes) {
        copy(static_cast<char*>(y) + done, group.place(root, part), bytes);
      });
}

int send(int number, int to, const void* x, int64_t size) {
  Group& group = groups[number];
  Mail& mail = group.mails[group.rank];
  for (int64_t done = 0; done < size; done += kPart) {
    copy(group.letters + group.rank * kPart, static_cast<const char*>(x) + done, std::min(kPart, size - done));
    set(mail.to, to);
    const uint64_t sent = value(mail.sent) + 1;
    set(mail.sent, sent);
    if (!await(group, to, [&] { return value(mail.taken) == sent; })) return 1;
  }
  return 0;
}

int receive(int number, int from, void* y, int64_t size) {
  Group& group = groups[number];
  Mail& mail = group.mails[from];
  for (int64_t done = 0; done < size; done += kPart) {
    const uint64_t me = group.rank;  // what is for another rank is taken by that one first
    if (!await(group, from, [&] { return value(mail.sent) > value(mail.taken) && value(mail.to) == me; })) return 1;
    copy(static_cast<char*>(y) + done, group.letters + from * kPart, std::min(kPart, size - done));
    set(mail.taken, value(mail.sent));
  }
  return 0;
}

}  // namespace group

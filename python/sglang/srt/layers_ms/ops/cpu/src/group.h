// Ranks that add up their results: those of one host through memory which all of them see, hosts through `Exchange`.
#pragma once
#include <cstdint>

#include "kernels.h"

namespace group {

// Called by the first rank of each host with rows of `bytes`, one a rank, each `stride` behind the one before, of which
// those of this host's ranks are filled: fills those of the others -> 0, or anything else if it cannot.
using Exchange = int (*)(void* rows, int64_t stride, int64_t bytes);

// Which of a group's ranks are on this host, and how hosts talk; null: all are.
struct Host {
  int first, ranks;
  Exchange exchange;
};

// How much memory the ranks of a host share in a group of so many, in bytes; it begins as zeros.
int64_t size(int ranks);
// -> the group's number, from now on. processes: the ranks' process ids, to notice one that has ended; of a rank on another
// host that of this host's first one, which speaks for it.
int join(void* memory, int rank, int ranks, const int* processes, double patience, Host host);
int count();
// y[count] = the sum of all ranks' x, in the order of the ranks, so that all of them get the same bits. Every rank must
// call this with the same count -> 0, or 1 if a rank has not come within `patience` seconds, or has ended; standard error
// says which.
int all_reduce(int group, const Kernels& kernels, Dtype dtype, const void* x, void* y, int64_t count);

}  // namespace group

// Ranks that exchange and add up their results: those of one host through memory which all of them see, hosts through
// `Exchange`.
#pragma once
#include <cstdint>

#include "kernels.h"

namespace group {

constexpr int64_t kPart = int64_t{1} << 20;  // bytes of a rank's values that are shared at a time

// Called by the first rank of each host with rows of `bytes`, one a rank, each `stride` behind the one before, of which
// those of this host's ranks are filled: fills those of the others -> 0, or anything else if it cannot.
using Exchange = int (*)(void* rows, int64_t stride, int64_t bytes);

// Which of a group's ranks are on this host, and how hosts talk; null: all are.
struct Host {
  int first, ranks;
  Exchange exchange;
};

// Rows of all ranks, and which ranks want each of them. In order: the first row of every rank, the second ones, ...
struct Routes {
  const int64_t* rows;  // [ranks]: how many each rank has
  int32_t* wanted;      // [rows of all ranks, words]: bit r % 32 of word r / 32 is set if rank r wants it
  int64_t words;
};

// A rank's rows are every stride-th of x, weights and experts, and of what combine gives.
struct Dispatch {
  const char* x;           // rows of `row` bytes
  const float* weights;    // rows of top_k
  const int32_t* experts;  // the same: places, of which each rank has `held`
  int64_t stride, row, top_k, held;
  Routes routes;
  char* taken;  // what this rank wants of the rows of all ranks, in order; and what was chosen for them
  float* taken_weights;
  int32_t* taken_experts;
};

struct Combine {
  const char* y;  // rows of `row` bytes, one for each that this rank wants, in order
  char* sum;      // this rank's rows
  int64_t stride, row;
  Routes routes;
};

// How much memory the ranks of a host share in a group of so many, in bytes; it begins as zeros.
int64_t size(int ranks);
// -> the group's number, from now on. processes: the ranks' process ids, to notice one that has ended; of a rank on
// another host that of this host's first one, which speaks for it.
int join(void* memory, int rank, int ranks, const int* processes, double patience, Host host);
int count();
int ranks_of(int group);
int rank_in(int group);
bool here(int group, int rank);  // whether a rank of it is on this host

// What follows, but for send and receive, every rank of the group must call in the same order -> 0, or 1 if a rank has
// not come within `patience` seconds, or has ended; standard error says which. Sizes are bytes unless they say values.

// y[count] = the sum of all ranks' x of so many values, in the order of the ranks, so that all of them get the same
// bits.
int all_reduce(int group, const Kernels& kernels, Dtype dtype, const void* x, void* y, int64_t count);
// y = every rank's x, one behind the other; sizes[ranks]: of each rank's x. All ranks give the same sizes.
int all_gather(int group, const void* x, void* y, const int64_t* sizes);
// y = this rank's of the pieces of the sum of all ranks' x; sizes[ranks]: of the pieces. All ranks give the same sizes.
int reduce_scatter(int group, const Kernels& kernels, Dtype dtype, const void* x, void* y, const int64_t* sizes);
// x has a piece for each rank, one behind the other, y gets one from each; sent[ranks], received[ranks]: their sizes.
// -> 2, and y untouched, on a rank that another one sends as much as it does not expect.
int all_to_all(int group, const void* x, void* y, const int64_t* sent, const int64_t* received);
// Each row goes to the ranks that have an expert of it; sets routes.wanted -> how many rows this rank has taken, -1
// where the others return 1.
int64_t dispatch(int group, const Dispatch& call);
// The sums of what the ranks make of each row, in the order of the ranks.
int combine(int group, const Kernels& kernels, Dtype dtype, const Combine& call);
// y = the root's x.
int broadcast(int group, int root, const void* x, void* y, int64_t size);
// Two ranks of a host meet: `send` returns once the other one has received everything.
int send(int group, int to, const void* x, int64_t size);
int receive(int group, int from, void* y, int64_t size);

}  // namespace group

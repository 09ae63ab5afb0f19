// Ranks on one host that add up their results through memory which all of them see.
#pragma once
#include <cstdint>

#include "kernels.h"

namespace group {

// How much memory a group of so many ranks shares, in bytes; it begins as zeros.
int64_t size(int ranks);
// -> the group's number, from now on. processes: the ranks' process ids, to notice one that has ended.
int join(void* memory, int rank, int ranks, const int* processes, double patience);
int count();
// y[count] = the sum of all ranks' x, in the order of the ranks, so that all of them get the same bits. Every rank must
// call this with the same count -> 0, or 1 if a rank has not come within `patience` seconds, or has ended; standard error
// says which.
int all_reduce(int group, const Kernels& kernels, Dtype dtype, const void* x, void* y, int64_t count);

}  // namespace group

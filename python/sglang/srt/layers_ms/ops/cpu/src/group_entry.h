// The collectives of group.h as MindSpore calls them; a part of entry.cpp. A group is given by its number.

extern "C" EXPORTED int64_t mindspore_cpu_group_size(int ranks) { return group::size(ranks); }
extern "C" EXPORTED int mindspore_cpu_join(void* memory, int rank, int ranks, const int* processes, double patience,
                                           int first, int here, group::Exchange exchange) {
  return group::join(memory, rank, ranks, processes, patience, {first, here, exchange});
}

static bool known_group(Arguments& a, const int32_t* number) {
  a.want(*number >= 0 && *number < group::count(), "there is no group %d", *number);
  return !a.failed();
}

// integers [2]: a group's number, and one of its ranks.
static bool known_rank(Arguments& a, const int32_t* integers) {
  if (!known_group(a, integers)) return false;
  a.want(integers[1] >= 0 && integers[1] < group::ranks_of(integers[0]), "there is no rank %d", integers[1]);
  return !a.failed();
}

static bool other_rank(Arguments& a, const int32_t* integers) {
  if (!known_rank(a, integers)) return false;
  a.want(integers[1] != group::rank_in(integers[0]), "rank %d would send to itself", integers[1]);
  a.want(group::here(integers[0], integers[1]), "rank %d is on another host, to which nothing is sent", integers[1]);
  return !a.failed();
}

// How many rows each rank of the group has in this step, in bytes, where this one has so many.
static std::vector<int64_t> sizes_of_ranks(Arguments& a, int number, int64_t rows, int64_t row) {
  const size_t ranks = group::ranks_of(number);
  std::vector<int64_t> sizes = step_counts.empty() ? std::vector<int64_t>(ranks, rows) : step_counts;
  a.want(sizes.size() == ranks, "the step counts the tokens of %ld ranks, the group has %ld", sizes.size(), ranks);
  if (a.failed()) return sizes;
  const int64_t own = sizes[group::rank_in(number)];
  a.want(own == rows, "the step counts %ld tokens of this rank, which has %ld", own, rows);
  for (int64_t& size : sizes) size *= row;
  return sizes;
}

// The same of a list of counts [ranks].
static std::vector<int64_t> sizes_from(Arguments& a, int i, int number, int64_t row, int64_t room) {
  const int32_t* counts = a.ints(i);
  const int64_t ranks = group::ranks_of(number);
  std::vector<int64_t> sizes;
  int64_t all = 0;
  a.want(a.size(i) == ranks, "%ld counts for %ld ranks", a.size(i), ranks);
  for (int64_t rank = 0; rank < ranks && !a.failed(); ++rank) {
    a.want(counts[rank] >= 0, "%d rows for rank %ld", counts[rank], rank);
    sizes.push_back(counts[rank] * row);
    all += counts[rank];
  }
  a.want(all <= room, "%ld rows, and room for %ld", all, room);
  return sizes;
}

static int64_t row_of(Arguments& a, int i) { return a.last(i) * size_of(a.dtype(i)); }

static int64_t sum(const std::vector<int64_t>& sizes) {
  int64_t all = 0;
  for (int64_t size : sizes) all += size;
  return all;
}

// x [T, size], group [1] -> the sum of all ranks' x
OPERATOR(all_reduce, 1) {
  const int64_t tokens = a.tokens(0), size = a.last(0);
  const Dtype dtype = a.dtype(0);
  const int32_t* number = a.ints(1);
  if (a.failed() || !known_group(a, number)) return;
  const int missing = group::all_reduce(*number, *kernels, dtype, a.data(0), a.data(2), tokens * size);
  a.want(!missing, "the ranks cannot add up their results");
}

// x [T, size], group [1], room [ranks] -> [ranks * T, size]: the rows of each rank that count, one rank behind the other
OPERATOR(all_gather, 1) {
  const int64_t tokens = a.tokens(0), row = row_of(a, 0);
  const int32_t* number = a.ints(1);
  if (a.failed() || !known_group(a, number)) return;
  const std::vector<int64_t> sizes = sizes_of_ranks(a, *number, tokens, row);
  if (a.failed()) return;
  gathered_room = a.dim(3, 0);
  gathered_tokens = sum(sizes) / row;
  a.want(gathered_tokens <= gathered_room, "%ld rows of all ranks, and room for %ld", gathered_tokens, gathered_room);
  if (a.failed()) return;
  const int missing = group::all_gather(*number, a.data(0), a.data(3), sizes.data());
  a.want(!missing, "the ranks cannot gather their rows");
}

// x [ranks * T, size] as all_gather leaves it, group [1], room [ranks] -> [T, size]: this rank's rows of the sum
OPERATOR(reduce_scatter, 1) {
  const int64_t tokens = a.tokens(3), row = row_of(a, 0);
  const int32_t* number = a.ints(1);
  a.want(a.dtype(3) == a.dtype(0) && a.last(3) == a.last(0), "the result is of another shape or dtype");
  if (a.failed() || !known_group(a, number)) return;
  const std::vector<int64_t> sizes = sizes_of_ranks(a, *number, tokens, row);
  a.want(sum(sizes) <= a.dim(0, 0) * row, "%ld rows of all ranks, and room for %ld", sum(sizes) / row, a.dim(0, 0));
  if (a.failed()) return;
  const int missing = group::reduce_scatter(*number, *kernels, a.dtype(0), a.data(0), a.data(3), sizes.data());
  a.want(!missing, "the ranks cannot add up their rows");
}

// x [N, size], group [1], rows for each rank [ranks], rows from each rank [ranks], room [M] -> [M, size]
OPERATOR(all_to_all, 1) {
  const int64_t row = row_of(a, 0);
  const int32_t* number = a.ints(1);
  a.want(a.dtype(5) == a.dtype(0) && a.last(5) == a.last(0), "the result is of another shape or dtype");
  if (a.failed() || !known_group(a, number)) return;
  const std::vector<int64_t> sent = sizes_from(a, 2, *number, row, a.dim(0, 0));
  const std::vector<int64_t> received = sizes_from(a, 3, *number, row, a.dim(5, 0));
  if (a.failed()) return;
  const int failed = group::all_to_all(*number, a.data(0), a.data(5), sent.data(), received.data());
  a.want(failed != 1, "the ranks cannot exchange rows");
  a.want(failed != 2, "a rank sends another number of rows than this one expects");
}

// x [T, size], group and root [2] -> the root's x
OPERATOR(broadcast, 1) {
  const int64_t tokens = a.tokens(0), row = row_of(a, 0);
  const int32_t* integers = a.ints(1);
  if (a.failed() || !known_rank(a, integers)) return;
  const int missing = group::broadcast(integers[0], integers[1], a.data(0), a.data(2), tokens * row);
  a.want(!missing, "the ranks do not receive what rank %d has", integers[1]);
}

// x [T, size], group and receiver [2] -> x
OPERATOR(send, 1) {
  const int64_t tokens = a.tokens(0), row = row_of(a, 0);
  const int32_t* integers = a.ints(1);
  if (a.failed() || !other_rank(a, integers)) return;
  std::memcpy(a.data(2), a.data(0), tokens * row);
  a.want(!group::send(integers[0], integers[1], a.data(0), tokens * row), "rank %d does not receive", integers[1]);
}

// like [T, size], group and sender [2] -> what the sender sends, as many rows as `like`
OPERATOR(receive, 1) {
  const int64_t tokens = a.tokens(0), row = row_of(a, 0);
  const int32_t* integers = a.ints(1);
  if (a.failed() || !other_rank(a, integers)) return;
  a.want(!group::receive(integers[0], integers[1], a.data(2), tokens * row), "rank %d does not send", integers[1]);
}

// y[rows, ranks * bytes] = the rows, of so many bytes, of all ranks' x side by side; outside graphs -> 0, or 1 if a
// rank is missing.
extern "C" EXPORTED int mindspore_cpu_gather_columns(int group, const char* x, char* y, int64_t rows, int64_t bytes) {
  trace::Timer timer("gather_columns");
  const int ranks = group::ranks_of(group);
  const std::vector<int64_t> sizes(ranks, bytes);
  for (int64_t row = 0; row < rows; ++row)
    if (group::all_gather(group, x + row * bytes, y + row * ranks * bytes, sizes.data())) return 1;
  return 0;
}

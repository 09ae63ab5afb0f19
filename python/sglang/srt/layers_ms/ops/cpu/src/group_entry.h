// The collectives of group.h as MindSpore calls them; a part of entry.cpp. A group is given by its number.

extern "C" EXPORTED int64_t mindspore_cpu_group_size(int ranks) { return group::size(ranks); }
extern "C" EXPORTED int mindspore_cpu_join(void* memory, int rank, int ranks, const int* processes, double patience,
                                           int first, int here, group::Exchange exchange) {
  return group::join(memory, rank, ranks, processes, patience, {first, here, exchange});
}

static bool known_group(Arguments& a, const int32_t* number) {
  a.check(*number >= 0 && *number < group::count(), "there is no group %d", *number);
  return !a.failed();
}

// integers [2]: a group's number, and one of its ranks.
static bool known_rank(Arguments& a, const int32_t* integers) {
  if (!known_group(a, integers)) return false;
  a.check(integers[1] >= 0 && integers[1] < group::ranks_of(integers[0]), "there is no rank %d", integers[1]);
  return !a.failed();
}

static bool other_rank(Arguments& a, const int32_t* integers) {
  if (!known_rank(a, integers)) return false;
  a.check(integers[1] != group::rank_in(integers[0]), "rank %d would send to itself", integers[1]);
  a.check(group::here(integers[0], integers[1]), "rank %d is on another host, to which nothing is sent", integers[1]);
  return !a.failed();
}

// How many rows each rank of the group has in this step, in bytes, where this one has so many.
static std::vector<int64_t> sizes_of_ranks(Arguments& a, int number, int64_t rows, int64_t row) {
  const size_t ranks = group::ranks_of(number);
  std::vector<int64_t> sizes = step_counts.empty() ? std::vector<int64_t>(ranks, rows) : step_counts;
  a.check(sizes.size() == ranks, "the step counts the tokens of %ld ranks, the group has %ld", sizes.size(), ranks);
  if (a.failed()) return sizes;
  const int64_t own = sizes[group::rank_in(number)];
  a.check(own == rows, "the step counts %ld tokens of this rank, which has %ld", own, rows);
  for (int64_t& size : sizes) size *= row;
  return sizes;
}

// The same of a list of counts [ranks].
static std::vector<int64_t> sizes_from(Arguments& a, int i, int number, int64_t row, int64_t room) {
  const int32_t* counts = a.ints(i);
  const int64_t ranks = group::ranks_of(number);
  std::vector<int64_t> sizes;
  int64_t all = 0;
  a.check(a.size(i) == ranks, "%ld counts for %ld ranks", a.size(i), ranks);
  for (int64_t rank = 0; rank < ranks && !a.failed(); ++rank) {
    a.check(counts[rank] >= 0, "%d rows for rank %ld", counts[rank], rank);
    sizes.push_back(counts[rank] * row);
    all += counts[rank];
  }
  a.check(all <= room, "%ld rows, and room for %ld", all, room);
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
  a.check(!missing, "the ranks cannot add up their results");
}

// x [T, size], group [1], room [ranks] -> [ranks * T, size]: the rows of each rank that count, one rank behind the other
OPERATOR(all_gather, 1) {
  const int64_t tokens = a.tokens(0), row = row_of(a, 0);
  const int32_t* number = a.ints(1);
  if (a.failed() || !known_group(a, number)) return;
  const std::vector<int64_t> sizes = sizes_of_ranks(a, *number, tokens, row);
  if (a.failed()) return;
  const int64_t room = a.dim(3, 0), rows = sum(sizes) / row;
  a.check(rows <= room, "%ld rows of all ranks, and room for %ld", rows, room);
  if (a.failed()) return;
  valid_rows_by_size[room] = rows;
  const int missing = group::all_gather(*number, a.data(0), a.data(3), sizes.data());
  a.check(!missing, "the ranks cannot gather their rows");
}

// x [ranks * T, size] as all_gather leaves it, group [1], room [ranks] -> [T, size]: this rank's rows of the sum
OPERATOR(reduce_scatter, 1) {
  const int64_t tokens = a.tokens(3), row = row_of(a, 0);
  const int32_t* number = a.ints(1);
  a.check(a.dtype(3) == a.dtype(0) && a.last(3) == a.last(0), "the result is of another shape or dtype");
  if (a.failed() || !known_group(a, number)) return;
  const std::vector<int64_t> sizes = sizes_of_ranks(a, *number, tokens, row);
  a.check(sum(sizes) <= a.dim(0, 0) * row, "%ld rows of all ranks, and room for %ld", sum(sizes) / row, a.dim(0, 0));
  if (a.failed()) return;
  const int missing = group::reduce_scatter(*number, *kernels, a.dtype(0), a.data(0), a.data(3), sizes.data());
  a.check(!missing, "the ranks cannot add up their rows");
}

// x [N, size], group [1], rows for each rank [ranks], rows from each rank [ranks], room [M] -> [M, size]
OPERATOR(all_to_all, 1) {
  const int64_t row = row_of(a, 0);
  const int32_t* number = a.ints(1);
  a.check(a.dtype(5) == a.dtype(0) && a.last(5) == a.last(0), "the result is of another shape or dtype");
  if (a.failed() || !known_group(a, number)) return;
  const std::vector<int64_t> sent = sizes_from(a, 2, *number, row, a.dim(0, 0));
  const std::vector<int64_t> received = sizes_from(a, 3, *number, row, a.dim(5, 0));
  if (a.failed()) return;
  const int failed = group::all_to_all(*number, a.data(0), a.data(5), sent.data(), received.data());
  a.check(failed != 1, "the ranks cannot exchange rows");
  a.check(failed != 2, "a rank sends another number of rows than this one expects");
}

// How many rows each rank of a group of replicas sends: those of a replica, which have the same `tokens` rows, in turn.
static std::vector<int64_t> rows_of_ranks(Arguments& a, int number, int64_t replicas, int64_t tokens) {
  const int64_t ranks = group::ranks_of(number);
  a.check(replicas > 0 && ranks % replicas == 0, "%ld replicas among %ld ranks", replicas, ranks);
  if (a.failed()) return {};
  const std::vector<int64_t> counts = step_counts.empty() ? std::vector<int64_t>(replicas, tokens) : step_counts;
  const int64_t each = ranks / replicas;
  a.check(static_cast<int64_t>(counts.size()) == replicas, "the step counts the tokens of %ld replicas, there are %ld",
         counts.size(), replicas);
  if (a.failed()) return {};
  const int64_t own = counts[group::rank_in(number) / each];
  a.check(own == tokens, "the step counts %ld tokens of this replica, which has %ld", own, tokens);
  std::vector<int64_t> rows;
  for (int64_t rank = 0; rank < ranks; ++rank) rows.push_back((counts[rank / each] + each - 1 - rank % each) / each);
  return rows;
}

// x [T, size], weights [T, k] float32, experts [T, k], integers [3]: group, places of each rank, replicas; room
// [replicas, words] -> rows that this rank has experts for [M, size], their weights and experts [M, k], and which ranks
// want each row of all ranks [M, words]
OPERATOR(dispatch_experts, 4) {
  group::Dispatch call{};
  const int64_t tokens = a.tokens(0), room = a.dim(5, 0);
  const int32_t* integers = a.ints(3);
  a.check(a.size(3) == 3, "%ld integers", a.size(3));
  if (a.failed() || !known_group(a, integers)) return;
  const int64_t ranks = group::ranks_of(integers[0]), replicas = integers[2];
  call.row = row_of(a, 0);
  call.top_k = a.last(1);
  call.held = integers[1];
  call.experts = a.ints(2);
  call.weights = a.floats(1);
  a.check(a.last(2) == call.top_k && a.tokens(1) == tokens && a.tokens(2) == tokens, "weights and experts do not fit");
  a.check(a.dtype(5) == a.dtype(0) && a.last(5) == a.last(0) && a.last(6) == call.top_k && a.last(7) == call.top_k &&
             a.dim(6, 0) == room && a.dim(7, 0) == room && a.dim(8, 0) == room && a.last(8) == (ranks + 31) / 32,
         "results of another shape or dtype");
  a.check(call.row + 8 * call.top_k + 64 <= group::kPart, "a row of %ld bytes", call.row);
  const std::vector<int64_t> rows = rows_of_ranks(a, integers[0], replicas, tokens);
  a.check(sum(rows) <= room, "%ld rows of all ranks, and room for %ld", sum(rows), room);
  if (a.failed()) return;
  a.check(call.held > 0 && within(call.experts, tokens * call.top_k, call.held * ranks), "a place is none of the %ld",
         call.held * ranks);
  if (a.failed()) return;
  call.stride = ranks / replicas;
  const int64_t first = group::rank_in(integers[0]) % call.stride;
  call.x = static_cast<const char*>(a.data(0)) + first * call.row;
  call.weights += first * call.top_k;
  call.experts += first * call.top_k;
  call.taken = static_cast<char*>(a.data(5));
  call.taken_weights = const_cast<float*>(a.floats(6));
  call.taken_experts = const_cast<int32_t*>(a.ints(7));
  call.routes = {rows.data(), const_cast<int32_t*>(a.ints(8)), a.last(8)};
  if (a.failed()) return;
  const int64_t taken = group::dispatch(integers[0], call);
  a.check(taken >= 0, "the ranks cannot send rows to each other");
  if (!a.failed()) valid_rows_by_size[room] = taken;
}

// y [M, size] and routes [M, words] of rows as dispatch_experts gives them, integers [2]: group, replicas; room
// [replicas] -> [T, size]: the sums of this rank's rows, and zeros for those of the others of its replica
OPERATOR(combine_experts, 1) {
  group::Combine call{};
  const int64_t tokens = a.tokens(4);
  const int32_t *integers = a.ints(2), *wanted = a.ints(1);
  a.check(a.size(2) == 2 && a.dtype(4) == a.dtype(0) && a.last(4) == a.last(0), "the result is of another shape or dtype");
  if (a.failed() || !known_group(a, integers)) return;
  const int64_t ranks = group::ranks_of(integers[0]), replicas = integers[1];
  call.row = row_of(a, 0);
  a.check(ranks * call.row <= group::kPart, "rows of %ld bytes of %ld ranks", call.row, ranks);
  const std::vector<int64_t> rows = rows_of_ranks(a, integers[0], replicas, tokens);
  a.check(a.last(1) == (ranks + 31) / 32 && sum(rows) <= a.dim(1, 0), "routes of %ld rows, there are %ld", a.dim(1, 0),
         sum(rows));
  if (a.failed()) return;
  call.stride = ranks / replicas;
  const int64_t first = group::rank_in(integers[0]) % call.stride;
  char* out = static_cast<char*>(a.data(4));
  for (int64_t token = 0; token < tokens; ++token)
    if (token % call.stride != first) std::memset(out + token * call.row, 0, call.row);
  call.y = static_cast<const char*>(a.data(0));
  call.sum = out + first * call.row;
  call.routes = {rows.data(), const_cast<int32_t*>(wanted), a.last(1)};
  a.check(!group::combine(integers[0], *kernels, a.dtype(0), call), "the ranks cannot add up their results");
}

// x [T, size], group and root [2] -> the root's x
OPERATOR(broadcast, 1) {
  const int64_t tokens = a.tokens(0), row = row_of(a, 0);
  const int32_t* integers = a.ints(1);
  if (a.failed() || !known_rank(a, integers)) return;
  const int missing = group::broadcast(integers[0], integers[1], a.data(0), a.data(2), tokens * row);
  a.check(!missing, "the ranks do not receive what rank %d has", integers[1]);
}

// x [T, size], group and receiver [2] -> x
OPERATOR(send, 1) {
  const int64_t tokens = a.tokens(0), row = row_of(a, 0);
  const int32_t* integers = a.ints(1);
  if (a.failed() || !other_rank(a, integers)) return;
  std::memcpy(a.data(2), a.data(0), tokens * row);
  a.check(!group::send(integers[0], integers[1], a.data(0), tokens * row), "rank %d does not receive", integers[1]);
}

// like [T, size], group and sender [2] -> what the sender sends, as many rows as `like`
OPERATOR(receive, 1) {
  const int64_t tokens = a.tokens(0), row = row_of(a, 0);
  const int32_t* integers = a.ints(1);
  if (a.failed() || !other_rank(a, integers)) return;
  a.check(!group::receive(integers[0], integers[1], a.data(2), tokens * row), "rank %d does not send", integers[1]);
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

// The collectives of group.h as MindSpore calls them.
#include <cstring>
#include <vector>

#include "group.h"
#include "operators.h"
#include "trace.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED int64_t mindspore_cpu_group_size(int ranks) { return group::size(ranks); }
EXPORTED int mindspore_cpu_join(void* memory, int rank, int ranks, const int* processes, double patience, int first,
                                int here, group::Exchange exchange) {
  return group::join(memory, rank, ranks, processes, patience, {first, here, exchange});
}

namespace {

using Sizes = std::vector<int64_t>;

int64_t sum(const Sizes& sizes) {
  int64_t all = 0;
  for (int64_t size : sizes) all += size;
  return all;
}

bool known_group(Arguments& arguments, int64_t group) {
  arguments.check(group >= 0 && group < group::count(), "there is no group %ld", group);
  return !arguments.failed();
}

bool known_rank(Arguments& arguments, int64_t group, int64_t rank) {
  if (!known_group(arguments, group)) return false;
  arguments.check(rank >= 0 && rank < group::ranks_of(group), "there is no rank %ld", rank);
  return !arguments.failed();
}

bool other_rank(Arguments& arguments, int64_t group, int64_t rank) {
  if (!known_rank(arguments, group, rank)) return false;
  arguments.check(rank != group::rank_in(group), "rank %ld would send to itself", rank);
  arguments.check(group::here(group, rank), "rank %ld is on another host, to which nothing is sent", rank);
  return !arguments.failed();
}

template <typename Call>
int64_t row_bytes(const Call& a) {
  return a.width * size_of(a.dtype);
}

// The valid rows of what other ranks have sent, for the operators that compute with it.
void set_valid_rows(int32_t* valid_rows, int64_t tokens) {
  valid_rows[0] = static_cast<int32_t>(tokens);
  valid_rows[1] = 0;  // of requests: these rows are none's here
}

// How many rows each rank of the group has in this step, in bytes, where this one has `tokens`.
Sizes sizes_of_ranks(Arguments& arguments, int64_t group, int64_t tokens, int64_t row) {
  const size_t ranks = group::ranks_of(group);
  Sizes sizes = arguments.replica_tokens();
  if (sizes.empty()) sizes.assign(ranks, tokens);
  arguments.check(sizes.size() == ranks, "the step counts the tokens of %ld ranks, the group has %ld", sizes.size(),
                  ranks);
  if (arguments.failed()) return sizes;
  const int64_t own = sizes[group::rank_in(group)];
  arguments.check(own == tokens, "the step counts %ld tokens of this rank, which has %ld", own, tokens);
  for (int64_t& size : sizes) size *= row;
  return sizes;
}

// The same of counts [ranks].
Sizes sizes_from(Arguments& arguments, const int32_t* counts, int64_t group, int64_t given, int64_t row, int64_t room) {
  const int64_t ranks = group::ranks_of(group);
  Sizes sizes;
  int64_t all = 0;
  arguments.check(given == ranks, "%ld counts for %ld ranks", given, ranks);
  for (int64_t rank = 0; rank < ranks && !arguments.failed(); ++rank) {
    arguments.check(counts[rank] >= 0, "%d rows for rank %ld", counts[rank], rank);
    sizes.push_back(counts[rank] * row);
    all += counts[rank];
  }
  arguments.check(all <= room, "%ld rows, and room for %ld", all, room);
  return sizes;
}

// How many rows each rank of a group of replicas sends: those of a replica, which have the same `tokens` rows, in turn.
Sizes rows_of_ranks(Arguments& arguments, int64_t group, int64_t replicas, int64_t tokens) {
  const int64_t ranks = group::ranks_of(group);
  arguments.check(replicas > 0 && ranks % replicas == 0, "%ld replicas among %ld ranks", replicas, ranks);
  if (arguments.failed()) return {};
  Sizes counts = arguments.replica_tokens();
  if (counts.empty()) counts.assign(replicas, tokens);
  const int64_t each = ranks / replicas;
  arguments.check(static_cast<int64_t>(counts.size()) == replicas,
                  "the step counts the tokens of %ld replicas, there are %ld", counts.size(), replicas);
  if (arguments.failed()) return {};
  const int64_t own = counts[group::rank_in(group) / each];
  arguments.check(own == tokens, "the step counts %ld tokens of this replica, which has %ld", own, tokens);
  Sizes rows;
  for (int64_t rank = 0; rank < ranks; ++rank) rows.push_back((counts[rank / each] + each - 1 - rank % each) / each);
  return rows;
}

}  // namespace

// -> the sum of all ranks' x
void run(Arguments& arguments, const calls::all_reduce& a) {
  if (!known_group(arguments, a.group)) return;
  const int missing = group::all_reduce(a.group, *kernels, a.dtype, a.x, a.out, a.tokens * a.width);
  arguments.check(!missing, "the ranks cannot add up their results");
}

// -> the rows of each rank that count, one rank behind the other
void run(Arguments& arguments, const calls::all_gather& a) {
  const int64_t row = row_bytes(a), room = a.gathered;
  if (!known_group(arguments, a.group)) return;
  const Sizes sizes = sizes_of_ranks(arguments, a.group, a.tokens, row);
  if (arguments.failed()) return;
  const int64_t rows = sum(sizes) / row;
  arguments.check(rows <= room, "%ld rows of all ranks, and room for %ld", rows, room);
  if (arguments.failed()) return;
  set_valid_rows(a.gathered_rows, rows);
  const int missing = group::all_gather(a.group, a.x, a.out, sizes.data());
  arguments.check(!missing, "the ranks cannot gather their rows");
}

// x as all_gather leaves it -> this rank's rows of the sum
void run(Arguments& arguments, const calls::reduce_scatter& a) {
  const int64_t row = row_bytes(a);
  if (!known_group(arguments, a.group)) return;
  const Sizes sizes = sizes_of_ranks(arguments, a.group, a.tokens, row);
  arguments.check(sum(sizes) <= a.gathered * row, "%ld rows of all ranks, and room for %ld", sum(sizes) / row,
                  a.gathered);
  if (arguments.failed()) return;
  const int missing = group::reduce_scatter(a.group, *kernels, a.dtype, a.x, a.out, sizes.data());
  arguments.check(!missing, "the ranks cannot add up their rows");
}

void run(Arguments& arguments, const calls::all_to_all& a) {
  const int64_t row = row_bytes(a);
  if (!known_group(arguments, a.group)) return;
  const Sizes sent = sizes_from(arguments, a.sent, a.group, a.ranks, row, a.sent_room);
  const Sizes received = sizes_from(arguments, a.received, a.group, a.ranks, row, a.received_room);
  if (arguments.failed()) return;
  const int failed = group::all_to_all(a.group, a.x, a.out, sent.data(), received.data());
  arguments.check(failed != 1, "the ranks cannot exchange rows");
  arguments.check(failed != 2, "a rank sends another number of rows than this one expects");
}

// -> rows that this rank has experts for, their weights and experts, and which ranks want each row of all ranks
void run(Arguments& arguments, const calls::dispatch_experts& a) {
  if (!known_group(arguments, a.group)) return;
  const int64_t ranks = group::ranks_of(a.group), row = row_bytes(a), room = a.dispatched;
  arguments.check(a.words == (ranks + 31) / 32, "routes of %ld words for %ld ranks", a.words, ranks);
  arguments.check(row + 8 * a.top_k + 64 <= group::kPart, "a row of %ld bytes", row);
  const Sizes rows = rows_of_ranks(arguments, a.group, a.replicas, a.tokens);
  arguments.check(sum(rows) <= room, "%ld rows of all ranks, and room for %ld", sum(rows), room);
  arguments.check(a.held > 0 && within(a.experts, a.tokens * a.top_k, a.held * ranks), "a place is none of the %ld",
                  a.held * ranks);
  if (arguments.failed()) return;
  group::Dispatch call{};
  call.stride = ranks / a.replicas;
  call.row = row;
  call.top_k = a.top_k;
  call.held = a.held;
  const int64_t first = group::rank_in(a.group) % call.stride;
  call.x = static_cast<const char*>(a.x) + first * row;
  call.weights = a.weights + first * a.top_k;
  call.experts = a.experts + first * a.top_k;
  call.taken = static_cast<char*>(a.rows);
  call.taken_weights = a.row_weights;
  call.taken_experts = a.row_experts;
  call.routes = {rows.data(), a.routes, a.words};
  const int64_t taken = group::dispatch(a.group, call);
  arguments.check(taken >= 0, "the ranks cannot send rows to each other");
  if (taken >= 0) set_valid_rows(a.taken_rows, taken);
}

// y and routes of rows as dispatch_experts gives them -> the sums of this rank's rows, and zeros for those of the
// others of its replica
void run(Arguments& arguments, const calls::combine_experts& a) {
  if (!known_group(arguments, a.group)) return;
  const int64_t ranks = group::ranks_of(a.group), row = row_bytes(a);
  arguments.check(ranks * row <= group::kPart, "rows of %ld bytes of %ld ranks", row, ranks);
  const Sizes rows = rows_of_ranks(arguments, a.group, a.replicas, a.tokens);
  arguments.check(a.words == (ranks + 31) / 32 && sum(rows) <= a.dispatched, "routes of %ld rows, there are %ld",
                  a.dispatched, sum(rows));
  if (arguments.failed()) return;
  group::Combine call{};
  call.stride = ranks / a.replicas;
  call.row = row;
  const int64_t first = group::rank_in(a.group) % call.stride;
  char* out = static_cast<char*>(a.out);
  for (int64_t token = 0; token < a.tokens; ++token)
    if (token % call.stride != first) std::memset(out + token * row, 0, row);
  call.y = static_cast<const char*>(a.y);
  call.sum = out + first * row;
  call.routes = {rows.data(), const_cast<int32_t*>(a.routes), a.words};
  arguments.check(!group::combine(a.group, *kernels, a.dtype, call), "the ranks cannot add up their results");
}

// -> the root's x
void run(Arguments& arguments, const calls::broadcast& a) {
  if (!known_rank(arguments, a.group, a.root)) return;
  const int missing = group::broadcast(a.group, a.root, a.x, a.out, a.tokens * row_bytes(a));
  arguments.check(!missing, "the ranks do not receive what rank %ld has", a.root);
}

// -> x
void run(Arguments& arguments, const calls::send& a) {
  if (!other_rank(arguments, a.group, a.peer)) return;
  const int64_t size = a.tokens * row_bytes(a);
  std::memcpy(a.out, a.x, size);
  arguments.check(!group::send(a.group, a.peer, a.x, size), "rank %ld does not receive", a.peer);
}

// -> what the peer sends, as many rows as `like`
void run(Arguments& arguments, const calls::receive& a) {
  if (!other_rank(arguments, a.group, a.peer)) return;
  const int missing = group::receive(a.group, a.peer, a.out, a.tokens * row_bytes(a));
  arguments.check(!missing, "rank %ld does not send", a.peer);
}

// y[rows, ranks * bytes] = the rows, of so many bytes, of all ranks' x side by side; outside graphs -> 0, or 1 if a
// rank is missing.
EXPORTED int mindspore_cpu_gather_columns(int group, const char* x, char* y, int64_t rows, int64_t bytes) {
  trace::Timer timer("gather_columns");
  const int ranks = group::ranks_of(group);
  const Sizes sizes(ranks, bytes);
  for (int64_t row = 0; row < rows; ++row)
    if (group::all_gather(group, x + row * bytes, y + row * ranks * bytes, sizes.data())) return 1;
  return 0;
}

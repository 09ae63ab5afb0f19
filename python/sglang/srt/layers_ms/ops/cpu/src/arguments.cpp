#include "arguments.h"

#include <cstring>
#include <map>
#include <utility>

namespace {

const char* const kDtypes[] = {"float32", "float16", "bfloat16"};  // of enum Dtype

int index_of(const char* dtype) {
  for (int i = 0; i < 3; ++i)
    if (!std::strcmp(dtype, kDtypes[i])) return i;
  return -1;
}

int format_of(const char* dtype) {
  for (const FormatTraits& format : kFormats)
    if (!std::strcmp(dtype, format.dtype)) return static_cast<int>(&format - kFormats);
  return -1;
}

}  // namespace

void Arguments::first_of_kind(const char* name, Kind kind) {
  const char* dtype = dtypes_[at_];
  const int found = kind == Kind::W ? format_of(dtype) : index_of(dtype);
  if (found < 0) return fail("%s is %s; floating point wanted", name, dtype);
  dtypes_of_[static_cast<int>(kind)] = dtype;
  if (kind == Kind::W)
    format_ = static_cast<Format>(found);
  else
    (kind == Kind::A ? activation_ : cache_) = static_cast<Dtype>(found);
}

void Arguments::take_attributes(const char* name, const char* dtype, Attributes& of) {
  if (!next(name)) return;
  check(is(dtype) && ranks_[at_] == 1, "attributes are %s; one axis of %s wanted", dtypes_[at_], dtype);
  if (!failed_) of = {static_cast<const char*>(data_[at_]), shapes_[at_][0], 0};
}

void Arguments::lacking(const char* name) {
  at_ = count_ - 1;
  fail("%s is lacking: there are %d arguments", name, count_);
}

void Arguments::lacking_attribute(const char* name, const char* dtype, int64_t there_are) {
  fail("%s is lacking: there are %ld attributes of %s", name, there_are, dtype);
}

void* Arguments::wrong_rank(const char* name, int64_t wanted) {
  fail("%s has %d axes; %ld wanted", name, ranks_[at_], wanted);
  return nullptr;
}

void Arguments::wrong_size(const char* name, int64_t size, const Axis& axis) {
  fail("%s has a size of %ld; %ld wanted", name, size, axis.value());
}

void Arguments::wrong_dtype(const char* name, const char* wanted) {
  fail("%s is %s; %s wanted", name, dtypes_[at_], wanted);
}

void* Arguments::flat(const char* name, Kind kind, Axis size) {
  if (!next(name)) return nullptr;
  check_kind(name, kind);
  int64_t values = 1;
  for (int axis = 0; axis < ranks_[at_]; ++axis) values *= shapes_[at_][axis];
  check(values > 0 && size.fits(values), "%s has %ld values; %ld wanted", name, values, size.value());
  return data_[at_];
}

int64_t Arguments::scalar(const char* name) {
  const void* value = tensor(name, Kind::I32, {1});
  return failed_ ? 0 : *static_cast<const int32_t*>(value);
}

void Arguments::sizes(std::initializer_list<Axis> axes) { tensor("a tensor of sizes", Kind::I32, axes); }

void Arguments::finish(calls::Call& call) {
  if (finished_) return;
  finished_ = true;
  check(at_ + 1 == count_ && integers_.taken == integers_.size && numbers_.taken == numbers_.size,
        "%d arguments, %ld integers and %ld floats; %d, %ld and %ld wanted", count_, integers_.size, numbers_.size,
        at_ + 1, integers_.taken, numbers_.taken);
  call.dtype = activation_;
  call.cache_dtype = cache_;
  call.format = format_;
  const char *activations = dtypes_of_[static_cast<int>(Kind::A)], *weights = dtypes_of_[static_cast<int>(Kind::W)];
  check(!activations || !weights || traits(format_).activation == activation_,
        "weights of %s, which %s is not multiplied with", weights, activations);
  call.room = call.tokens;
  if (const int64_t tokens = valid_rows::tokens(call.room); call.room && tokens >= 0) call.tokens = tokens;
  if (const int64_t room = call.requests; room && valid_rows::requests() >= 0) {
    call.requests = valid_rows::requests();
    check(call.requests <= room, "the step has %ld requests, and room for %ld", call.requests, room);
  }
  check(call.tokens <= call.room, "the step has %ld tokens, and room for %ld", call.tokens, call.room);
}

bool within(const int32_t* values, int64_t count, int64_t end) {
  for (int64_t i = 0; i < count; ++i)
    if (values[i] < 0 || values[i] >= end) return false;
  return true;
}

namespace valid_rows {
namespace {

int64_t step_tokens = -1, step_requests = -1;
std::vector<int64_t> step_counts;
std::map<int64_t, int64_t> received;

}  // namespace

void set(int64_t tokens, int64_t requests) {
  step_tokens = tokens;
  step_requests = requests;
  step_counts.clear();
  received.clear();
}

void set_counts(std::vector<int64_t> counts) { step_counts = std::move(counts); }
const std::vector<int64_t>& counts() { return step_counts; }
void set_received(int64_t room, int64_t rows) { received[room] = rows; }

int64_t tokens(int64_t room) {
  const auto found = received.find(room);
  return found == received.end() ? step_tokens : found->second;
}

int64_t requests() { return step_requests; }

}  // namespace valid_rows

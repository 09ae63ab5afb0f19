#include "arguments.h"

#include <cstring>

namespace {

const char* const kDtypes[] = {"float32", "float16", "bfloat16", "uint8"};  // of enum Dtype

int index_of(const char* dtype, bool of_cache) {
  for (int i = 0; i < (of_cache ? 4 : 3); ++i)
    if (!std::strcmp(dtype, kDtypes[i])) return i;
  return -1;
}

struct Stored {  // which dtypes a part of a quantized weight may have
  Kind kind;
  const char* dtype;
  Storage storage;
};
const Stored kStored[] = {
    {Kind::Q, "int8", Storage::i8},     {Kind::Q, "uint8", Storage::u8},      {Kind::S, "float32", Storage::f32},
    {Kind::S, "float16", Storage::f16}, {Kind::S, "bfloat16", Storage::bf16}, {Kind::S, "uint8", Storage::u8},
    {Kind::S, "int8", Storage::i8},     {Kind::O, "int8", Storage::i8},       {Kind::O, "uint8", Storage::u8},
    {Kind::O, "float32", Storage::f32}, {Kind::O, "float16", Storage::f16},   {Kind::O, "bfloat16", Storage::bf16},
    {Kind::B, "float32", Storage::f32}, {Kind::B, "float16", Storage::f16},   {Kind::B, "bfloat16", Storage::bf16},
};

int format_of(const char* dtype) {
  for (const FormatTraits& format : kFormats)
    if (!std::strcmp(dtype, format.dtype)) return static_cast<int>(&format - kFormats);
  return -1;
}

}  // namespace

void Arguments::first_of_kind(const char* name, Kind kind) {
  const char* dtype = dtypes_[at_];
  if (kind >= Kind::Q) return first_stored(name, kind);
  const int found = kind == Kind::W ? format_of(dtype) : index_of(dtype, kind == Kind::C);
  if (found < 0) return fail("%s is %s; floating point wanted", name, dtype);
  dtypes_of_[static_cast<int>(kind)] = dtype;
  if (kind == Kind::W)
    format_ = static_cast<Format>(found);
  else
    (kind == Kind::A ? activation_ : cache_) = static_cast<Dtype>(found);
}

void Arguments::first_stored(const char* name, Kind kind) {
  const Kind part = kind == Kind::Q2 ? Kind::Q : kind == Kind::S2 ? Kind::S : kind == Kind::O2 ? Kind::O : kind;
  for (const Stored& one : kStored) {
    if (one.kind != part || !is(one.dtype)) continue;
    dtypes_of_[static_cast<int>(kind)] = dtypes_[at_];
    stored_[static_cast<int>(kind) - static_cast<int>(Kind::Q)] = one.storage;
    return;
  }
  fail("%s is %s, which holds no part of a quantized matrix", name, dtypes_[at_]);
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

void Arguments::take_valid_rows() {
  if (!next("valid_rows")) return;
  if (is_nothing(at_)) return;
  check(is("int32") && ranks_[at_] == 1, "valid_rows is %s of %d axes; one axis of int32 wanted", dtypes_[at_],
        ranks_[at_]);
  if (failed_ || shapes_[at_][0] == 1) return;
  check(shapes_[at_][0] > 1, "valid_rows has no values");
  valid_rows_ = static_cast<const int32_t*>(data_[at_]);
  replicas_ = shapes_[at_][0] - 2;
}

std::vector<int64_t> Arguments::replica_tokens() const {
  return valid_rows_ ? std::vector<int64_t>(valid_rows_ + 2, valid_rows_ + 2 + replicas_) : std::vector<int64_t>();
}

void Arguments::finish(calls::Call& call) {
  if (finished_) return;
  finished_ = true;
  check(at_ + 1 == count_ && integers_.taken == integers_.size && numbers_.taken == numbers_.size,
        "%d arguments, %ld integers and %ld floats; %d, %ld and %ld wanted", count_, integers_.size, numbers_.size,
        at_ + 1, integers_.taken, numbers_.taken);
  call.dtype = activation_;
  call.cache_dtype = cache_;
  call.format = format_;
  Storage* const types[] = {&call.codes_type,      &call.scale_type,      &call.offset_type,     &call.bias_type,
                            &call.down_codes_type, &call.down_scale_type, &call.down_offset_type};
  for (int i = 0; i < 7; ++i) *types[i] = stored_[i];
  const char *activations = dtypes_of_[static_cast<int>(Kind::A)], *weights = dtypes_of_[static_cast<int>(Kind::W)];
  check(!activations || !weights || traits(format_).activation == activation_,
        "weights of %s, which %s is not multiplied with", weights, activations);
  if (!valid_rows_ || failed_) return;
  take_leading("tokens", valid_rows_[0], call.tokens);
  take_leading("requests", valid_rows_[1], call.requests);
}

void Arguments::take_leading(const char* what, int64_t count, int64_t& room) {
  if (!room) return;
  check(count >= 0 && count <= room, "the step has %ld %s, and room for %ld", count, what, room);
  room = count;
}

bool within(const int32_t* values, int64_t count, int64_t end) {
  for (int64_t i = 0; i < count; ++i)
    if (values[i] < 0 || values[i] >= end) return false;
  return true;
}

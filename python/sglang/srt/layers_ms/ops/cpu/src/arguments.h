// The arguments of one call of an operator, as MindSpore gives them, checked as they are taken in the order of
// operators.def. What is wrong first is printed; the call is refused after all of them are taken.
//
// A compiled graph has one shape for all steps: its tensors have room for the most tokens and requests. The first
// argument of every operator, `valid_rows`, says how many leading rows count; later ones are neither read nor written.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "calls.h"

// The size of an axis: a name, which its first argument gives its value, or what the argument must have.
class Axis {
 public:
  Axis(int64_t& name) : name_(&name), value_(name) {}  // NOLINT: these conversions are what lines are made of
  Axis(const int64_t&& value) : name_(nullptr), value_(value) {}  // NOLINT
  Axis(int value) : name_(nullptr), value_(value) {}              // NOLINT
  bool fits(int64_t size) const {
    if (name_ && !value_) *name_ = size;
    return size == (name_ ? *name_ : value_);
  }
  int64_t value() const { return name_ ? *name_ : value_; }
  const int64_t* name() const { return name_; }

 private:
  int64_t* name_;
  int64_t value_;
};

enum class Kind { A, W, C, F32, I32, Q, S, O, B, Q2, S2, O2 };  // types of operators.def

class Arguments {
 public:
  Arguments(const char* op, int count, void** data, int* ranks, int64_t** shapes, const char** dtypes)
      : op_(op), count_(count), data_(data), ranks_(ranks), shapes_(shapes), dtypes_(dtypes) {}

  // -> where the next argument lies.
  void* tensor(const char* name, Kind kind, std::initializer_list<Axis> axes) {
    if (!next(name)) return nullptr;
    check_kind(name, kind);
    if (ranks_[at_] != static_cast<int>(axes.size())) return wrong_rank(name, axes.size());
    const int64_t* size = shapes_[at_];
    for (const Axis& axis : axes) {
      // The first axis may be empty: a rank beside others can be idle. Such an axis is as good as unknown.
      const bool was_empty = empty_ && axis.name() == empty_;
      if (*size < (size > shapes_[at_]) || (was_empty && *size) || !axis.fits(*size)) wrong_size(name, *size, axis);
      if (!*size++) empty_ = axis.name();
    }
    return data_[at_];
  }
  void* optional(const char* name, Kind kind, std::initializer_list<Axis> axes) {  // null: it is not given
    if (at_ + 1 >= count_ || !is_nothing(at_ + 1)) return tensor(name, kind, axes);
    ++at_;
    return nullptr;
  }
  void* flat(const char* name, Kind kind, Axis size);  // of any shape
  int64_t scalar(const char* name);
  void sizes(std::initializer_list<Axis> axes);  // the shape of a tensor whose values are not read
  // The next value of the tensor of integers, or of floats.
  int64_t integer(const char* name) {
    const char* value = attribute(name, "int32", integers_);
    return value ? *reinterpret_cast<const int32_t*>(value) : 0;
  }
  float number(const char* name) {
    const char* value = attribute(name, "float32", numbers_);
    return value ? *reinterpret_cast<const float*>(value) : 0.0f;
  }
  // Before the first one: int32 [2 + replicas], or of one value, where all rows count.
  void take_valid_rows();
  // After the last one: how many tokens and requests count.
  void finish(calls::Call& call);

  // Tokens of each replica of attention; none where valid_rows does not say it.
  std::vector<int64_t> replica_tokens() const;

  template <typename... A>
  void check(bool holds, const char* message, A... arguments) {
    if (__builtin_expect(!holds, 0)) fail(message, arguments...);
  }
  bool failed() const { return failed_; }

 private:
  struct Attributes {
    const char* values = nullptr;
    int64_t size = 0, taken = 0;
  };

  bool next(const char* name) {
    if (++at_ < count_) return true;
    lacking(name);
    return false;
  }
  bool is_nothing(int at) const {  // int8 [1], which no optional argument is
    return ranks_[at] == 1 && shapes_[at][0] == 1 && !std::strcmp(dtypes_[at], "int8");
  }
  bool is(const char* dtype) const { return !std::strcmp(dtypes_[at_], dtype); }
  // Arguments of one kind are of one dtype: later ones are compared with the first.
  void check_kind(const char* name, Kind kind) {
    const char*& dtype = dtypes_of_[static_cast<int>(kind)];
    if (!dtype)
      first_of_kind(name, kind);
    else if (dtypes_[at_] != dtype && !is(dtype))
      wrong_dtype(name, dtype);
  }
  const char* attribute(const char* name, const char* dtype, Attributes& of) {
    if (!of.values) take_attributes(name, dtype, of);
    if (of.taken < of.size) return of.values + 4 * of.taken++;
    lacking_attribute(name, dtype, of.size);
    return nullptr;
  }
  void take_leading(const char* what, int64_t count, int64_t& room);
  void first_of_kind(const char* name, Kind kind);
  void first_stored(const char* name, Kind kind);
  void take_attributes(const char* name, const char* dtype, Attributes& of);
  // What is wrong with the argument that was taken last.
  void lacking(const char* name);
  void lacking_attribute(const char* name, const char* dtype, int64_t there_are);
  void* wrong_rank(const char* name, int64_t wanted);
  void wrong_size(const char* name, int64_t size, const Axis& axis);
  void wrong_dtype(const char* name, const char* wanted);

  template <typename... A>
  __attribute__((noinline, cold)) void fail(const char* message, A... arguments) {
    if (failed_) return;
    failed_ = true;
    std::fprintf(stderr, "mindspore cpu operator %s: ", op_);
    std::fprintf(stderr, message, arguments...);
    std::fputc('\n', stderr);
  }

  const char* op_;
  int count_, at_ = -1;
  void** data_;
  int* ranks_;
  int64_t** shapes_;
  const char** dtypes_;
  const int32_t* valid_rows_ = nullptr;  // tokens, requests, and tokens of each replica of attention; null: all count
  int64_t replicas_ = 0;
  const char* dtypes_of_[12] = {nullptr, nullptr, nullptr, "float32", "int32"};  // of enum Kind; null: none was taken
  Dtype activation_{}, cache_{};
  Format format_{};
  Storage stored_[7]{};             // of the kinds from Q on
  const int64_t* empty_ = nullptr;  // the axis whose size is 0
  Attributes integers_, numbers_;
  bool failed_ = false, finished_ = false;
};

// Whether all values are in [0, end).
bool within(const int32_t* values, int64_t count, int64_t end);

// Records the operators of one run of a compiled graph, with memory of its own for what they pass on, and runs them
// again.
//
// MindSpore takes some 10 microseconds to launch an operator, and milliseconds to start a graph with hundreds of
// inputs; a replay takes neither. It is right as long as every operator of the graph is one of these, and reads nothing
// but results of the others, memory that lasts (weights, caches, inputs), and constants: the caller compares results.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace capture {

using Operator = int (*)(int count, void** data, int* ranks, int64_t** shapes, const char** dtypes, void*, void*);

struct Range {
  const char* start;
  int64_t size;
};

struct Call {
  Operator op;
  int outputs;  // the last so many arguments
  std::vector<void*> data;
  std::vector<bool> moved;  // which of these are results, which a replay has elsewhere
  std::vector<int> ranks;
  std::vector<std::vector<int64_t>> shapes;
  std::vector<int64_t*> shape_pointers;
  std::vector<std::string> dtypes;
  std::vector<const char*> dtype_pointers;
};

class Recording {
 public:
  explicit Recording(std::vector<Range> lasting) : lasting_(std::move(lasting)) {}
  void add(Operator op, int outputs, int count, void** data, int* ranks, int64_t** shapes, const char** dtypes);
  // Gives results memory of their own -> whether there is anything to run.
  bool finish();
  int run();  // -> 0, or what the operator that failed returned
  // Where a replay leaves what the recorded run left at this address; null: it is no result, and does not last.
  void* replayed(const void* address) const;

 private:
  bool lasts(const char* start) const;
  bool is_result(const char* start) const;
  void* constant(const char* value, int64_t size);

  struct Constant {
    const char* source;
    int64_t size;
    std::unique_ptr<char[]> copy;
  };

  std::vector<Range> lasting_, results_;
  std::vector<Call> calls_;
  std::vector<Constant> constants_;  // what is read, and is neither lasting nor a result
  std::vector<std::unique_ptr<char[]>> memory_;
  std::vector<char*> places_;  // of each of results_, once it is finished
};

void begin(Recording* recording);  // operators are added to it until the next call; null: to none
Recording* current();

}  // namespace capture

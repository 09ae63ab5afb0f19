// What Python calls beside the operators: which kernels compute, on which threads, recordings, traces and weights.
#include <vector>

#include "capture.h"
#include "instruction_sets.h"
#include "operators.h"
#include "parallel.h"
#include "product.h"
#include "trace.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {
const InstructionSet* set = pick(nullptr);
}
const Kernels* kernels = set ? set->kernels : nullptr;
const QuantKernels* quant_kernels = set ? set->quant_kernels : nullptr;
bool bf16_tiles = set && set->bf16_tiles;

// A line of text for each of operators.def, of which Python makes the functions that layers call.
EXPORTED const char* mindspore_cpu_operators() {
  return ""
#define KERNEL(name, types, ...) #name ": " #__VA_ARGS__ "\n"
#define OPERATOR(name, ...) #name ": " #__VA_ARGS__ "\n"
#include "operators.def"
      ;
}

EXPORTED const char* mindspore_cpu_isa() { return set ? set->name : ""; }

// Computes with this instruction set from now on, if the processor has it -> whether it does.
EXPORTED int mindspore_cpu_use(const char* isa) {
  const InstructionSet* found = pick(isa);
  if (!found) return 0;
  set = found;
  kernels = found->kernels;
  quant_kernels = found->quant_kernels;
  bf16_tiles = found->bf16_tiles;
  return 1;
}

EXPORTED int mindspore_cpu_has_amx() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16");
#else
  return 0;
#endif
}

EXPORTED Threads mindspore_cpu_thread_functions() { return {pool::threads, pool::run, pool::inside}; }
EXPORTED void mindspore_cpu_threads(int threads, const int* processors) { pool::configure(threads, processors); }

// Recordings of capture.h: begin, run the graph, finish -> whether it can be replayed. Ranges are memory that lasts.
EXPORTED capture::Recording* mindspore_cpu_begin_recording(const capture::Range* lasting, int64_t count) {
  auto* recording = new capture::Recording(std::vector<capture::Range>(lasting, lasting + count));
  capture::begin(recording);
  return recording;
}
EXPORTED int mindspore_cpu_finish_recording(capture::Recording* recording) {
  capture::begin(nullptr);
  return recording->finish();
}
EXPORTED int mindspore_cpu_replay(capture::Recording* recording) { return recording->run(); }
EXPORTED void* mindspore_cpu_replayed(capture::Recording* recording, const void* address) {
  return recording->replayed(address);
}
EXPORTED void mindspore_cpu_drop_recording(capture::Recording* recording) { delete recording; }

EXPORTED void mindspore_cpu_trace(int on) { trace::record(on); }
EXPORTED int64_t mindspore_cpu_take_events(trace::Event* events, int64_t most) { return trace::take(events, most); }

EXPORTED void mindspore_cpu_prepack(int format, void* weight, int64_t n, int64_t k) {
  kernels->pack(static_cast<Format>(format), weight, n, k);
}
EXPORTED void mindspore_cpu_unpack(int format, void* weight, int64_t n, int64_t k) {
  kernels->unpack(static_cast<Format>(format), weight, n, k);
}

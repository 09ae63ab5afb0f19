// The operators as MindSpore calls them (AOT custom operators), made of operators.def.
//
// Each function gets its inputs, then its results; what it returns other than 0 becomes a RuntimeError in Python.
#include "operators.h"

#include "capture.h"
#include "trace.h"

#define EXPORTED __attribute__((visibility("default")))

namespace calls {

// Each argument of a line takes the next one of the call.
#define KERNEL(name, types, ...)          \
  void name::take(Arguments& arguments) { \
    arguments.take_valid_rows();          \
    __VA_ARGS__                           \
    arguments.finish(*this);              \
  }
#define OPERATOR(name, ...) KERNEL(name, , __VA_ARGS__)
#define AXES(...)
#define IN(name, type, ...) name = static_cast<decltype(name)>(arguments.tensor(#name, Kind::type, {__VA_ARGS__}));
#define OPT(name, type, ...) name = static_cast<decltype(name)>(arguments.optional(#name, Kind::type, {__VA_ARGS__}));
#define FLAT(name, type, size) name = static_cast<decltype(name)>(arguments.flat(#name, Kind::type, size));
#define STATE IN
#define OPTSTATE OPT
#define OUT IN
#define SCALAR(name) name = arguments.scalar(#name);
#define SIZE(...) arguments.sizes({__VA_ARGS__});
#define INT(name) name = arguments.integer(#name);
#define FLAG(name) name = arguments.integer(#name) != 0;
#define FLOAT(name) name = arguments.number(#name);
#define LET(name, value) name = arguments.failed() ? 0 : (value);
#define ROOM(axis, value)
#define CHECK(holds, ...) \
  if (!arguments.failed()) arguments.check(holds, __VA_ARGS__);
#define VALIDATE()         \
  arguments.finish(*this); \
  if (!arguments.failed()) validate(arguments);
#include "operators.def"

}  // namespace calls

namespace {

#define KERNEL(name, ...) \
  void run(Arguments&, const calls::name& call) { kernels->name(call); }
#include "operators.def"

using Function = int(int, void**, int*, int64_t**, const char**, void*, void*);

template <typename Call>
int answer(Function function, const char* name, int results, int count, void** data, int* ranks, int64_t** shapes,
           const char** dtypes) {
  if (auto* recording = capture::current()) recording->add(function, results, count, data, ranks, shapes, dtypes);
  trace::Timer timer(name);
  Arguments arguments(name, count, data, ranks, shapes, dtypes);
  Call call{};
  call.take(arguments);
  if (!arguments.failed()) run(arguments, call);
  return arguments.failed() ? 1 : 0;
}

}  // namespace

// The function of a line; its results are counted by what an OUT becomes, and nothing else does.
#define KERNEL(name, types, ...)                                                                                 \
  extern "C" EXPORTED int name(int count, void** data, int* ranks, int64_t** shapes, const char** dtypes, void*, \
                               void*) {                                                                          \
    return answer<calls::name>(name, #name, 0 __VA_ARGS__, count, data, ranks, shapes, dtypes);                  \
  }
#define OPERATOR(name, ...) KERNEL(name, , __VA_ARGS__)
#define AXES(...)
#define IN(...)
#define OPT(...)
#define FLAT(...)
#define STATE(...)
#define OPTSTATE(...)
#define OUT(...) +1
#define SCALAR(...)
#define SIZE(...)
#define INT(...)
#define FLAG(...)
#define FLOAT(...)
#define LET(...)
#define ROOM(...)
#define CHECK(...)
#define VALIDATE()
#include "operators.def"

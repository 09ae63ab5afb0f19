#include "capture.h"

#include <algorithm>
#include <cstring>

namespace capture {
namespace {

constexpr size_t kAlignment = 64;
Recording* open_recording = nullptr;

int64_t bytes_of(const std::string& dtype, const std::vector<int64_t>& shape) {
  const bool is_byte = dtype == "int8" || dtype == "uint8" || dtype == "bool";
  int64_t size = is_byte ? 1 : dtype == "float32" || dtype == "int32" ? 4 : 2;
  for (int64_t length : shape) size *= length;
  return size;
}

bool within(const Range& range, const char* start) { return start >= range.start && start < range.start + range.size; }

// Ranges that touch each other become one: MindSpore gives memory of one result to a later one.
std::vector<Range> united(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.start < b.start; });
  std::vector<Range> found;
  for (const Range& range : ranges) {
    if (!found.empty() && range.start < found.back().start + found.back().size)
      found.back().size = std::max(found.back().size, range.start + range.size - found.back().start);
    else
      found.push_back(range);
  }
  return found;
}

}  // namespace

void begin(Recording* recording) { open_recording = recording; }
Recording* current() { return open_recording; }

bool Recording::lasts(const char* start) const {
  return std::any_of(lasting_.begin(), lasting_.end(), [&](const Range& range) { return within(range, start); });
}

bool Recording::is_result(const char* start) const {
  return std::any_of(results_.begin(), results_.end(), [&](const Range& range) { return within(range, start); });
}

void* Recording::constant(const char* value, int64_t size) {
  for (const Constant& known : constants_)
    if (known.source == value && known.size == size && !std::memcmp(known.copy.get(), value, size))
      return known.copy.get();
  constants_.push_back({value, size, std::unique_ptr<char[]>(new char[size])});
  std::memcpy(constants_.back().copy.get(), value, size);
  return constants_.back().copy.get();
}

void Recording::add(Operator op, int outputs, int count, void** data, int* ranks, int64_t** shapes,
                    const char** dtypes) {
  Call call{op, outputs, std::vector<void*>(data, data + count), {}, std::vector<int>(ranks, ranks + count), {}, {},
            {}, {}};
  for (int i = 0; i < count; ++i) {
    call.shapes.emplace_back(shapes[i], shapes[i] + ranks[i]);
    call.dtypes.emplace_back(dtypes[i]);
    const char* start = static_cast<const char*>(data[i]);
    const int64_t size = bytes_of(call.dtypes[i], call.shapes[i]);
    const bool is_output = i >= count - outputs, lasting = !is_output && lasts(start);
    if (is_output) results_.push_back({start, size});
    call.moved.push_back(is_output || (!lasting && is_result(start)));
    if (!lasting && !call.moved[i]) call.data[i] = constant(start, size);
  }
  calls_.push_back(std::move(call));
}

bool Recording::finish() {
  if (calls_.empty()) return false;
  results_ = united(std::move(results_));
  for (const Range& range : results_) {
    memory_.emplace_back(new char[range.size + kAlignment]);
    void* place = memory_.back().get();
    size_t room = range.size + kAlignment;
    places_.push_back(static_cast<char*>(std::align(kAlignment, range.size, place, room)));
  }
  for (Call& call : calls_) {
    for (size_t i = 0; i < call.data.size(); ++i) {
      const char* start = static_cast<const char*>(call.data[i]);
      for (size_t r = 0; call.moved[i] && r < results_.size(); ++r)
        if (within(results_[r], start)) call.data[i] = places_[r] + (start - results_[r].start);
      call.shape_pointers.push_back(call.shapes[i].data());
      call.dtype_pointers.push_back(call.dtypes[i].c_str());
    }
  }
  return true;
}

int Recording::run() {
  for (Call& call : calls_) {
    const int count = static_cast<int>(call.data.size());
    const int status = call.op(count, call.data.data(), call.ranks.data(), call.shape_pointers.data(),
                               call.dtype_pointers.data(), nullptr, nullptr);
    if (status) return status;
  }
  return 0;
}

void* Recording::replayed(const void* address) const {
  const char* start = static_cast<const char*>(address);
  for (size_t r = 0; r < places_.size(); ++r)
    if (within(results_[r], start)) return places_[r] + (start - results_[r].start);
  return lasts(start) ? const_cast<void*>(address) : nullptr;
}

}  // namespace capture

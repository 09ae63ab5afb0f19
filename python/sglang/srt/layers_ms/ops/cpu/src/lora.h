// What low-rank adapters add to a product: rows of one adapter together, whichever requests they are of.
#pragma once
#include <algorithm>
#include <vector>

#include "attention.h"
#include "elementwise.h"
#include "linear.h"
#include "scratch.h"

namespace KERNEL_ISA {

constexpr int64_t kLoraRows = 64;                        // rows of x that a task takes, at most
constexpr int64_t kLoraRanks = 8;                        // rows of A that it meets
constexpr int64_t kLoraColumns = 512;                    // columns of y that it adds to
constexpr int kLoraVectors = kRegisters * kLanes / 128;  // of 16 columns, whose sums four rows keep in registers

// Rows of one adapter, and its rank in this layer.
struct LoraRun {
  int64_t slot, rank;
  std::vector<int64_t> rows;
};

inline std::vector<LoraRun> lora_runs(const calls::add_lora& a) {
  std::vector<LoraRun> runs;
  for (int64_t row = 0; row < a.tokens; ++row) {
    const int64_t slot = a.slots[row];
    if (slot < 0 || a.ranks[slot] == 0) continue;
    auto run = std::find_if(runs.begin(), runs.end(), [&](const LoraRun& one) {
      return one.slot == slot && static_cast<int64_t>(one.rows.size()) < kLoraRows;
    });
    if (run == runs.end()) run = runs.insert(run, {slot, a.ranks[slot], {}});
    run->rows.push_back(row);
  }
  return runs;
}

// hidden[i] = x(i) [k] * `count` rows of a matrix, which are `apart`, for so many rows of x.
template <typename T, typename X>
inline void lora_dots(int64_t rows, X&& x, const T* matrix, int64_t apart, int64_t count, int64_t k, float* hidden,
                      int64_t stride) {
  for (int64_t first = 0; first < count; first += 4) {
    const T* four[4];  // the last again where there are fewer
    for (int64_t r = 0; r < 4; ++r) four[r] = matrix + std::min(first + r, count - 1) * apart;
    const int64_t found = std::min<int64_t>(4, count - first);
    in_fours(rows, [&](int64_t at, auto m) {
      const T* some[m.value];
      for (int i = 0; i < m.value; ++i) some[i] = x(at + i);
      float sums_of[m.value][4];
      dots_of_rows<m.value>(some, four, k, sums_of);
      for (int i = 0; i < m.value; ++i) std::copy_n(sums_of[i], found, hidden + (at + i) * stride + first);
    });
  }
}

// y [n] += hidden [rank] * B [rank][n], rows of which are `apart`. Y: float, or the dtype of activations.
template <typename T, typename Y>
inline void lora_add(const float* hidden, const T* matrix, int64_t apart, int64_t rank, Y* y, int64_t n) {
  over(
      n,
      [&](int64_t i) {
        f32x16 total{};
        for (int64_t k = 0; k < rank; ++k) total += hidden[k] * load(matrix + k * apart + i);
        store(y + i, load(y + i) + total);
      },
      [&](int64_t i) {
        float total = 0;
        for (int64_t k = 0; k < rank; ++k) total += hidden[k] * to_float(matrix[k * apart + i]);
        y[i] = from_float<Y>(to_float(y[i]) + total);
      });
}

// out[M rows][V * 16 columns from `column` on] = y + hidden[M][rank] * B[rank][columns].
template <int M, int V, typename T>
inline void lora_tile(const T* const (&y)[M], T* const (&out)[M], int64_t column, const float* hidden, int64_t stride,
                      const T* matrix, int64_t apart, int64_t rank) {
  f32x16 total[M][V] = {};
  for (int64_t k = 0; k < rank; ++k) {
    f32x16 values[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) values[v] = load(matrix + k * apart + column + v * 16);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const f32x16 value = splat(hidden[m * stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) total[m][v] += value * values[v];
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) {
      const int64_t at = column + v * 16;
      store(out[m] + at, load(y[m] + at) + total[m][v]);
    }
}

// The columns first to last of a part of B, [rank][part], whose first column is that of y. A few rows at a time, along
// their columns: they are read and written in the order of their memory, while B stays in the first cache.
template <typename T>
inline void lora_expand(const calls::add_lora& a, const LoraRun& run, const T* matrix, int64_t part, int64_t begin,
                        int64_t first, int64_t last, const float* hidden, int64_t stride) {
  in_fours(run.rows.size(), [&](int64_t at, auto m) {
    const T* y[m.value];
    T* out_[m.value];
    for (int i = 0; i < m.value; ++i) {
      const int64_t place = run.rows[at + i] * a.size + begin;
      y[i] = in<T>(a.y) + place, out_[i] = out<T>(a.out) + place;
    }
    const float* of = hidden + at * stride;
    int64_t column = first;
    for (; column + kLoraVectors * 16 <= last; column += kLoraVectors * 16)
      lora_tile<m.value, kLoraVectors>(y, out_, column, of, stride, matrix, part, run.rank);
    for (; column + 16 <= last; column += 16)
      lora_tile<m.value, 1>(y, out_, column, of, stride, matrix, part, run.rank);
    for (; column < last; ++column)
      for (int i = 0; i < m.value; ++i) {
        float total = 0;
        for (int64_t k = 0; k < run.rank; ++k) total += of[i * stride + k] * to_float(matrix[k * part + column]);
        out_[i][column] = from_float<T>(to_float(y[i][column]) + total);
      }
  });
}

// A piece of a run's work: some rows of A, or some columns of y, of one part.
struct LoraTask {
  int64_t run, part, first, last;
};

template <typename T>
void add_lora_as(const calls::add_lora& a) {
  const std::vector<LoraRun> runs = lora_runs(a);
  std::vector<int64_t> untouched;
  for (int64_t row = 0; row < a.tokens; ++row)
    if (a.slots[row] < 0 || a.ranks[a.slots[row]] == 0) untouched.push_back(row);
  over_rows(untouched.size(), a.size, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      std::copy_n(in<T>(a.y) + untouched[i] * a.size, a.size, out<T>(a.out) + untouched[i] * a.size);
  });
  if (runs.empty()) return;
  const int64_t stride = a.parts_count * a.rank, all = static_cast<int64_t>(runs.size());
  float* hidden = scratch<Purpose::lora, float>(all * kLoraRows * stride);
  std::vector<LoraTask> shrink, expand;
  for (int64_t run = 0; run < all; ++run)
    for (int64_t part = 0; part < a.parts_count; ++part) {
      for (int64_t first = 0; first < runs[run].rank; first += kLoraRanks)
        shrink.push_back({run, part, first, std::min(runs[run].rank, first + kLoraRanks)});
      for (int64_t first = 0; first < a.parts[part]; first += kLoraColumns)
        expand.push_back({run, part, first, std::min<int64_t>(a.parts[part], first + kLoraColumns)});
    }
  std::vector<int64_t> begins(a.parts_count, 0);
  for (int64_t part = 1; part < a.parts_count; ++part) begins[part] = begins[part - 1] + a.parts[part - 1];
  pool::each(shrink.size(), [&](int64_t task) {
    const auto [run, part, first, last] = shrink[task];
    const T* matrix = in<T>(a.lora_a) + ((part * a.max_loras + runs[run].slot) * a.rank + first) * a.width;
    auto x = [&](int64_t i) { return in<T>(a.x) + runs[run].rows[i] * a.width; };
    lora_dots(runs[run].rows.size(), x, matrix, a.width, last - first, a.width,
              hidden + run * kLoraRows * stride + part * a.rank + first, stride);
  });
  pool::each(expand.size(), [&](int64_t task) {
    const auto [run, part, first, last] = expand[task];
    const int64_t width = a.parts[part];
    const T* matrix = in<T>(a.lora_b) + (begins[part] * a.max_loras + runs[run].slot * width) * a.rank;
    const float* of = hidden + run * kLoraRows * stride + part * a.rank;
    lora_expand(a, runs[run], matrix, width, begins[part], first, last, of, stride);
  });
}

}  // namespace KERNEL_ISA

// Mixture of experts: which experts a token goes to, and the products of tokens with their experts' matrices.
//
// Each matrix of a stack is packed by itself as linear.h says. Tokens are sorted by expert; a task multiplies the rows
// of one expert with some blocks of its columns, so that few tokens read each weight they need once, at the memory's
// speed, and many share it. The sums of a token are in an order that no other token changes.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "elementwise.h"
#include "experts_lora.h"
#include "linear.h"

namespace KERNEL_ISA {

constexpr int64_t kScratch = 128 << 20;  // bytes for the rows of the tokens that are taken together
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kRun = 4;      // pieces of an expert that a task takes one after the other
constexpr int kClamped = 3;      // activation; the others are those of act_and_mul
constexpr int kSquaredRelu = 4;  // of up alone: there is no gate
constexpr int kSiluClamped = 5;

// The scores of one token: softmax or sigmoid of its logits, with room for a whole last vector.
inline void score(const calls::route& a, const float* logits, float* scores) {
  float most = -INFINITY, total = 0;
  for (int64_t i = 0; i < a.experts; ++i) {
    scores[i] = a.soft_cap > 0 ? a.soft_cap * std::tanh(logits[i] / a.soft_cap) : logits[i];
    most = std::max(most, scores[i]);
  }
  for (int64_t i = 0; i < a.experts; i += 16) {
    const f32x16 x = load(scores + i);
    store(scores + i, a.sigmoid ? 1.0f / (1.0f + exp(-x)) : exp(x - most));
  }
  if (a.sigmoid) return;
  for (int64_t i = 0; i < a.experts; ++i) total += scores[i];
  for (int64_t i = 0; i < a.experts; ++i) scores[i] /= total;
}

// The place of the largest value, the first of equal ones, among those that are not taken; takes it.
inline int64_t take_largest(const float* values, int64_t count, bool* taken) {
  int64_t best = -1;
  for (int64_t i = 0; i < count; ++i)
    if (!taken[i] && (best < 0 || values[i] > values[best])) best = i;
  taken[best] = true;
  return best;
}

// Takes all experts but those of the best groups.
inline void limit_groups(const calls::route& a, const float* choice, bool* taken) {
  const int64_t size = a.experts / a.groups;
  std::vector<float> scores(a.groups);
  const std::unique_ptr<bool[]> seen(new bool[a.experts]()), kept(new bool[a.groups]());
  for (int64_t group = 0; group < a.groups; ++group)
    for (int64_t i = 0; i < a.group_top; ++i)
      scores[group] += choice[group * size + take_largest(choice + group * size, size, seen.get() + group * size)];
  for (int64_t i = 0; i < a.top_groups; ++i) take_largest(scores.data(), a.groups, kept.get());
  for (int64_t i = 0; i < a.experts; ++i) taken[i] = !kept[i / size];
}

inline void route_token(const calls::route& a, int64_t token, float* scores, float* choice, bool* taken) {
  score(a, a.logits + token * a.experts, scores);
  for (int64_t i = 0; i < a.experts; ++i) choice[i] = scores[i] + (a.bias ? a.bias[i] : 0.0f);
  std::fill(taken, taken + a.experts, false);
  if (a.groups > 1) limit_groups(a, choice, taken);
  float* weights = a.weights + token * a.top_k;
  int32_t* chosen = a.chosen + token * a.top_k;
  float total = 1e-20f;  // no division by zero where all scores vanish
  for (int64_t i = 0; i < a.top_k; ++i) {
    chosen[i] = static_cast<int32_t>(take_largest(choice, a.experts, taken));
    total += weights[i] = scores[chosen[i]];
  }
  for (int64_t i = 0; i < a.top_k; ++i) weights[i] = (a.renormalize ? weights[i] / total : weights[i]) * a.scaling;
}

inline void route_as(const calls::route& a) {
  over_rows(a.tokens, a.experts * a.top_k, [&](int64_t first, int64_t last) {
    std::vector<float> scores(a.experts + 16), choice(a.experts);
    const std::unique_ptr<bool[]> taken(new bool[a.experts]);
    for (int64_t token = first; token < last; ++token) route_token(a, token, scores.data(), choice.data(), taken.get());
  });
}

inline void route_sparsemixer_as(const calls::route_sparsemixer& a) {
  over_rows(a.tokens, 2 * a.experts, [&](int64_t first, int64_t last) {
    const std::unique_ptr<bool[]> taken(new bool[a.experts]);
    for (int64_t token = first; token < last; ++token) {
      const float* logits = a.logits + token * a.experts;
      std::fill(taken.get(), taken.get() + a.experts, false);
      for (int64_t place = 2 * token; place < 2 * token + 2; ++place) {
        const int64_t best = take_largest(logits, a.experts, taken.get());
        const float most = logits[best];
        float total = 1;  // of the expert itself
        for (int64_t i = 0; i < a.experts; ++i)
          if (!taken[i] && most - logits[i] <= 2 * a.jitter * std::max(std::fabs(logits[i]), most))
            total += std::exp(logits[i] - most);
        a.weights[place] = 1 / total;
        a.chosen[place] = static_cast<int32_t>(best);
      }
    }
  });
}

// Memory of this thread for the rows of the tokens that are taken together, kept from call to call: the system takes a
// tenth of a prefill's time to hand out as much anew.
inline char* kept_memory(int64_t bytes) {
  struct Kept {
    char* memory = nullptr;
    int64_t size = 0;
    ~Kept() { std::free(memory); }
  };
  thread_local Kept own;
  if (own.size < bytes) {
    std::free(own.memory);
    own.size = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    own.memory = static_cast<char*>(std::aligned_alloc(kHugePage, own.size));
    if (!own.memory) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(own.memory, own.size, MADV_HUGEPAGE);  // a hint
#endif
  }
  return own.memory;
}

// Columns of a packed matrix that are multiplied together.
struct Columns {
  int64_t first, width;
  bool packed;
};

inline int64_t column_blocks(int64_t n, int64_t k) {
  const int64_t packed = packable(k) ? n / kGroup * kGroup : 0;
  return packed / kWide + packed % kWide / kGroup + (n - packed + kGroup - 1) / kGroup;
}

inline Columns columns_of(int64_t block, int64_t n, int64_t k) {
  const int64_t packed = packable(k) ? n / kGroup * kGroup : 0, wide = packed / kWide;
  if (block < wide) return {block * kWide, kWide, true};
  const int64_t first = wide * kWide + (block - wide) * kGroup;
  return {first, std::min<int64_t>(kGroup, n - first), first < packed};
}

// y [rows, width of the columns] = x [rows, k] * these columns of w, + bias; rows of y are `stride` apart.
template <typename T>
inline void multiply_columns(const T* x, const T* w, const T* bias, float* y, int64_t rows, int64_t k, int64_t stride,
                             const Columns& c, const T* ahead) {
  const T *block = w + c.first * k, *added = bias ? bias + c.first : nullptr;
  if (c.packed && c.width == kWide) return product<4>(rows, x, block, added, y, k, stride, ahead);
  if (c.packed) return product<1>(rows, x, block, added, y, k, stride);
  all_dots(x, w, rows, k, c.first, c.first + c.width, [&](int64_t row, int64_t column, float found) {
    y[row * stride + column - c.first] = found + (bias ? to_float(bias[column]) : 0.0f);
  });
}

// The matrices that a mixture multiplies by.
enum class Part { gate, up, down };

// Stacks of matrices of the rows' dtype, or of another one.
template <typename T, typename W>
class PlainStacks {
 public:
  explicit PlainStacks(const Experts& a) : a_(a) {}

  // Rows that are multiplied from now on: by gate and up, or by down.
  void take(Part, const T* x, int64_t) { x_ = x; }
  static int64_t blocks(int64_t n, int64_t k) { return column_blocks(n, k); }
  static Columns columns(int64_t block, int64_t n, int64_t k) { return columns_of(block, n, k); }

  // y [count, width of the columns] = `count` rows, from `row` on, times these columns of an expert's matrix, + its
  // bias; rows of y are `stride` apart. fetch: the next columns will be multiplied after these.
  void product(Part part, int64_t expert, int64_t row, int64_t count, const Columns& c, float* y, int64_t stride,
               bool fetch) const {
    const bool down = part == Part::down;
    const int64_t n = down ? a_.width : a_.size, k = down ? a_.size : a_.width;
    const bool ungated = a_.activation == kSquaredRelu;
    const int64_t matrix = down || ungated ? expert : expert * 2 + (part == Part::up);
    const W* w = in<W>(down ? a_.down : a_.gate_up) + matrix * n * k;
    const void* biases = down ? a_.down_bias : a_.gate_up_bias;
    // Behind these columns of a gate are those of up, and behind those the next ones of the gate.
    const W* next = w + (c.first + c.width) * k;
    if (part == Part::gate) next = w + (n + c.first) * k;
    if (part == Part::up && !ungated) next -= n * k;
    const bool fetches = count > kMostRows && (fetch || part == Part::gate);
    multiply_columns(x_ + row * k, w, biases ? in<T>(biases) + matrix * n : nullptr, y, count, k, stride, c,
                     fetches ? next : nullptr);
  }

 private:
  const Experts& a_;
  const T* x_ = nullptr;
};

template <typename Call>
inline f32x16 gated(const Call& a, f32x16 gate, f32x16 up) {
  if (a.activation == kSquaredRelu) return up > 0.0f ? up * up : f32x16{};
  if (a.activation == kSiluClamped) return silu_and_mul_clamped(gate, up, a.limit);
  if (a.activation != kClamped) return activate(a.activation, gate) * up;
  const f32x16 limit = splat(a.limit);
  gate = gate > limit ? limit : gate;
  up = up > limit ? limit : up;
  up = up < -limit ? -limit : up;
  return activate(0, gate * a.alpha) / a.alpha * (up + 1.0f);  // gate * sigmoid(alpha * gate) * (up + 1)
}

// Some tokens, sorted by expert: a row for each expert of each token that is in the stacks. T: of activations; Call:
// the operator's arguments.
template <typename T, typename Call, typename Stacks>
class SortedTokens {
  using Lora = SortedLora<T, Call>;

 public:
  SortedTokens(const Call& a, int64_t first, int64_t count)
      : a_(a), stacks_(a), lora_(a), first_(first), count_(count), row_of_(count * a.top_k, -1) {
    const int64_t chosen = row_of_.size();
    std::vector<int64_t> next(a.experts + 1);
    for (int64_t i = 0; i < chosen; ++i)
      if (const int64_t expert = held(i); expert >= 0) ++next[expert + 1];
    for (int64_t expert = 0; expert < a.experts; ++expert) {
      for (int64_t done = 0; done < next[expert + 1]; done += kRowBlock)
        pieces_.push_back({expert, next[expert] + done, std::min(kRowBlock, next[expert + 1] - done)});
      next[expert + 1] += next[expert];
    }
    rows_ = next[a.experts];
    token_of_.resize(rows_);
    found_ = reinterpret_cast<float*>(kept_memory(rows_ * bytes_of_row(a)));
    float* hidden = found_ + rows_ * a.width;
    x_ = reinterpret_cast<T*>(hidden + rows_ * Lora::floats_of_row(a));
    inner_ = x_ + rows_ * a.width;
    lora_.begin(rows_, hidden);
    for (int64_t i = 0; i < chosen; ++i) {
      const int64_t expert = held(i);
      if (expert < 0) continue;
      row_of_[i] = next[expert]++;
      token_of_[row_of_[i]] = first + i / a.top_k;
      lora_.set(row_of_[i], expert, token_of_[row_of_[i]]);
    }
  }

  static int64_t bytes_of_row(const Call& a) {
    return (a.width + Lora::floats_of_row(a)) * 4 + (a.width + a.size) * sizeof(T);
  }

  void run() {
    over_rows(rows_, a_.width, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row)
        std::memcpy(x_ + row * a_.width, in<T>(a_.x) + token_of_[row] * a_.width, a_.width * sizeof(T));
    });
    lora_.shrink(false, x_);
    stacks_.take(Part::gate, x_, rows_);
    each_block(a_.size, a_.width, [&](const Piece& piece, int64_t block, bool fetch) { inner(piece, block, fetch); });
    lora_.shrink(true, inner_);
    stacks_.take(Part::down, inner_, rows_);
    each_block(a_.width, a_.size, [&](const Piece& piece, int64_t block, bool fetch) { outer(piece, block, fetch); });
    over_rows(count_, a_.width * a_.top_k, [&](int64_t first, int64_t last) {
      for (int64_t token = first; token < last; ++token) combine(token);
    });
  }

 private:
  struct Piece {
    int64_t expert, row, count;
  };

  // The place in the stacks of a chosen expert, -1 where it is in none of them.
  int64_t held(int64_t chosen) const {
    const int64_t expert = a_.chosen[first_ * a_.top_k + chosen] - a_.first;
    return expert < 0 || expert >= a_.experts ? -1 : expert;
  }

  // f(piece, block, whether the next block should be fetched) for all column blocks of a [n, k] matrix of each expert
  // in use. Pieces of an expert share a block, which is still in the cache, and the last of them fetches the next one.
  template <typename F>
  void each_block(int64_t n, int64_t k, F&& f) {
    const int64_t blocks = Stacks::blocks(n, k), pieces = pieces_.size();
    const int64_t together = std::clamp<int64_t>(blocks * pieces / (4 * pool::threads()), 1, kTogether);
    struct Task {
      int64_t first_piece, last_piece, first_block, last_block;
    };
    std::vector<Task> tasks;
    tasks.reserve(pieces * ((blocks + together - 1) / together));
    for (int64_t piece = 0, end = 0; piece < pieces; piece = end) {
      while (end < pieces && pieces_[end].expert == pieces_[piece].expert && end - piece < kRun) ++end;
      for (int64_t block = 0; block < blocks; block += together)
        tasks.push_back({piece, end, block, std::min(blocks, block + together)});
    }
    pool::each(tasks.size(), [&](int64_t number) {
      const Task& task = tasks[number];
      for (int64_t block = task.first_block; block < task.last_block; ++block)
        for (int64_t piece = task.first_piece; piece < task.last_piece; ++piece)
          f(pieces_[piece], block, piece + 1 == task.last_piece && block + 1 < task.last_block);
    });
  }

  // Gate and up of some columns, or up alone, activated.
  void inner(const Piece& piece, int64_t block, bool fetch) {
    const Columns c = Stacks::columns(block, a_.size, a_.width);
    alignas(64) float gate[kRowBlock * kWide], up[kRowBlock * kWide];
    const bool ungated = a_.activation == kSquaredRelu;
    if (!ungated) stacks_.product(Part::gate, piece.expert, piece.row, piece.count, c, gate, kWide, fetch);
    stacks_.product(Part::up, piece.expert, piece.row, piece.count, c, up, kWide, fetch);
    lora_.add(0, piece.row, piece.count, c.first, c.width, gate, kWide);
    lora_.add(1, piece.row, piece.count, c.first, c.width, up, kWide);
    for (int64_t row = 0; row < piece.count; ++row) {
      const float *u = up + row * kWide, *g = ungated ? u : gate + row * kWide;
      T* y = inner_ + (piece.row + row) * a_.size + c.first;
      over(
          c.width, [&](int64_t i) { store(y + i, gated(a_, load(g + i), load(u + i))); },
          [&](int64_t i) { y[i] = from_float<T>(gated(a_, splat(g[i]), splat(u[i]))[0]); });
    }
  }

  void outer(const Piece& piece, int64_t block, bool fetch) {
    const Columns c = Stacks::columns(block, a_.width, a_.size);
    float* y = found_ + piece.row * a_.width + c.first;
    stacks_.product(Part::down, piece.expert, piece.row, piece.count, c, y, a_.width, fetch);
    lora_.add(2, piece.row, piece.count, c.first, c.width, y, a_.width);
  }

  void combine(int64_t token) {
    const int64_t* rows = row_of_.data() + token * a_.top_k;
    const float* weights = a_.weights + (first_ + token) * a_.top_k;
    T* y = static_cast<T*>(a_.out) + (first_ + token) * a_.width;
    over(
        a_.width,
        [&](int64_t i) {
          f32x16 total{};
          for (int64_t j = 0; j < a_.top_k; ++j)
            if (rows[j] >= 0) total += weights[j] * load(found_ + rows[j] * a_.width + i);
          store(y + i, total);
        },
        [&](int64_t i) {
          float total = 0;
          for (int64_t j = 0; j < a_.top_k; ++j)
            if (rows[j] >= 0) total += weights[j] * found_[rows[j] * a_.width + i];
          y[i] = from_float<T>(total);
        });
  }

  const Call& a_;
  Stacks stacks_;
  Lora lora_;
  int64_t first_, count_, rows_;
  std::vector<int64_t> row_of_, token_of_;  // the row of each expert of each token, or -1, and the token of each row
  std::vector<Piece> pieces_;               // at most kRowBlock rows of one expert, by expert
  float* found_;                            // [rows, width]: what an expert makes of a token
  T *x_, *inner_;                           // [rows, width], [rows, size]
};

template <typename T, typename Stacks, typename Call>
void mix_experts(const Call& a) {
  using Tokens = SortedTokens<T, Call, Stacks>;
  const int64_t most = std::max<int64_t>(1, kScratch / (a.top_k * Tokens::bytes_of_row(a)));
  for (int64_t first = 0; first < a.tokens; first += most) Tokens(a, first, std::min(most, a.tokens - first)).run();
}

template <typename T, typename W>
void fused_experts_as(const Experts& a) {
  mix_experts<T, PlainStacks<T, W>>(a);
}

template <typename T>
void add_gated_as(const calls::add_gated& a) {
  const T *x = in<T>(a.x), *other = in<T>(a.y), *gate = in<T>(a.gate);
  T* y = out<T>(a.out);
  const int64_t size = a.size;
  over_rows(a.tokens, size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const float factor = 1.0f / (1.0f + std::exp(-to_float(gate[row])));
      const int64_t at = row * size;
      over(
          size, [&](int64_t i) { store(y + at + i, load(x + at + i) + factor * load(other + at + i)); },
          [&](int64_t i) { y[at + i] = from_float<T>(to_float(x[at + i]) + factor * to_float(other[at + i])); });
    }
  });
}

}  // namespace KERNEL_ISA

// Of a block of a quantized matrix: factors of its groups of columns, what their sums are worth, and its codes decoded.
#pragma once
#include "linear.h"
#include "quant_rows.h"

namespace KERNEL_ISA {

// Of some neighboring groups of columns: what their sums are multiplied by, and what is added for each unit of the sum
// of a row's columns, or, where codes are integers, taken off them: [groups][64]. Converted together, before sums take
// all registers.
constexpr int64_t kFactors = 8;
struct Factors {
  alignas(64) float scale[kFactors * kBlock];
  alignas(64) float offset[kFactors * kBlock];
};

template <typename F>
__attribute__((noinline)) void each_lanes(int64_t count, F&& f) {
  for (int64_t at = 0; at < count; at += kLanes) f(at);
}

inline void load_all(const void* from, Storage type, int64_t index, int64_t count, float* to) {
  const auto copy = [&](auto* typed) {
    each_lanes(count, [=](int64_t at) { store_lanes(to + at, load_lanes(typed + index + at)); });
  };
  switch (type) {
    case Storage::f32: return copy(static_cast<const float*>(from));
    case Storage::f16: return copy(static_cast<const f16*>(from));
    case Storage::bf16: return copy(static_cast<const bf16*>(from));
    case Storage::u8:
    case Storage::i8: break;
  }
  each_lanes(count, [=](int64_t at) { store_lanes(to + at, load_powers(from, index + at)); });
}

// The same of super-blocks, each of so many groups.
inline void load_supers(const void* from, int64_t groups, int64_t group, int64_t count, float* to) {
  const char* super = static_cast<const char*>(from) + group / groups * (groups + 2) * kBlock;
  for (int64_t own = group % groups; count > 0; ++own, count -= kBlock, to += kBlock) {
    if (own == groups) own = 0, super += (groups + 2) * kBlock;
    const f16* whole = reinterpret_cast<const f16*>(super + groups * kBlock);
    each_lanes(kBlock, [=](int64_t at) {
      const Ints factors = (load_bytes(super + own * kBlock, at) ^ 128) - 128;
      store_lanes(to + at, __builtin_convertvector(factors, Lanes) * load_lanes(whole + at));
    });
  }
}

// Adds up what the sums of groups of columns are worth. D: decoder.
template <typename D>
struct Finish {
  const QuantMatrix& a;
  const QuantBlock& block;
  const PreparedRows& rows;
  const bool centers = block.offset && a.offset_type == Storage::u8;
  const bool adds = block.offset && !centers;

  void load_factors(const void* from, Storage type, int64_t group, int64_t count, float* to) const {
    if (type == Storage::i8)
      load_supers(from, kSuperBlock / a.group, group, count, to);
    else
      load_all(from, type, group * kBlock, count, to);
  }

  void load(int64_t group, Factors& to) const {
    const int64_t index = group * kBlock, count = std::min(kFactors, a.groups() - group) * kBlock;
    load_factors(block.scale, a.scale_type, group, count, to.scale);
    if (D::kInteger && halves_of(a.kind) > 1)
      each_lanes(count, [&to](int64_t at) { store_lanes(to.scale + at, load_lanes(to.scale + at) * 0.5f); });
    if (adds) load_factors(block.offset, a.offset_type, group, count, to.offset);
    if (!centers) return;
    const float zero = static_cast<float>(zero_of(a.kind));
    each_lanes(count, [=, &to](int64_t at) {
      const Ints own = load_bytes(block.offset, index + at);
      if constexpr (D::kInteger)
        *reinterpret_cast<Ints*>(to.offset + at) = own * halves_of(a.kind) + (center_of(a.kind) - D::kTaken);
      else
        store_lanes(to.offset + at, (zero - __builtin_convertvector(own, Lanes)) * load_lanes(to.scale + at));
    });
  }

  // sums [M][64], lanes `at` on, of which `part` has the sums at p; factors: of the group. row: the first of the M
  // ones.
  template <int M, int P>
  ALWAYS_INLINE void add(const Factors& factors, int64_t factor, int64_t segment, int64_t at,
                         const typename D::Sum (&part)[M][P], int p, int64_t row, float* sums) const {
    const Lanes scale = load_lanes(factors.scale + factor + at);
    const float* offset = factors.offset + factor + at;
    const int64_t own = row * rows.segments + segment;
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const int64_t of_row = own + m * rows.segments;
      const Lanes before = load_lanes(sums + m * kBlock + at);
      Lanes total;
      if constexpr (!D::kInteger) {
        total = multiply_add(part[m][p], scale, before);
      } else {
        // Of a row with a NaN or an infinity the sum is any integer: it wraps, and the step is NaN.
        Bits whole = (Bits)part[m][p];
        if (centers) whole -= load_bits(offset) * static_cast<uint32_t>(rows.int_sums[of_row]);
        total = multiply_add(__builtin_convertvector((Ints)whole, Lanes), scale * rows.steps[of_row], before);
      }
      if (D::kInteger ? adds : block.offset != nullptr)
        total = multiply_add(load_lanes(offset), splat_lanes(rows.sums[of_row]), total);
      store_lanes(sums + m * kBlock + at, total);
    }
  }
};

// What so many words of 16 rows are of, into the second cache.
template <int words>
ALWAYS_INLINE void fetch(const uint8_t* codes) {
#pragma GCC unroll 5
  for (int i = 0; i < words; ++i) __builtin_prefetch(codes + i * 4 * kBlock, 0, 2);
}

// keep(operand, its number, which registers of rows) for `columns` of a block's codes.
template <typename D, typename F>
inline void each_operand(const D& d, const uint8_t* codes, int64_t columns, F&& keep) {
  constexpr int kStep = D::kOperands * D::kPer;
  for (int64_t i = 0, first = 0; i < columns; i += kStep, codes += D::kWords * 4 * kBlock, first += D::kOperands)
    for (int p = 0; p < kBlock / kLanes; ++p) {
      if (p * kLanes % kGroup == 0) fetch<D::kWords>(codes + p * 4 * kLanes + kDistance);
      const auto words = d.unpack(codes + p * 4 * kLanes);
#pragma GCC unroll 32
      for (int t = 0; t < D::kOperands; ++t) keep((Bits)d.operand(words, t), first + t, p);
    }
}

}  // namespace KERNEL_ISA

// Caches in float8 (e4m3fn: a sign, four bits of exponent, three of mantissa; no infinity): Micikevicius et al., 2022.
//
// Every code is a value of bfloat16, float16 and float32. Larger values than the largest become that one.
#pragma once
#include "simd.h"

namespace KERNEL_ISA {

typedef uint8_t u8x16 __attribute__((vector_size(16), aligned(1)));

struct e4m3 {
  uint8_t bits;
};

constexpr uint32_t kNoNumber = 0x7f;          // the code of NaN
constexpr uint32_t kBiases = (127 - 7) << 3;  // between exponents of float32 and of a code, as codes count
constexpr float kLargest = 448.0f, kLeastNormal = 0.015625f, kStep = 0.001953125f;

inline f32x16 load(const e4m3* p) {
  const u32x16 code = __builtin_convertvector(*reinterpret_cast<const u8x16*>(p), u32x16), size = code & 0x7fu;
  const f32x16 normal = (f32x16)((size + kBiases) << 20);
  const f32x16 small = __builtin_convertvector((i32x16)size, f32x16) * kStep;
  u32x16 found = (u32x16)(size < 8u ? small : normal);
  found = size == kNoNumber ? found | 0x7fc00000u : found;
  return (f32x16)(found | (code & 0x80u) << 24);
}

// Rounds to nearest, ties to even.
inline void store(e4m3* p, f32x16 x) {
  const u32x16 bits = (u32x16)x, size = bits & 0x7fffffffu;
  const f32x16 value = (f32x16)size, held = value < kLargest ? value : splat(kLargest);
  const u32x16 u = (u32x16)held;
  const u32x16 normal = ((u + 0x7ffffu + ((u >> 20) & 1u)) >> 20) - kBiases;
  const u32x16 small = (u32x16)(held * (1.0f / kStep) + 8388608.0f) & 0xffu;  // the sum rounds to an integer
  u32x16 code = held < kLeastNormal ? small : normal;
  code = size > 0x7f800000u ? u32x16{} + kNoNumber : code;
  *reinterpret_cast<u8x16*>(p) = __builtin_convertvector(code | (bits >> 24 & 0x80u), u8x16);
}

inline float to_float(e4m3 x) {
  e4m3 codes[16] = {x};
  return load(codes)[0];
}
template <>
inline e4m3 from_float<e4m3>(float x) {
  e4m3 codes[16];
  store(codes, splat(x));
  return codes[0];
}

#if defined(__AVX512BF16__)

// What codes without their signs stand for in bfloat16: lower and upper bytes.
struct Float8Bytes {
  alignas(64) uint8_t lower[128], upper[128];
  Float8Bytes() {
    for (int code = 0; code < 128; ++code) {
      const uint16_t bits = from_float<bf16>(to_float(e4m3{static_cast<uint8_t>(code)})).bits;
      lower[code] = bits & 255, upper[code] = bits >> 8;
    }
  }
};

// to[size] = from[size].
inline void widen_codes(const e4m3* from, bf16* to, int64_t size) {
  static const Float8Bytes bytes;
  const __m512i lower0 = _mm512_load_si512(bytes.lower), lower1 = _mm512_load_si512(bytes.lower + 64);
  const __m512i upper0 = _mm512_load_si512(bytes.upper), upper1 = _mm512_load_si512(bytes.upper + 64);
  const __m512i by_turns = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), signs = _mm512_set1_epi8(-128);
  for (int64_t i = 0; i < size; i += 64) {
    const int64_t left = size - i;
    const __mmask64 there = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
    const __m512i codes = _mm512_maskz_permutexvar_epi64(0xff, by_turns, _mm512_maskz_loadu_epi8(there, from + i));
    const __m512i low = _mm512_permutex2var_epi8(lower0, codes, lower1);
    const __m512i high = _mm512_permutex2var_epi8(upper0, codes, upper1);
    const __m512i whole = _mm512_ternarylogic_epi64(high, codes, signs, 0xf8);  // high | codes & signs
    _mm512_mask_storeu_epi16(to + i, static_cast<__mmask32>(there), _mm512_unpacklo_epi8(low, whole));
    if (left > 32) _mm512_mask_storeu_epi16(to + i + 32, there >> 32, _mm512_unpackhi_epi8(low, whole));
  }
}

#endif

}  // namespace KERNEL_ISA

// Sixteen floats at a time, in GCC's vector extension: the compiler maps them to AVX-512, AVX2 or NEON.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define ALWAYS_INLINE __attribute__((always_inline)) inline

namespace KERNEL_ISA {

typedef float f32x16 __attribute__((vector_size(64), aligned(4)));
typedef uint32_t u32x16 __attribute__((vector_size(64), aligned(4)));
typedef int32_t i32x16 __attribute__((vector_size(64), aligned(4)));
typedef uint16_t u16x16 __attribute__((vector_size(32), aligned(2)));
#if defined(__aarch64__)
typedef __fp16 f16;  // C++ has _Float16 there from GCC 13 on
#else
typedef _Float16 f16;
#endif
typedef f16 f16x16 __attribute__((vector_size(32), aligned(2)));

struct bf16 {
  uint16_t bits;
};

// What one register holds. GCC keeps wider vectors in memory, where a product's sums would be read and written at each
// step: a tenth of the speed under AVX2.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRegisters = 16;
#else
constexpr int kLanes = 4, kRegisters = 32;
#endif
typedef float Lanes __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint16_t ShortLanes __attribute__((vector_size(2 * kLanes), aligned(2)));
typedef f16 HalfLanes __attribute__((vector_size(2 * kLanes), aligned(2)));

// x - 0 is x, whatever x is; x + 0 would be an addition as well, since -0 + 0 is 0.
inline f32x16 splat(float x) { return x - f32x16{}; }
inline Lanes splat_lanes(float x) { return x - Lanes{}; }

// a * b + c, rounded once where the processor can. GCC fuses a product and a sum where both stand in one block only: a
// row's sums would differ with the number of rows beside it.
ALWAYS_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
  return (Lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (Lanes)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

inline f32x16 load(const float* p) { return *reinterpret_cast<const f32x16*>(p); }

inline f32x16 load(const bf16* p) {
#if defined(__AVX512F__)
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const u32x16 wide = (u32x16)_mm512_maskz_cvtepu16_epi32(0xffff, halves);
#else
  const u32x16 wide = __builtin_convertvector(*reinterpret_cast<const u16x16*>(p), u32x16);
#endif
  return (f32x16)(wide << 16);
}

// GCC 12 converts each value of float16 by itself unless it is told how.
#if defined(__F16C__)
inline __m256 widen_halves(const f16* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void narrow_halves(f16* p, __m256 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
#endif

inline f32x16 load(const f16* p) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  typedef float f32x8 __attribute__((vector_size(32)));
  const f32x8 low = (f32x8)widen_halves(p), high = (f32x8)widen_halves(p + 8);
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  return __builtin_convertvector(*reinterpret_cast<const f16x16*>(p), f32x16);
#endif
}

inline void store(float* p, f32x16 x) { *reinterpret_cast<f32x16*>(p) = x; }

// The upper halves of float32, rounded to nearest, ties to even; NaN stays NaN. U: a vector of its bits.
template <typename U>
inline U upper_halves(U u) {
  const U rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, nan = (u >> 16) | 0x40u;
  const U is_nan = (U)((u & 0x7fffffffu) > 0x7f800000u);
  return (is_nan & nan) | (~is_nan & rounded);
}

inline void store(bf16* p, f32x16 x) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
  *reinterpret_cast<u16x16*>(p) = __builtin_convertvector(upper_halves((u32x16)x), u16x16);
#endif
}

inline void store(f16* p, f32x16 x) {
#if defined(__AVX512F__)
  const __m256i halves = _mm512_maskz_cvtps_ph(0xffff, (__m512)x, _MM_FROUND_TO_NEAREST_INT);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
#elif defined(__F16C__)
  narrow_halves(p, (__m256)__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7));
  narrow_halves(p + 8, (__m256)__builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15));
#else
  *reinterpret_cast<f16x16*>(p) = __builtin_convertvector(x, f16x16);
#endif
}

inline Lanes load_lanes(const float* p) { return *reinterpret_cast<const Lanes*>(p); }
inline Lanes load_lanes(const f16* p) {
#if defined(__AVX512F__)
  return load(p);
#elif defined(__F16C__)
  return (Lanes)widen_halves(p);
#else
  return __builtin_convertvector(*reinterpret_cast<const HalfLanes*>(p), Lanes);
#endif
}
inline Lanes load_lanes(const bf16* p) {
#if defined(__AVX512F__)
  return load(p);
#else
  return (Lanes)(__builtin_convertvector(*reinterpret_cast<const ShortLanes*>(p), Bits) << 16);
#endif
}

inline void store_lanes(float* p, Lanes x) { *reinterpret_cast<Lanes*>(p) = x; }
inline void store_lanes(f16* p, Lanes x) {
#if defined(__AVX512F__)
  store(p, x);
#elif defined(__F16C__)
  narrow_halves(p, (__m256)x);
#else
  *reinterpret_cast<HalfLanes*>(p) = __builtin_convertvector(x, HalfLanes);
#endif
}
inline void store_lanes(bf16* p, Lanes x) {
#if defined(__AVX512BF16__)
  store(p, x);
#else
  *reinterpret_cast<ShortLanes*>(p) = __builtin_convertvector(upper_halves((Bits)x), ShortLanes);
#endif
}

inline Bits load_bits(const void* p) { return *static_cast<const Bits*>(p); }

inline float to_float(float x) { return x; }
inline float to_float(f16 x) { return static_cast<float>(x); }
inline float to_float(bf16 x) {
  uint32_t u = static_cast<uint32_t>(x.bits) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
template <typename T>
inline T from_float(float x);
template <>
inline float from_float<float>(float x) {
  return x;
}
template <>
inline f16 from_float<f16>(float x) {
  return static_cast<f16>(x);
}
template <>
inline bf16 from_float<bf16>(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<uint16_t>((u >> 16) | 0x40u)};
  return bf16{static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

// The first `count` values of a vector, and zeros.
template <typename T>
inline f32x16 load_part(const T* p, int64_t count) {
  f32x16 x{};
  for (int64_t i = 0; i < count; ++i) x[i] = to_float(p[i]);
  return x;
}

inline float sum(f32x16 x) {
  typedef float f32x8 __attribute__((vector_size(32)));
  typedef float f32x4 __attribute__((vector_size(16)));
  const f32x8 eight = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  const f32x4 four =
      __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  return (four[0] + four[1]) + (four[2] + four[3]);
}

inline float largest(f32x16 x) {
  typedef float f32x8 __attribute__((vector_size(32)));
  typedef float f32x4 __attribute__((vector_size(16)));
  const f32x8 a = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
  const f32x8 b = __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15), eight = a > b ? a : b;
  const f32x4 c = __builtin_shufflevector(eight, eight, 0, 1, 2, 3);
  const f32x4 d = __builtin_shufflevector(eight, eight, 4, 5, 6, 7), four = c > d ? c : d;
  const float left = four[0] > four[1] ? four[0] : four[1], right = four[2] > four[3] ? four[2] : four[3];
  return left > right ? left : right;
}

// The sums of four vectors.
inline void sums(const f32x16 (&x)[4], float* found) {
  typedef float f32x8 __attribute__((vector_size(32)));
  typedef float f32x4 __attribute__((vector_size(16)));
  f32x8 half[4];
  for (int i = 0; i < 4; ++i)
    half[i] = __builtin_shufflevector(x[i], x[i], 0, 1, 2, 3, 4, 5, 6, 7) +
              __builtin_shufflevector(x[i], x[i], 8, 9, 10, 11, 12, 13, 14, 15);
  f32x8 two[2];  // within each half of a register: pairs of sums of one vector, then of the next
  for (int i = 0; i < 2; ++i)
    two[i] = __builtin_shufflevector(half[2 * i], half[2 * i + 1], 0, 2, 8, 10, 4, 6, 12, 14) +
             __builtin_shufflevector(half[2 * i], half[2 * i + 1], 1, 3, 9, 11, 5, 7, 13, 15);
  const f32x8 all = __builtin_shufflevector(two[0], two[1], 0, 2, 8, 10, 4, 6, 12, 14) +
                    __builtin_shufflevector(two[0], two[1], 1, 3, 9, 11, 5, 7, 13, 15);
  const f32x4 four = __builtin_shufflevector(all, all, 0, 1, 2, 3) + __builtin_shufflevector(all, all, 4, 5, 6, 7);
  std::memcpy(found, &four, sizeof(four));
}

}  // namespace KERNEL_ISA

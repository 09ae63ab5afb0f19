// What the codes of quantized matrices are made, in registers, to be multiplied: float32 for single columns of k, pairs
// of bfloat16, or integers.
//
// A decoder takes a register of words (quant_layout.h), of kLanes rows of the matrix, apart: `unpack` it, then
// `operand` t of kOperands, each of kPer neighboring columns of k; `add` multiplies one by as many values of a row of
// x. All rows of x meet the same operations in the same order, however many they are.
#pragma once
#include <type_traits>

#include "quant_layout.h"

namespace KERNEL_ISA {

typedef uint16_t Halves __attribute__((vector_size(4 * kLanes), aligned(2)));
typedef uint8_t Bytes __attribute__((vector_size(4 * kLanes), aligned(1)));
typedef int8_t SignedBytes __attribute__((vector_size(4 * kLanes), aligned(1)));

// What a code stands for, in float32.
constexpr float kE2M1[] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};
// Quantiles of a normal distribution. Dettmers et al., 2023 (QLoRA).
constexpr float kNF4[] = {-1.0f,
                          -0.6961928009986877f,
                          -0.5250730514526367f,
                          -0.39491748809814453f,
                          -0.28444138169288635f,
                          -0.18477343022823334f,
                          -0.09105003625154495f,
                          0.0f,
                          0.07958029955625534f,
                          0.16093020141124725f,
                          0.24611230194568634f,
                          0.33791524171829224f,
                          0.44070982933044434f,
                          0.5626170039176941f,
                          0.7229568362236023f,
                          1.0f};
constexpr float kIQ4NL[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

inline float e4m3_value(uint32_t code) {
  const uint32_t exponent = code >> 3 & 15, mantissa = code & 7;
  float value = exponent ? std::ldexp(static_cast<float>(8 + mantissa), static_cast<int>(exponent) - 10)
                         : std::ldexp(static_cast<float>(mantissa), -9);
  if ((code & 0x7f) == 0x7f) value = NAN;
  return code & 0x80 ? -value : value;
}

// The value of a code as it lies in a packed matrix.
inline float code_value(Codes kind, uint32_t code) {
  switch (kind) {
    case Codes::int4: return static_cast<float>(code) - 8;
    case Codes::e2m1: return kE2M1[code];
    case Codes::nf4: return kNF4[code];
    case Codes::iq4nl: return kIQ4NL[code];
    case Codes::int8: return static_cast<float>(code) - 128;
    case Codes::e4m3: return e4m3_value(code);
    case Codes::int6: return static_cast<float>(code) - 32;
    case Codes::int5: return static_cast<float>(code) - 16;
    case Codes::uint4:
    case Codes::uint5:
    case Codes::uint8: break;
  }
  return static_cast<float>(code);
}

template <typename T, int count>
struct Table {
  alignas(64) T values[count];
  explicit Table(Codes kind) {
    const int last = (1 << bits_of(kind)) - 1;
    for (int i = 0; i < count; ++i) values[i] = from_float<T>(code_value(kind, i & last));
  }
};

// What bfloat16 leaves of what codes of four bits stand for.
struct RestTable : Table<bf16, 32> {
  explicit RestTable(Codes kind) : Table(kind) {
    for (int i = 0; i < 32; ++i) values[i] = from_float<bf16>(code_value(kind, i & 15) - to_float(values[i]));
  }
};

// The lower bytes of what codes stand for in bfloat16, then the upper ones.
struct SplitTable {
  alignas(64) uint8_t bytes[512];
  explicit SplitTable(Codes kind) {
    const Table<bf16, 256> whole(kind);
    for (int i = 0; i < 256; ++i) {
      bytes[i] = whole.values[i].bits & 255;
      bytes[256 + i] = whole.values[i].bits >> 8;
    }
  }
};

template <typename Of>
inline const Of& table_of(Codes kind) {  // of all kinds, made once
  static const Of tables[kCodes] = {
#define ROW(name, bits) Of(Codes::name),
      CODES(ROW)
#undef ROW
  };
  return tables[static_cast<int>(kind)];
}

template <typename T>
inline const T* values_of(Codes kind) {  // four bits
  return table_of<Table<T, 16>>(kind).values;
}

constexpr int kDecodedSums = kRegisters / 2;  // registers for sums beside tables and what is decoded

ALWAYS_INLINE Lanes add_product(Lanes sum, Lanes column, const float* x) { return sum + *x * column; }

// Single columns of codes as float32.
struct FloatColumns {
  static constexpr int kPer = 1, kSums = kDecodedSums;
  static constexpr bool kInteger = false;
  using Row = float;
  using Sum = Lanes;
  using Operand = Lanes;
  ALWAYS_INLINE static Lanes add(Lanes sum, Lanes column, const float* x) { return add_product(sum, column, x); }
};

// Four bits, by a table.
struct NibbleLanes : FloatColumns {
  static constexpr int kOperands = 8, kBits = 4, kWords = 1, kTables = 2;
#if defined(__AVX512F__)
  Lanes values;
  explicit NibbleLanes(Codes kind) : values(load_lanes(values_of<float>(kind))) {}
  ALWAYS_INLINE Lanes look_up(Bits words) const { return __builtin_shuffle(values, (Ints)words); }  // the lowest bits
#elif defined(__AVX2__)
  __m256 low, high;
  explicit NibbleLanes(Codes kind)
      : low(_mm256_load_ps(values_of<float>(kind))), high(_mm256_load_ps(values_of<float>(kind) + 8)) {}
  ALWAYS_INLINE Lanes look_up(Bits words) const {
    const __m256 first = _mm256_permutevar8x32_ps(low, (__m256i)words);
    const __m256 second = _mm256_permutevar8x32_ps(high, (__m256i)words);
    return (Lanes)_mm256_blendv_ps(first, second, (__m256)(words << 28));
  }
#elif defined(__aarch64__)
  uint8x16x4_t values;
  explicit NibbleLanes(Codes kind) : values(vld1q_u8_x4(reinterpret_cast<const uint8_t*>(values_of<float>(kind)))) {}
  ALWAYS_INLINE Lanes look_up(Bits words) const {
    const Bits bytes = (words & 15u) * 0x04040404u + 0x03020100u;
    return (Lanes)vqtbl4q_u8(values, (uint8x16_t)bytes);
  }
#else
  const float* values;
  explicit NibbleLanes(Codes kind) : values(values_of<float>(kind)) {}
  ALWAYS_INLINE Lanes look_up(Bits words) const {
    Lanes found;
    for (int i = 0; i < kLanes; ++i) found[i] = values[words[i] & 15];
    return found;
  }
#endif
  ALWAYS_INLINE static Bits unpack(const uint8_t* words) { return load_bits(words); }
  ALWAYS_INLINE Lanes operand(Bits words, int t) const { return look_up(words >> (t % 2 * 16 + t / 2 * 4)); }
};

// The words of codes of which `upper` bits lie in one of their own, as lanes of 32 or of 16 bits.
struct AsWords {
  using Lane = uint32_t;
  using Word = Bits;
};
struct AsHalves {
  using Lane = uint16_t;
  using Word = Halves;
};
template <typename As, int upper>
struct SplitWords {
  static constexpr int kColumns = 32 / upper, kLower = kColumns / 8;
  using Word = typename As::Word;
  using Lane = typename As::Lane;
  Word lower[kLower], higher;
  ALWAYS_INLINE explicit SplitWords(const uint8_t* from) {
#pragma GCC unroll 4
    for (int i = 0; i < kLower; ++i) lower[i] = *reinterpret_cast<const Word*>(from + i * 4 * kBlock);
    higher = *reinterpret_cast<const Word*>(from + kLower * 4 * kBlock);
  }
  // The upper bits of the columns of one operand, where they belong. column: the first one; mask: of all their bits.
  ALWAYS_INLINE Word upper_bits(int column, Lane mask) const {
    const int place = upper_place(column, upper);
    return (place < 4 ? higher << (4 - place) : higher >> (place - 4)) & mask;
  }
};
template <int upper>
constexpr uint32_t kUpperMask = ((1u << upper) - 1) << 4;

// Five or six bits.
template <int upper>
struct SplitLanes : FloatColumns {
  using Words = SplitWords<AsWords, upper>;
  static constexpr int kOperands = Words::kColumns, kBits = 4 + upper, kWords = Words::kLower + 1, kTables = 3;
  int zero;
  explicit SplitLanes(Codes kind) : zero(static_cast<int>(-code_value(kind, 0))) {}
  ALWAYS_INLINE static Words unpack(const uint8_t* words) { return Words(words); }
  ALWAYS_INLINE Lanes operand(const Words& words, int t) const {
    const Bits lower = words.lower[t / 8] >> (t % 2 * 16 + t % 8 / 2 * 4) & 15u;
    return __builtin_convertvector((Ints)(lower | words.upper_bits(t, kUpperMask<upper>)) - zero, Lanes);
  }
};

// Eight bits.
template <Codes kind>
struct ByteLanesOf : FloatColumns {
  static constexpr int kOperands = 4, kBits = 8, kWords = 1, kTables = 5;
  explicit ByteLanesOf(Codes) {}
  ALWAYS_INLINE static Bits unpack(const uint8_t* words) {
    const Bits found = load_bits(words);
    return kind == Codes::int8 ? found ^ 0x80808080u : found;
  }
  ALWAYS_INLINE static Lanes operand(Bits words, int t) {
    const int shift = t % 2 * 16 + t / 2 * 8;
    if (kind == Codes::int8) return __builtin_convertvector((Ints)(words << (24 - shift)) >> 24, Lanes);
    const Bits code = words >> shift & 255u;
    if (kind == Codes::uint8) return __builtin_convertvector((Ints)code, Lanes);
    // The exponent's bias is 127 here, and 7 there. What has none there is computed: subnormal numbers of float32 count
    // as zeros where MindSpore runs.
    const Bits magnitude = code & 127u, nan = (Bits)(magnitude == 127u) & 0x7fc00000u;
    const Bits normal = (magnitude << 20) + (120u << 23);
    const Lanes small = __builtin_convertvector((Ints)magnitude, Lanes) * 0x1p-9f;
    const Bits value = magnitude < 8u ? (Bits)small : normal;
    return (Lanes)(value | nan | (code & 128u) << 24);
  }
};

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#define BF16_PAIRS

ALWAYS_INLINE Lanes add_pairs(Lanes sum, Halves pairs, const bf16* x) {
  int pair;
  std::memcpy(&pair, x, 4);
  return (Lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)pairs, (__m512bh)_mm512_set1_epi32(pair));
}

// Four bits as bfloat16, by a table, which is there twice: five bits choose. rest: what bfloat16 leaves of the values.
struct NibblePairs {
  static constexpr int kOperands = 4, kPer = 2, kBits = 4, kWords = 1, kTables = 1, kSums = kDecodedSums;
  static constexpr bool kInteger = false;
  using Row = bf16;
  using Sum = Lanes;
  using Operand = Halves;
  Halves values;
  explicit NibblePairs(Codes kind, bool rest = false)
      : values(*reinterpret_cast<const Halves*>(
            (rest ? table_of<RestTable>(kind) : table_of<Table<bf16, 32>>(kind)).values)) {}
  ALWAYS_INLINE static Halves unpack(const uint8_t* words) { return *reinterpret_cast<const Halves*>(words); }
  ALWAYS_INLINE Halves operand(Halves words, int t) const {  // GCC 12 would shuffle two tables, in three times the time
    return (Halves)_mm512_permutexvar_epi16((__m512i)(words >> (4 * t)), (__m512i)values);
  }
  ALWAYS_INLINE static Lanes add(Lanes sum, Halves pairs, const bf16* x) { return add_pairs(sum, pairs, x); }
};

// Five or six bits as bfloat16, by a table.
template <int upper>
struct SplitPairs {
  using Words = SplitWords<AsHalves, upper>;
  static constexpr int kOperands = Words::kColumns / 2, kPer = 2, kBits = 4 + upper, kWords = Words::kLower + 1;
  static constexpr int kTables = 4, kSums = kDecodedSums;
  static constexpr bool kInteger = false;
  using Row = bf16;
  using Sum = Lanes;
  using Operand = Halves;
  Halves values[2];
  explicit SplitPairs(Codes kind) {
    const Halves* held = reinterpret_cast<const Halves*>(table_of<Table<bf16, 64>>(kind).values);
    values[0] = held[0], values[1] = held[1];
  }
  ALWAYS_INLINE static Words unpack(const uint8_t* words) { return Words(words); }
  ALWAYS_INLINE Halves operand(const Words& words, int t) const {
    const Halves lower = words.lower[t / 4] >> (t % 4 * 4) & uint16_t{15};
    return __builtin_shuffle(values[0], values[1], lower | words.upper_bits(2 * t, kUpperMask<upper>));
  }
  ALWAYS_INLINE static Lanes add(Lanes sum, Halves pairs, const bf16* x) { return add_pairs(sum, pairs, x); }
};

// Eight bits as bfloat16, by tables of their upper and of their lower bytes. Of codes with a sign, the highest bit, the
// tables have one half.
template <bool has_sign>
struct BytePairs {
  static constexpr int kOperands = 2, kPer = 2, kBits = 8, kWords = 1, kTables = has_sign ? 4 : 8, kSums = kDecodedSums;
  static constexpr bool kInteger = false;
  using Row = bf16;
  using Sum = Lanes;
  using Operand = Halves;
  Bytes high[kTables / 2], low[kTables / 2];
  explicit BytePairs(Codes kind) {
    const Bytes* bytes = reinterpret_cast<const Bytes*>(table_of<SplitTable>(kind).bytes);
    for (int i = 0; i < kTables / 2; ++i) low[i] = bytes[i], high[i] = bytes[4 + i];
  }
  struct Taken {
    Halves high, low;
  };
  ALWAYS_INLINE static Bytes look_up(const Bytes* table, Bytes codes) {
    const Bytes first = __builtin_shuffle(table[0], table[1], codes);  // by the lowest seven bits
    if constexpr (has_sign)
      return first;
    else
      return (SignedBytes)codes < 0 ? __builtin_shuffle(table[2], table[3], codes) : first;
  }
  ALWAYS_INLINE Taken unpack(const uint8_t* from) const {
    constexpr uint8_t kSign = has_sign ? 0x80 : 0;
    const Bytes codes = *reinterpret_cast<const Bytes*>(from), sign = codes & kSign;
    return {(Halves)(look_up(high, codes) | sign), (Halves)look_up(low, codes)};
  }
  ALWAYS_INLINE static Halves operand(const Taken& a, int t) {
    return t ? (a.high & 0xff00) | a.low >> 8 : a.high << 8 | (a.low & 0x00ff);
  }
  ALWAYS_INLINE static Lanes add(Lanes sum, Halves pairs, const bf16* x) { return add_pairs(sum, pairs, x); }
};
#endif

// Operands that a decoder for such rows has left in memory, as [k / kPer][64].
template <typename R>
struct Decoded {
  static constexpr bool kInteger = false;
  static constexpr int kOperands = 1, kPer = 4 / sizeof(R), kWords = 1, kTables = 0, kSums = kRegisters * 3 / 4;
  using Row = R;
  using Sum = Lanes;
  using Operand = Bits;
  ALWAYS_INLINE static Bits unpack(const uint8_t* from) { return load_bits(from); }
  ALWAYS_INLINE static Bits operand(Bits from, int) { return from; }
  ALWAYS_INLINE static Lanes add(Lanes sum, Bits column, const float* x) { return add_product(sum, (Lanes)column, x); }
#if defined(BF16_PAIRS)
  ALWAYS_INLINE static Lanes add(Lanes sum, Bits pairs, const bf16* x) { return add_pairs(sum, (Halves)pairs, x); }
#endif
};

// What is taken off a code to have its value, unless a zero point is.
constexpr int zero_of(Codes kind) {
  return kind == Codes::int4 ? 8 : kind == Codes::int5 ? 16 : kind == Codes::int6 ? 32 : kind == Codes::int8 ? 128 : 0;
}

// Kinds whose codes stand for other integers, or for halves of some: these are looked up, plus 128.
constexpr bool in_table(Codes kind) { return kind == Codes::e2m1 || kind == Codes::iq4nl; }
constexpr int halves_of(Codes kind) { return kind == Codes::e2m1 ? 2 : 1; }
constexpr int center_of(Codes kind) { return in_table(kind) ? 128 : 0; }

// As bytes, four times: a shuffle looks up in 16 bytes each.
struct IntegerTable {
  alignas(64) uint8_t bytes[64];
  explicit IntegerTable(Codes kind) : bytes{} {
    for (int i = 0; in_table(kind) && i < 64; ++i)
      bytes[i] = static_cast<uint8_t>(code_value(kind, i & 15) * halves_of(kind) + center_of(kind));
  }
};

// Codes as integers, which meet rows that are rounded to int8. kTaken: what `operand` has taken off them already.
// kNatural: whether columns of x lie in their order, or in that of the codes of a word. table: whether codes are
// looked up.
template <int bits, bool table = false>
struct Integers {
  static constexpr int kBits = bits, kWords = 1;
  static constexpr bool kInteger = true;
  static constexpr uint16_t kMask = bits == 4 ? 15 : 255;
  using Sum = Ints;
#if defined(__AVX512VNNI__) || defined(__ARM_FEATURE_DOTPROD)
  static constexpr bool kNatural = false;
  static constexpr int kOperands = 8 / bits, kPer = 4, kTables = 1 + table, kSums = kRegisters * 3 / 4;
  using Row = int8_t;
  using Operand = Bits;
  ALWAYS_INLINE static Bits unpack(const uint8_t* from) { return load_bits(from); }
#if defined(__AVX512VNNI__)
  static constexpr int kTaken = 0;
  Bits values{};
  explicit Integers(Codes kind) {
    if (table) values = load_bits(table_of<IntegerTable>(kind).bytes);
  }
  ALWAYS_INLINE Bits operand(Bits words, int t) const {
    if (bits == 8) return words;
    const Bits codes = words >> (4 * t) & 0x0f0f0f0fu;
    return table ? (Bits)_mm512_shuffle_epi8((__m512i)values, (__m512i)codes) : codes;
  }
  ALWAYS_INLINE static Ints add(Ints sum, Bits codes, const int8_t* x) {
    int four;
    std::memcpy(&four, x, 4);
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, _mm512_set1_epi32(four));
  }
#else
  static constexpr int kTaken = bits == 8 || table ? 128 : 0;  // both factors have a sign
  Bits values{};
  explicit Integers(Codes kind) {
    if (table) values = load_bits(table_of<IntegerTable>(kind).bytes) ^ 0x80808080u;
  }
  ALWAYS_INLINE Bits operand(Bits words, int t) const {
    if (bits == 8) return words ^ 0x80808080u;
    const Bits codes = words >> (4 * t) & 0x0f0f0f0fu;
    return table ? (Bits)vqtbl1q_u8((uint8x16_t)values, (uint8x16_t)codes) : codes;
  }
  ALWAYS_INLINE static Ints add(Ints sum, Bits codes, const int8_t* x) {
    int four;
    std::memcpy(&four, x, 4);
    return (Ints)vdotq_s32((int32x4_t)sum, (int8x16_t)codes, vreinterpretq_s8_s32(vdupq_n_s32(four)));
  }
#endif
#elif defined(__AVX2__)
  static constexpr bool kNatural = true;
  static constexpr int kOperands = 16 / bits, kPer = 2, kTaken = 0, kTables = 6, kSums = kDecodedSums;
  using Row = int16_t;
  using Operand = Halves;
  Halves values{};
  explicit Integers(Codes kind) {
    if (table) values = (Halves)load_bits(table_of<IntegerTable>(kind).bytes);
  }
  ALWAYS_INLINE static Halves unpack(const uint8_t* from) { return *reinterpret_cast<const Halves*>(from); }
  ALWAYS_INLINE Halves operand(Halves words, int t) const {
    const Halves codes = words >> (bits * t) & kMask;
    if (!table) return codes;
    const Halves chosen = codes | uint16_t{0x8000};  // the upper byte becomes 0
#if defined(__AVX512BW__)
    return (Halves)_mm512_shuffle_epi8((__m512i)values, (__m512i)chosen);
#else
    return (Halves)_mm256_shuffle_epi8((__m256i)values, (__m256i)chosen);
#endif
  }
  ALWAYS_INLINE static Ints add(Ints sum, Halves codes, const int16_t* x) {
    int two;
    std::memcpy(&two, x, 4);
#if defined(__AVX512BW__)
    return sum + (Ints)_mm512_madd_epi16((__m512i)codes, _mm512_set1_epi32(two));
#else
    return sum + (Ints)_mm256_madd_epi16((__m256i)codes, _mm256_set1_epi32(two));
#endif
  }
#else
  static constexpr bool kNatural = true;
  static constexpr int kOperands = 32 / bits, kPer = 1, kTaken = 0, kTables = 6, kSums = kDecodedSums;
  using Row = int16_t;
  using Operand = Ints;
  const uint8_t* values = nullptr;
  explicit Integers(Codes kind) {
    if (table) values = table_of<IntegerTable>(kind).bytes;
  }
  ALWAYS_INLINE static Bits unpack(const uint8_t* from) { return load_bits(from); }
  ALWAYS_INLINE Ints operand(Bits words, int t) const {
    const Ints codes = (Ints)(words >> (t % 2 * 16 + t / 2 * bits) & uint32_t{kMask});
    if (!table) return codes;
    Ints found;
    for (int i = 0; i < kLanes; ++i) found[i] = values[codes[i]];
    return found;
  }
  ALWAYS_INLINE static Ints add(Ints sum, Ints codes, const int16_t* x) { return sum + codes * static_cast<int>(*x); }
#endif
};

// Five or six bits as integers: the lower four of them as codes of four bits are.
template <int upper>
struct SplitIntegers : Integers<4> {
  using Four = Integers<4>;
  using As = std::conditional_t<kPer == 2, AsHalves, AsWords>;
  using Words = SplitWords<As, upper>;
  static constexpr int kBits = 4 + upper, kWords = Words::kLower + 1, kOperands = Words::kColumns / kPer,
                       kTables = Four::kTables + 1;
  explicit SplitIntegers(Codes kind) : Four(kind) {}
  ALWAYS_INLINE static Words unpack(const uint8_t* words) { return Words(words); }
  ALWAYS_INLINE Operand operand(const Words& words, int t) const {
    constexpr int kOfWord = 8 / kPer;
    constexpr auto kMask = static_cast<typename As::Lane>(kUpperMask<upper> * (kPer == 4 ? 0x01010101u : 1u));
    const int column = kPer == 4 ? t / 2 * 8 + t % 2 * 2 : t * kPer;  // the first one
    return Four::operand(words.lower[t / kOfWord], t % kOfWord) | (Operand)words.upper_bits(column, kMask);
  }
  ALWAYS_INLINE static Ints add(Ints sum, Operand codes, const Row* x) {
    sum = Four::add(sum, codes, x);
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
    asm("" : "+v"(sum));  // else GCC adds the products of all operands up first, which no registers hold
#endif
    return sum;
  }
};

}  // namespace KERNEL_ISA

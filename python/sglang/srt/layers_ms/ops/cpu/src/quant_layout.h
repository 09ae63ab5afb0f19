// How quantized matrices lie in memory, so that one layout serves all instruction sets.
//
// Rows of the matrix, which are columns of the product, are taken 64 at a time; the last block may have fewer. A word
// of 32 bits has 4 or 8 neighboring codes of a row, and a block is [k / 4 or 8][rows of the block] words: a load of 64
// bytes has words of 16 rows. Within a word the codes are so ordered that its 16-bit halves have neighbors at each
// shift:
//   8 bits, from the lowest byte on: k 0, 2, 1, 3          4 bits, from the lowest nibble on: k 0, 2, 4, 6, 1, 3, 5, 7
// Codes of 6 bits have three words for 16 columns: two with their lower four bits, as codes of 4 bits lie, and one with
// the upper two of all, so that these move to each operand's by one shift (upper_place). Those of 5 bits have five
// words for 32 columns, of which the last one has the fifth bits. Where the codes of a row are no whole number of
// words, the other bytes follow behind all words, as [bytes][rows]. int8 codes are kept plus 128: products of bytes
// want one factor without a sign. Scales and offsets of a block are [groups][rows of the block]; in two parts
// (Storage::i8) they are, for each super-block of columns, bytes so, and the float16 of each row.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "quant_kernels.h"
#include "scratch.h"
#include "simd.h"

namespace KERNEL_ISA {

constexpr int64_t kBlock = 64;  // rows of a matrix that lie together

inline int64_t blocks_of(int64_t n) { return (n + kBlock - 1) / kBlock; }
// Columns whose codes share words, and these words.
constexpr int upper_of(Codes kind) { return bits_of(kind) % 4; }  // bits that lie in a word of their own
constexpr int64_t columns_together(Codes kind) { return 32 / (upper_of(kind) ? upper_of(kind) : bits_of(kind)); }
constexpr int64_t words_together(Codes kind) { return upper_of(kind) ? columns_together(kind) / 8 + 1 : 1; }

// Where the word of upper bits, so many of a code, has those of this one of its columns.
constexpr int upper_place(int column, int bits) {
  return column % 2 * 16 + column % 8 / 4 * 8 + (column / 8 * 2 + column / 2 % 2) * bits;
}

inline uint32_t every_other(uint32_t word) {  // nibbles 0, 2, 4, 6
  word &= 0x0f0f0f0fu;
  word = (word | word >> 4) & 0x00ff00ffu;
  return (word | word >> 8) & 0xffffu;
}

inline uint32_t ordered_upper(uint32_t word, int bits) {
  uint32_t found = 0;
  for (int column = 0; column < 32 / bits; ++column)
    found |= (word >> (bits * column) & ((1u << bits) - 1)) << upper_place(column, bits);
  return found;
}

// Word `i` of a row, as it is packed.
inline uint32_t ordered(uint32_t word, Codes kind, int64_t i) {
  if (upper_of(kind) && (i + 1) % words_together(kind) == 0) return ordered_upper(word, upper_of(kind));
  if (bits_of(kind) != 8) return every_other(word) | every_other(word >> 4) << 16;
  const uint32_t swapped = (word & 0xff0000ffu) | (word >> 8 & 0xff00u) | (word << 8 & 0xff0000u);
  return kind == Codes::int8 ? swapped ^ 0x80808080u : swapped;
}

// The code of column `i` of a packed word's.
inline uint32_t code_in(uint32_t word, Codes kind, int64_t i) {
  return bits_of(kind) == 4 ? word >> (i % 2 * 16 + i / 2 * 4) & 15 : word >> (i % 2 * 16 + i / 2 * 8) & 255;
}

inline int64_t row_bytes(const QuantMatrix& a) { return a.k * bits_of(a.kind) / 8; }

inline uint32_t word_at(const uint8_t* from) {
  uint32_t word;
  std::memcpy(&word, from, 4);
  return word;
}

// Word `i` of a row of a packed block of `rows` rows; the last one may end with zeros.
inline uint32_t packed_word(const QuantMatrix& a, const uint8_t* block, int64_t rows, int64_t row, int64_t i) {
  const int64_t whole = row_bytes(a) / 4, others = row_bytes(a) % 4;
  if (i < whole) return word_at(block + (i * rows + row) * 4);
  uint32_t word = 0;
  for (int64_t j = 0; j < others; ++j) word |= uint32_t{block[(4 * whole + j) * rows + row]} << (8 * j);
  return ordered(word, a.kind, whole);
}

// The code in this row and column of a packed block.
inline uint32_t code_at(const QuantMatrix& a, const uint8_t* block, int64_t rows, int64_t row, int64_t column) {
  const int64_t first = column / columns_together(a.kind) * words_together(a.kind);
  const int64_t own = column % columns_together(a.kind);
  const int bits = upper_of(a.kind);
  if (!bits) return code_in(packed_word(a, block, rows, row, first), a.kind, own);
  const uint32_t all = packed_word(a, block, rows, row, first + words_together(a.kind) - 1);
  const uint32_t upper = all >> upper_place(static_cast<int>(own), bits) & ((1u << bits) - 1);
  return code_in(packed_word(a, block, rows, row, first + own / 8), Codes::int4, own % 8) | upper << 4;
}

inline void pack_codes(const QuantMatrix& a, uint8_t* codes, int64_t rows) {
  const int64_t bytes = row_bytes(a), whole = bytes / 4;
  const std::vector<uint8_t> old(codes, codes + rows * bytes);
  for (int64_t i = 0; i < whole; ++i)
    for (int64_t row = 0; row < rows; ++row) {
      const uint32_t word = ordered(word_at(old.data() + row * bytes + 4 * i), a.kind, i);
      std::memcpy(codes + (i * rows + row) * 4, &word, 4);
    }
  for (int64_t i = 4 * whole; i < bytes; ++i)
    for (int64_t row = 0; row < rows; ++row) codes[i * rows + row] = old[row * bytes + i];
}

template <typename T>
void transpose(T* matrix, int64_t rows, int64_t columns) {
  const std::vector<T> old(matrix, matrix + rows * columns);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) matrix[column * rows + row] = old[row * columns + column];
}

inline void transpose(const void* matrix, Storage type, int64_t first, int64_t rows, int64_t columns) {
  char* start = static_cast<char*>(const_cast<void*>(matrix)) + first * size_of(type);
  if (size_of(type) == 4) return transpose(reinterpret_cast<uint32_t*>(start), rows, columns);
  if (size_of(type) == 2) return transpose(reinterpret_cast<uint16_t*>(start), rows, columns);
  transpose(reinterpret_cast<uint8_t*>(start), rows, columns);
}

// Factors of super-blocks: a byte a group, and a float16.
inline void pack_supers(const QuantMatrix& a, const void* factors, int64_t first, int64_t rows) {
  const int64_t bytes = a.factor_bytes(Storage::i8), groups = kSuperBlock / a.group;
  char* to = static_cast<char*>(const_cast<void*>(factors)) + first * bytes;
  const std::vector<char> old(to, to + rows * bytes);
  for (int64_t start = 0; start < bytes; start += groups + 2) {
    for (int64_t group = 0; group < groups; ++group)
      for (int64_t row = 0; row < rows; ++row) *to++ = old[row * bytes + start + group];
    for (int64_t row = 0; row < rows; ++row, to += 2) std::memcpy(to, &old[row * bytes + start + groups], 2);
  }
}

inline void pack_factors(const QuantMatrix& a, const void* factors, Storage type, int64_t first, int64_t rows) {
  if (type == Storage::i8) return pack_supers(a, factors, first, rows);
  transpose(factors, type, first * a.groups(), rows, a.groups());
}

inline void pack_matrix(const QuantMatrix& a) {
  pool::each(blocks_of(a.n), [&](int64_t block) {
    const int64_t first = block * kBlock, rows = std::min(kBlock, a.n - first);
    pack_codes(a, const_cast<uint8_t*>(a.codes) + first * row_bytes(a), rows);
    pack_factors(a, a.scale, a.scale_type, first, rows);
    if (a.offset) pack_factors(a, a.offset, a.offset_type, first, rows);
  });
}

typedef int32_t Ints __attribute__((vector_size(4 * kLanes), aligned(4)));

ALWAYS_INLINE Ints load_bytes(const void* from, int64_t at) {
  const uint8_t* bytes = static_cast<const uint8_t*>(from) + at;
#if defined(__AVX512F__)
  return (Ints)_mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
#elif defined(__AVX2__)
  return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
#else
  typedef uint8_t ByteLanes __attribute__((vector_size(kLanes), aligned(1)));
  return __builtin_convertvector(*reinterpret_cast<const ByteLanes*>(bytes), Ints);
#endif
}

// Powers of two, by their exponent + 127, from index `at` on.
ALWAYS_INLINE Lanes load_powers(const void* from, int64_t at) {
  const Bits exponent = (Bits)load_bytes(from, at);
  const Bits special = (Bits)(exponent == 0) | (Bits)(exponent == 255);  // 2^-127, which is subnormal, and NaN
  return (Lanes)(exponent << 23 | (special & 0x400000u));
}

inline float stored(const void* from, Storage type, int64_t at) {
  switch (type) {
    case Storage::f32: return static_cast<const float*>(from)[at];
    case Storage::f16: return to_float(static_cast<const f16*>(from)[at]);
    case Storage::bf16: return to_float(static_cast<const bf16*>(from)[at]);
    case Storage::u8:
    case Storage::i8: break;  // of which there is no single one
  }
  const uint32_t exponent = static_cast<const uint8_t*>(from)[at];
  const uint32_t bits = exponent << 23 | (exponent == 0 || exponent == 255 ? 0x400000u : 0u);
  float found;
  std::memcpy(&found, &bits, 4);
  return found;
}

// The factor of this row and group of a packed block of `rows` rows.
inline float factor_in(const QuantMatrix& a, const void* factors, Storage type, int64_t rows, int64_t row,
                       int64_t group) {
  if (type != Storage::i8) return stored(factors, type, group * rows + row);
  const int64_t groups = kSuperBlock / a.group;
  const int8_t* super = static_cast<const int8_t*>(factors) + group / groups * (groups + 2) * rows;
  f16 whole;
  std::memcpy(&whole, super + groups * rows + 2 * row, 2);
  return super[group % groups * rows + row] * to_float(whole);
}

// A block with room for 64 rows of whole words: in its place, or where it has less a copy in memory of this thread.
struct QuantBlock {
  const uint8_t* codes;  // [k / 4 or 8][64] words
  const void *scale, *offset;
  int64_t width;  // rows of the matrix
};

inline const char* widened_rows(const char* from, int64_t count, int64_t width, int64_t size, char* to) {
  for (int64_t i = 0; i < count; ++i) std::memcpy(to + i * kBlock * size, from + i * width * size, width * size);
  return to;
}

inline const char* widened_factors(const QuantMatrix& a, const char* from, Storage type, int64_t width, char* to) {
  if (type != Storage::i8) return widened_rows(from, a.groups(), width, size_of(type), to);
  const int64_t groups = kSuperBlock / a.group, supers = a.k / kSuperBlock;
  for (int64_t super = 0; super < supers; ++super, from += (groups + 2) * width) {
    char* own = to + super * (groups + 2) * kBlock;
    widened_rows(from, groups, width, 1, own);
    widened_rows(from + groups * width, 1, width, 2, own + groups * kBlock);
  }
  return to;
}

inline QuantBlock block_of(const QuantMatrix& a, int64_t block) {
  const int64_t first = block * kBlock, width = std::min(kBlock, a.n - first), groups = a.groups();
  const int64_t whole = row_bytes(a) / 4, words = (row_bytes(a) + 3) / 4;
  const uint8_t* codes = a.codes + first * row_bytes(a);
  const char* scale = static_cast<const char*>(a.scale) + first * a.factor_bytes(a.scale_type);
  const char* offset = static_cast<const char*>(a.offset);
  if (offset) offset += first * a.factor_bytes(a.offset_type);
  if (width < kBlock || whole < words) {
    char* room = scratch<Purpose::padded_block, char>(kBlock * (4 * words + 8 * groups));
    widened_rows(reinterpret_cast<const char*>(codes), whole, width, 4, room);
    for (int64_t row = 0; whole < words && row < width; ++row) {
      const uint32_t last = packed_word(a, codes, width, row, whole);
      std::memcpy(room + (whole * kBlock + row) * 4, &last, 4);
    }
    codes = reinterpret_cast<const uint8_t*>(room);
    room += kBlock * 4 * words;
    scale = widened_factors(a, scale, a.scale_type, width, room);
    if (offset) offset = widened_factors(a, offset, a.offset_type, width, room + kBlock * 4 * groups);
  }
  return {codes, scale, offset, width};
}

}  // namespace KERNEL_ISA

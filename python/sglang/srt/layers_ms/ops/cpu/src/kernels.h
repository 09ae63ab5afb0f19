// What the operators compute, one table an instruction set; entry.cpp picks one when the library is loaded.
#pragma once
#include <cstdint>

enum class Dtype { f32, f16, bf16 };

// The requests of a step, and the pages of the cache that they have.
struct Requests {
  const int32_t *block_tables, *query_lens, *seq_lens;  // [requests, blocks], [requests], [requests]
  int64_t requests, blocks, page_size;
};

struct Attention : Requests {
  const void* q;  // [tokens, heads * head_dim]
  void* out;      // like q
  const void *k_cache, *v_cache;  // [slots, kv_heads, head_dim]
  int64_t heads, kv_heads, head_dim;
  float scale, soft_cap;         // soft_cap 0: none
  int64_t window;                 // 0: none
  const float *sinks, *slopes;    // [heads], or null
  Dtype dtype, cache_dtype;
};

struct RMS {
  float eps;
  float offset;  // what is added to the weight
};

struct QKNorm {
  const void* qkv;                      // [tokens, q_size + 2 * kv_size]
  void* out;                            // like qkv
  const void *q_weight, *k_weight;      // [q_size], [kv_size]
  int64_t tokens, q_size, kv_size;
  int64_t group;  // values that are normalized together; 0: all queries, all keys
  float eps;
  bool centered;
};

struct QKV {
  const void* qkv;                // [tokens, (heads + 2 * kv_heads) * head_dim]
  void* q;                        // [tokens, heads * head_dim]
  const void *q_norm, *k_norm;    // [head_dim], or null
  const int32_t *positions, *slots;
  const float *cos, *sin;         // [positions, half]
  void *k_cache, *v_cache;        // [slots, kv_heads, head_dim]
  int64_t tokens, heads, kv_heads, head_dim;
  int64_t half;  // pairs that are rotated; 0: none
  bool interleaved;
  RMS rms;
  Dtype dtype, cache_dtype;
};

struct Route {
  const float* logits;  // [tokens, experts]
  const float* bias;    // [experts], or null; added to scores where experts are chosen
  float* weights;       // [tokens, top_k]
  int32_t* chosen;      // [tokens, top_k]
  int64_t tokens, experts, top_k, groups, top_groups;
  int64_t group_top;    // a group's score is the sum of its best so many
  bool sigmoid, renormalize;
  float scaling, soft_cap;  // no soft cap where it is 0
};

struct Experts {
  const void* x;                       // [tokens, width]
  const void *gate_up, *gate_up_bias;  // packed [experts, 2, size, width]; [experts, 2, size] or null
  const void *down, *down_bias;        // packed [experts, width, size]; [experts, width] or null
  const float* weights;                // [tokens, top_k]
  const int32_t* chosen;               // [tokens, top_k]; those outside [first, first + experts) are left out
  void* y;                             // [tokens, width]
  int64_t tokens, width, size, experts, top_k, first;
  int activation;       // as of act_and_mul, or 3: silu(alpha * gate) / alpha * (up + 1) with both within the limit
  float alpha, limit;
  Dtype dtype;
};

struct MLARows {
  const void *q, *kv;    // [tokens, heads * (nope + rope)], [tokens, rank + rope]
  const void* norm;      // [rank]
  void *out, *cache;     // like q; [slots, rank + rope]
  const int32_t *positions, *slots;
  const float *cos, *sin;  // [positions, rope / 2]
  int64_t tokens, heads, nope, rope, rank;
  float eps;
  bool interleaved;
  Dtype dtype, cache_dtype;
};

struct MLAAttention : Requests {
  const void *q, *cache;  // [tokens, heads * (nope + rope)], [slots, rank + rope]
  void* out;              // [tokens, heads * value]
  const void *w_uk, *w_uk_t, *w_uv;  // packed [heads, nope, rank], [heads, rank, nope], [heads, value, rank]
  int64_t heads, nope, rope, rank, value;
  float scale;
  Dtype dtype, cache_dtype;
};

struct Kernels {
  const char* isa;
  // Rearranges a row-major [n, k] matrix in place to the layout that `linear` reads.
  void (*pack)(Dtype, void* weight, int64_t n, int64_t k);
  void (*unpack)(Dtype, void* weight, int64_t n, int64_t k);
  // y[rows, n] = x[rows, k] * packed weight + bias, bias may be null; y is Dtype, or float32 where wide. Columns before
  // first_column, a multiple of 64, are left as they are.
  void (*linear)(Dtype, const void* x, const void* weight, const void* bias, void* y, bool wide, int64_t rows,
                 int64_t k, int64_t n, int64_t first_column);
  // y[tokens, k] = rows ids - first of a packed weight [n, k]; zeros for ids of other rows.
  void (*embedding)(Dtype, const int32_t* ids, const void* weight, void* y, int64_t first, int64_t tokens, int64_t n,
                    int64_t k);
  void (*rms_norm)(Dtype, const void* x, const void* weight, void* y, RMS, int64_t groups, int64_t size);
  void (*add_rms_norm)(Dtype, const void* x, const void* residual, const void* weight, void* y, void* total, RMS,
                       int64_t rows, int64_t size);
  // bias may be null
  void (*layer_norm)(Dtype, const void* x, const void* weight, const void* bias, void* y, float eps, int64_t groups,
                     int64_t size);
  // y = x + other * factor; other null: y = x * factor
  void (*add)(Dtype, const void* x, const void* other, void* y, float factor, int64_t rows, int64_t size);
  void (*qk_norm)(Dtype, const QKNorm&);
  void (*qk_sum_squares)(Dtype, const void* qkv, float* y, int64_t rows, int64_t q_size, int64_t kv_size);
  // sums [tokens, 2] of q_count and k_count squares; a.group and a.centered are not read.
  void (*qk_rms_norm_tp)(Dtype, const QKNorm& a, const float* sums, float q_count, float k_count);
  void (*act_and_mul)(Dtype, int activation, const void* gate_up, void* y, int64_t rows, int64_t size);
  void (*qkv_to_cache)(const QKV&);
  void (*attention)(const Attention&);
  void (*route)(const Route&);
  void (*experts)(const Experts&);
  // y = x + sigmoid(gate) * other, gate one a row.
  void (*add_gated)(Dtype, const void* x, const void* other, const void* gate, void* y, int64_t rows, int64_t size);
  // y[size] = the sum of `count` rows, in float32.
  void (*sum)(Dtype, const void* const* rows, int count, void* y, int64_t size);
  void (*clip)(Dtype, const void* x, void* y, float limit, int64_t rows, int64_t size);
  void (*mla_to_cache)(const MLARows&);
  void (*mla_attention)(const MLAAttention&);
};

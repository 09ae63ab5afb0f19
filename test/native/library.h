// The library's functions, as MindSpore and Python call them; part of operators.cpp.
#pragma once
#include <cstdint>

extern "C" {
#define OPERATOR(name) int name(int, void**, int*, int64_t**, const char**, void*, void*);
OPERATOR(embedding)
OPERATOR(linear)
OPERATOR(quant_linear)
OPERATOR(quant_embedding)
OPERATOR(take_columns)
OPERATOR(concat_columns)
OPERATOR(add_lora)
OPERATOR(rms_norm)
OPERATOR(add_rms_norm)
OPERATOR(layer_norm)
OPERATOR(add)
OPERATOR(scale)
OPERATOR(qk_norm)
OPERATOR(qk_sum_squares)
OPERATOR(qk_rms_norm_tp)
OPERATOR(xielu)
OPERATOR(gate_heads)
OPERATOR(scale_by_position)
OPERATOR(silu_and_mul)
OPERATOR(silu_and_mul_clamped)
OPERATOR(gelu_and_mul)
OPERATOR(gelu_tanh_and_mul)
OPERATOR(qkv_to_cache)
OPERATOR(paged_attention)
OPERATOR(route)
OPERATOR(fused_experts)
OPERATOR(quant_experts)
OPERATOR(add_gated)
OPERATOR(clip)
OPERATOR(take_stream)
OPERATOR(mix_streams)
OPERATOR(add_to_streams)
OPERATOR(scale_columns)
OPERATOR(match_magnitude)
OPERATOR(gate_moments)
OPERATOR(sparse_gelu_and_mul)
OPERATOR(route_sparsemixer)
OPERATOR(scale_routes)
OPERATOR(scale_by)
OPERATOR(turn_queries)
OPERATOR(mla_to_cache)
OPERATOR(mla_attention)
OPERATOR(index_to_cache)
OPERATOR(choose_keys)
OPERATOR(sparse_mla_attention)
OPERATOR(causal_conv)
OPERATOR(gated_delta)
OPERATOR(state_space)
OPERATOR(gated_norm)
OPERATOR(kimi_delta)
OPERATOR(gated_squares)
OPERATOR(gated_norm_tp)
OPERATOR(sigmoid_gate)
OPERATOR(dispatch_experts)
OPERATOR(combine_experts)
OPERATOR(activate)
OPERATOR(segment_attention)
OPERATOR(take_rows)
OPERATOR(put_rows)
OPERATOR(mrope)
struct Range {
  const void* start;
  int64_t size;
};
const char* mindspore_cpu_isa();
int mindspore_cpu_use(const char* isa);
void mindspore_cpu_threads(int threads, const int* processors);
void mindspore_cpu_prepack(int dtype, void* weight, int64_t n, int64_t k);
void mindspore_cpu_unpack(int dtype, void* weight, int64_t n, int64_t k);
void mindspore_cpu_prepack_quant(int kind, int64_t matrices, int64_t n, int64_t k, int64_t group, void* codes,
                                 const void* scale, int scale_type, const void* offset, int offset_type);
void mindspore_cpu_quant_logits(int dtype, int activations, int kind, int64_t group, const void* x, const void* codes,
                                const void* scale, int scale_type, const void* offset, int offset_type, float* y,
                                int64_t rows, int64_t k, int64_t n);
void mindspore_cpu_logits(int dtype, const void* x, const void* weight, float* y, int64_t rows, int64_t k, int64_t n);
void* mindspore_cpu_begin_recording(const Range* lasting, int64_t count);
int mindspore_cpu_finish_recording(void* recording);
int mindspore_cpu_replay(void* recording);
void* mindspore_cpu_replayed(void* recording, const void* address);
void mindspore_cpu_drop_recording(void* recording);
int64_t mindspore_cpu_group_size(int ranks);
int mindspore_cpu_join(void*, int rank, int ranks, const int* processes, double, int first, int here, void* exchange);
}

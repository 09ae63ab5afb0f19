// Products with quantized matrices: what their arguments must be.
#include "quant_kernels.h"

#include "operators.h"
#include "trace.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

constexpr int64_t kGroupUnit = 16;  // columns: groups are so many, or a multiple

bool whole(int64_t group) { return group == 0; }  // one group has all columns

// Groups of the factors of a matrix, and how these are held.
struct HeldFactors {
  int64_t group, groups;
  Storage scale_type, offset_type;
  bool has_offset;
};

void check_matrix(Arguments& arguments, Storage codes_type, int64_t kind, int64_t k, int64_t bytes,
                  const HeldFactors& factors) {
  const auto [group, groups, scale_type, offset_type, has_offset] = factors;
  arguments.check(kind >= 0 && kind < kCodes, "kind %ld is none of %d", kind, kCodes);
  if (arguments.failed()) return;
  const Codes codes = static_cast<Codes>(kind);
  const int64_t bits = bits_of(codes);
  arguments.check(codes_type == (codes == Codes::int8 ? Storage::i8 : Storage::u8), "codes of another dtype");
  arguments.check(k * bits % 8 == 0 && bytes == k * bits / 8, "%ld columns in %ld bytes of codes of %ld bits", k, bytes,
                  bits);
  const int64_t unit = bits == 5 ? 2 * kGroupUnit : kGroupUnit;  // columns whose upper bits share a word
  arguments.check(bits % 4 == 0 || k % unit == 0, "%ld columns of codes of %ld bits", k, bits);
  arguments.check(group >= 0 && group % (bits == 5 ? unit : kGroupUnit) == 0, "groups of %ld columns", group);
  if (arguments.failed()) return;
  const bool supers = scale_type == Storage::i8;
  arguments.check(!has_offset || supers == (offset_type == Storage::i8), "scales and offsets of different parts");
  if (supers) {
    arguments.check(k % kSuperBlock == 0 && !whole(group) && kSuperBlock % group == 0,
                    "groups of %ld of %ld columns, with scales of %ld columns", group, k, kSuperBlock);
    if (arguments.failed()) return;
    arguments.check(groups == k / kSuperBlock * (kSuperBlock / group + 2), "%ld bytes of scales of %ld columns", groups,
                    k);
    return;
  }
  arguments.check(groups == (whole(group) ? 1 : (k + group - 1) / group), "%ld groups of %ld of %ld columns", groups,
                  group, k);
}

// Codes that stand for integers, or for halves of some, meet rounded rows.
void check_activations(Arguments& arguments, int64_t kind, int64_t activations) {
  const Codes codes = static_cast<Codes>(kind);
  const bool integers = codes != Codes::nf4 && codes != Codes::e4m3;
  const int64_t last = static_cast<int64_t>(Activations::int8_static);
  arguments.check(activations >= 0 && activations <= last, "activations %ld", activations);
  arguments.check(activations == 0 || integers, "rounded rows do not meet codes of kind %ld", kind);
}

}  // namespace

void calls::quant_embedding::validate(Arguments& arguments) const {
  check_matrix(arguments, codes_type, kind, width, bytes, {group, groups, scale_type, offset_type, offset != nullptr});
}

void run(Arguments&, const calls::quant_embedding& a) { quant_kernels->embedding(a); }

void calls::quant_linear::validate(Arguments& arguments) const {
  check_matrix(arguments, codes_type, kind, k, bytes, {group, groups, scale_type, offset_type, offset != nullptr});
  if (arguments.failed()) return;
  check_activations(arguments, kind, activations);
  const bool given = activations == static_cast<int64_t>(Activations::int8_static);
  arguments.check(given == (input_scale != nullptr) && (given || !input_offset), "a step that rows are not rounded by");
}

void run(Arguments&, const calls::quant_linear& a) {
  const QuantMatrix weight{static_cast<Codes>(a.kind),
                           a.n,
                           a.k,
                           a.group ? a.group : a.k,
                           a.weight,
                           a.scale,
                           a.offset,
                           a.scale_type,
                           a.offset_type};
  const float scale = a.input_scale ? *a.input_scale : 0, offset = a.input_offset ? *a.input_offset : 0;
  quant_kernels->linear({a.dtype, static_cast<Activations>(a.activations), weight, a.x, scale, offset, a.bias,
                         a.bias_type, a.out, false, a.tokens});
}

void calls::quant_experts::validate(Arguments& arguments) const {
  check_matrix(arguments, codes_type, gate_up_kind, width, gate_up_bytes,
               {gate_up_group, gate_up_groups, scale_type, offset_type, gate_up_offset != nullptr});
  check_matrix(arguments, down_codes_type, down_kind, size, down_bytes,
               {down_group, down_groups, down_scale_type, down_offset_type, down_offset != nullptr});
  if (arguments.failed()) return;
  for (const int64_t kind : {gate_up_kind, down_kind}) check_activations(arguments, kind, activations);
  arguments.check(activations != static_cast<int64_t>(Activations::int8_static), "rows of experts have no given step");
  arguments.check(within(chosen, tokens * top_k, count), "an expert is none of the %ld", count);
  check_expert_adapters(arguments, *this);
}

void run(Arguments&, const calls::quant_experts& a) { quant_kernels->experts(a); }

// Rearranges a row-major matrix, or each of a stack, in place: its codes, scales and offsets (null: there are none).
EXPORTED void mindspore_cpu_prepack_quant(int kind, int64_t matrices, int64_t n, int64_t k, int64_t group,
                                          uint8_t* codes, const void* scale, int scale_type, const void* offset,
                                          int offset_type) {
  const QuantMatrix first{
      static_cast<Codes>(kind),         n, k, group ? group : k, codes, scale, offset, static_cast<Storage>(scale_type),
      static_cast<Storage>(offset_type)};
  for (int64_t i = 0; i < matrices; ++i) quant_kernels->pack(first.at(i));
}

// As mindspore_cpu_logits, of a quantized matrix.
EXPORTED void mindspore_cpu_quant_logits(int dtype, int activations, int kind, int64_t group, const void* x,
                                         const uint8_t* codes, const void* scale, int scale_type, const void* offset,
                                         int offset_type, float* y, int64_t rows, int64_t k, int64_t n) {
  trace::Timer timer("quant_logits");
  const QuantMatrix weight{
      static_cast<Codes>(kind),         n, k, group ? group : k, codes, scale, offset, static_cast<Storage>(scale_type),
      static_cast<Storage>(offset_type)};
  quant_kernels->linear({static_cast<Dtype>(dtype), static_cast<Activations>(activations), weight, x, 0, 0, nullptr,
                         Storage::f32, y, true, rows});
}

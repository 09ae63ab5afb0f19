"""Faults of quantized weights and caches, each as a change of the sources and the tests that fail with it.

    python test/models/mutations_quant.py           # makes each change in turn, runs its tests, and undoes it
    python test/models/mutations_quant.py cache     # those whose names have this in them

Exits with 1 where tests pass although the fault is back. Nothing else may change the sources meanwhile.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # test/, as pytest has it
from mutating import Mutation, run

EXECUTOR = "python/sglang/srt/model_executor_ms"
LAYERS = "python/sglang/srt/layers_ms"
ASCEND = f"{LAYERS}/ops/ascend"
LOADER = "python/sglang/srt/model_loader_ms"
LAYOUT_TESTS = "test/loader/test_layouts.py"
READER_TESTS = "test/layers/test_quantization.py"
TILES = f"{LAYERS}/ops/cpu/src/quant_tiles_bf16.h"
ISA_TESTS = "test/ops/test_cpu_instruction_sets.py"

MUTATIONS = (
    Mutation(
        "zero points of GPTQ's first version as they are stored",
        f"{LOADER}/layouts/gptq.py",
        "return (words.long() + _ONES[bits]).to(torch.int32)",
        "return words",
        f"{LAYOUT_TESTS} -k values",
    ),
    Mutation(
        "zero points of GPTQ's first version without carries",
        f"{LOADER}/layouts/gptq.py",
        "return (words.long() + _ONES[bits]).to(torch.int32)",
        "return ((words & (_ONES[bits] * 7)) + _ONES[bits] | words & ~(_ONES[bits] * 7) & -1).to(torch.int32)",
        f"{LAYOUT_TESTS} -k values",
    ),
    Mutation(
        "zero points of a symmetric checkpoint not looked at",
        f"{LOADER}/layouts/gptq.py",
        "if not self.format.offset and (self._zeros != _MIDDLE[bits]).any():",
        "if False:",
        f"{LAYOUT_TESTS} -k what_does_not_fit",
    ),
    Mutation(
        "columns in another order than config.json says",
        f"{LOADER}/layouts/gptq.py",
        "elif not torch.equal(found, in_order):",
        "elif False:",
        f"{LAYOUT_TESTS} -k what_does_not_fit",
    ),
    Mutation(
        "columns of act-order as they are stored",
        f"{LOADER}/layouts/base.py",
        "wanted = columns if self.order is None else self.order[columns]",
        "wanted = columns",
        f"{LAYOUT_TESTS} -k held_by_groups",
    ),
    Mutation(
        "act-order forgotten by the product",
        f"{LAYERS}/quantization/quantized.py",
        "x = x if layer.order is None else ops.take_columns(x, layer.order)",
        "x = x",
        "test/models/test_quantized.py -k act-order",
    ),
    Mutation(
        "rows of AWQ in the order of bits",
        f"{LOADER}/layouts/awq.py",
        "_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]",
        "_PLACES = [0, 1, 2, 3, 4, 5, 6, 7]",
        f"{LAYOUT_TESTS} -k values",
    ),
    Mutation(
        "words of a wrong number of axes",
        f"{LOADER}/layouts/base.py",
        "if shape is not None and stored.shape != tuple(shape):",
        "if False:",
        f"{LAYOUT_TESTS} -k what_does_not_fit",
    ),
    Mutation(
        "eight bits that start at zero",
        f"{LOADER}/layouts/base.py",
        "return codes if bits == 4 else (codes ^ 128).view(torch.int8)",
        "return codes if bits == 4 else codes.view(torch.int8)",
        f"{LAYOUT_TESTS} -k values",
    ),
    Mutation(
        "a matrix of another shape than the checkpoint says",
        f"{LOADER}/layouts/packed.py",
        "if shape != matrix:",
        "if False:",
        f"{LAYOUT_TESTS} -k what_does_not_fit",
    ),
    Mutation(
        "matrices of several formats multiplied as one",
        f"{LAYERS}/quantization/config.py",
        "if self.encoding(other) != encoding:",
        "if False:",
        READER_TESTS,
    ),
    Mutation(
        "W4A8 taken for W4A16",
        f"{LAYERS}/quantization/compressed_tensors.py",
        "        _refuse_inputs(inputs, form)\n",
        "",
        f"{READER_TESTS} -k refused_by_name",
    ),
    Mutation(
        "rotations of compressed-tensors by groups not refused",
        f"{LAYERS}/quantization/compressed_tensors.py",
        'if transforms.get("config_groups", transforms):',
        'if transforms and "config_groups" not in transforms:',
        f"{READER_TESTS} -k refused",
    ),
    Mutation(
        "zeros that compressed-tensors only counted refused",
        f"{LAYERS}/quantization/compressed_tensors.py",
        'if sparsity.get("format", "dense") != "dense":',
        "if sparsity:",
        f"{READER_TESTS} -k no_value",
    ),
    Mutation(
        "patterns of auto-round for names only",
        f"{LAYERS}/quantization/auto_round.py",
        "if pattern.search(layer):",
        "if pattern.fullmatch(layer):",
        f"{READER_TESTS} -k auto_round",
    ),
    Mutation(
        "NVFP4 without its name",
        f"{LAYERS}/quantization/compressed_tensors.py",
        'if "nvfp4" in (form or ""):',
        "if False:",
        f"{READER_TESTS} -k nvfp4",
    ),
    Mutation(
        "values of a key that nothing computes",
        f"{LAYERS}/quantization/config.py",
        "if found.get(key, values[0]) not in values",
        "if False",
        f"{READER_TESTS} -k refused_by_name",
    ),
    Mutation(
        "what the offset of static activations adds left out",
        f"{LAYERS}/quantization/static.py",
        "layer.static_bias.host[:] = own - moved",
        "layer.static_bias.host[:] = own",
        "test/models/test_quantized.py -k 'makers_code and static_asym and cpu'",
    ),
    Mutation(
        "groups of a rank that begins inside one",
        f"{LAYERS}/quantization/quantized.py",
        "shared = math.gcd(width, *(_columns(one).start for one in matrix.slices))",
        "shared = width",
        "test/models/test_quantized.py -k 'one_process and nf4 or one_process and W4A16_ASYM' -m ''",
    ),
    Mutation(
        "scales of a cache left as they were by a checkpoint without them",
        f"{LAYERS}/kv_scales.py",
        "            loaded.host[:] = 0.0  # the next one may have none\n",
        "",
        "test/models/test_float8_cache.py -k forgotten",
    ),
    Mutation(
        "scales of a cache that are not looked for",
        f"{LAYERS}/kv_scales.py",
        "self.given or (found if found > 0.0 else 1.0)",
        "1.0",
        "test/models/test_float8_cache.py -k forgotten",
    ),
    Mutation(
        "a cache in float8 on an NPU",
        f"{EXECUTOR}/server/framework.py",
        'if view.kv_cache_dtype != "auto" and view.device == "npu":',
        "if False:",
        "test/ascend/test_start_path.py -k float8",
    ),
    Mutation(
        "codes of four bits without a sign on an NPU",
        f"{ASCEND}/quant_weights.py",
        "zip(stack ^ 0x88, turned, strict=True)",
        "zip(stack, turned, strict=True)",
        "test/ascend/test_quant_weights.py -k products_are_those",
    ),
    Mutation(
        "zero points taken off twice on an NPU",
        f"{ASCEND}/quant_weights.py",
        "CENTERS[kind] - offset.host.astype(np.float32)",
        "-offset.host.astype(np.float32)",
        "test/ascend/test_quant_weights.py -k products_are_those",
    ),
    Mutation(
        "weights of an NPU that are somewhere else once they are loaded anew",
        f"{ASCEND}/quant_weights.py",
        'if getattr(weight, "repacked", False):',
        "if False:",
        "test/ascend/test_quant_weights.py -k products_are_those",
    ),
    Mutation(
        "weights loaded anew in the dtype of an NPU's codes",
        f"{LOADER}/loader.py",
        "str(param.host_dtype).lower()",
        "str(param.dtype).lower()",
        "test/ascend/test_quant_weights.py -k loaded_anew",
    ),
    Mutation(
        "sums of values that an NPU's product of W4A8 adds",
        f"{ASCEND}/quant_weights.py",
        "_hold(sums, (8 * (by_group",
        "_hold(sums, ((by_group",
        "test/ascend/test_quant_weights.py -k rounded_rows",
    ),
    Mutation(
        "codes of int4 that an NPU's table does not take",
        f"{ASCEND}/quant_weights.py",
        'elif activations == "float" or (activations == "int8" and kind == "int4"):',
        "elif False:",
        "test/serving/test_ascend_quantized.py -k W4A16_ASYM",
    ),
    Mutation(
        "experts of int8 with groups on an NPU",
        f"{ASCEND}/quant_weights.py",
        'if use == "moe" and kind == "int8" and group:',
        "if False:",
        "test/ascend/test_quant_weights.py -k named",
    ),
    Mutation(
        "codes of ModelSlim's int4 without their sign",
        f"{LOADER}/layouts/modelslim_int4.py",
        "return both[span.start % 2 :][: len(span)] ^ 8",
        "return both[span.start % 2 :][: len(span)]",
        "test/loader/test_modelslim.py",
    ),
    Mutation(
        "ModelSlim's second scales left out",
        f"{LOADER}/layouts/modelslim_int4.py",
        "scales = scales.reshape(len(scales), -1) * second.float()",
        "scales = scales.expand(second.shape)",
        "test/loader/test_modelslim.py",
    ),
    Mutation(
        "zero points of ModelSlim's int4 not looked at",
        f"{LOADER}/layouts/modelslim_int4.py",
        "if stored is not None and stored.data.any():",
        "if False:",
        "test/loader/test_modelslim.py",
    ),
    Mutation(
        "scales of a cache for another number of ranks",
        f"{EXECUTOR}/runner/kv_scales.py",
        '"tp_size": ranks}',
        '"tp_size": 2}',
        "test/serving/test_quantized.py -k other_models",
    ),
    Mutation(
        "scales of a cache that nothing reads",
        f"{EXECUTOR}/runner/kv_scales.py",
        "    if kv_cache_dtype != FP8_E4M3:\n",
        "    if False:\n",
        "test/serving/test_quantized.py -k would_read",
    ),
    Mutation(
        "rows that meet GGUF's blocks as they are",
        f"{LAYERS}/quantization/gguf.py",
        '*held, "int8_group")',
        "*held)",
        f"{READER_TESTS} -k 'gguf_file or blocks_meet'",
    ),
    Mutation(
        "GGUF's blocks dequantized where nothing rounds rows",
        f"{LAYERS}/quantization/quantized.py",
        'if self.format.activations == "int8_group" and not self._serves(layer):',
        "if False:",
        f"{READER_TESTS} -k blocks_meet",
    ),
    Mutation(
        "scales in two parts of columns that a rank divides",
        f"{LAYERS}/quantization/quantized.py",
        "if any(column % form.unit for column in _ends(matrix)):",
        "if False:",
        f"{READER_TESTS} -k two_parts",
    ),
    Mutation(
        "codes of five bits with a part of a word",
        f"{LAYERS}/ops/cpu/quant.py",
        "if shape[-1] % together or (bits == 5 and group % together):",
        "if False:",
        "test/ops/test_quant.py -k share_a_word",
    ),
    Mutation(
        "minima of K-quants that are added",
        f"{LOADER}/gguf/blocks.py",
        "return raw ^ np.array([0, 0x80], np.uint8)",
        "return raw",
        "test/loader/test_gguf_layout.py -k stand_for",
    ),
    Mutation(
        "fifth bits two by two",
        f"{LOADER}/layouts/base.py",
        "upper = pairs(upper, size) if size >= bits else upper",
        "upper = pairs(upper, size) if size > 1 else upper[..., ::2]",
        "test/loader/test_gguf_layout.py -k stand_for",
    ),
    Mutation(
        "factors of groups without the one of 256 columns",
        f"{LAYERS}/ops/reference/quant.py",
        "found = ops.cast(parts[..., :groups], mstype.float32) * mint.unsqueeze(whole, -1)",
        "found = ops.cast(parts[..., :groups], mstype.float32) + 0 * mint.unsqueeze(whole, -1)",
        "test/ops/test_quant.py -k 'multiplied_by_those and reference'",
    ),
    Mutation(
        "one row that adds up unlike tiles",
        TILES,
        "Lanes& to = t % 2 ? odd[p] : even[p];",
        "Lanes& to = even[p];",
        f"{ISA_TESTS} -k of_one_alone",
    ),
    Mutation(
        "zeros of MXFP4 that are multiplied as other numbers",
        TILES,
        "_mm512_mask_add_epi16(halves, numbers, halves, (__m512i)steps[p])",
        "_mm512_mask_add_epi16(halves, numbers | ~numbers, halves, (__m512i)steps[p])",
        f"{ISA_TESTS} -k codes_agree",
    ),
    Mutation(
        "sums of a segment that begin anew in each part of a block",
        TILES,
        "at % segment_ ? load_sums(open) : zero_sums();",
        "zero_sums();",
        f"{ISA_TESTS} -k of_one_alone",
    ),
)


if __name__ == "__main__":
    run(MUTATIONS)

"""Which method each layer gets by config.json, and what of it is refused by name."""

import pytest
from mindspore import bfloat16, float16, float32, int8, nn

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import Experts, MergedColumnParallelLinear
from sglang.srt.layers_ms.linear import ReplicatedLinear
from sglang.srt.layers_ms.quantization import (
    DENSE,
    HEAD,
    LINEAR,
    MOE,
    UnsupportedQuantization,
    create_parameters,
    formats,
    quantized,
    read,
)
from sglang.srt.layers_ms.quantization.base import EMBEDDING, LOOKUP
from sglang.srt.layers_ms.quantization.gguf import ENCODINGS
from sglang.srt.layers_ms.quantization.mixed import MixedLinear
from sglang.srt.layers_ms.quantization.quantized import (
    QuantizedEmbedding,
    QuantizedHead,
    QuantizedLinear,
    QuantizedMoE,
)
from sglang.srt.layers_ms.quantization.unquantized import UnquantizedLinear, UnquantizedMoE
from sglang.srt.model_loader_ms.names import TensorNames

SECONDS = 5

ROWS = {"num_bits": 8, "type": "int", "symmetric": True}
GROUP = {
    "targets": ["Linear"],
    "weights": ROWS | {"strategy": "channel"},
    "input_activations": ROWS | {"strategy": "token", "dynamic": True},
}
W4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}


def tensors_of(group):
    return {"quant_method": "compressed-tensors", "config_groups": {"a": group}}


REFUSED = {
    "a method of others": ({"quant_method": "hqq", "bits": 4}, r"'hqq' is not supported, only ..auto-round., .awq."),
    "no method": ({"bits": 4}, "None is not supported"),
    "odd blocks": ({"quant_method": "fp8", "weight_block_size": ["a", 1]}, r"weight_block_size of \['a', 1\]"),
    "float8 of another kind": ({"quant_method": "fp8", "fmt": "e5m2"}, "fp8: fmt 'e5m2', not 'e4m3'"),
    "awq of three bits": ({"quant_method": "awq", "bits": 3}, "awq: bits 3, not 4"),
    "awq in another order": ({"quant_method": "awq", "version": "gemv"}, "version 'gemv', not 'gemm'"),
    "gptq of two bits": ({"quant_method": "gptq", "bits": 2}, "gptq: bits 2, not 4 or 8"),
    "gptq for a kernel": ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
    "gptq packed for a kernel": (
        {"quant_method": "gptq", "bits": 4, "is_marlin_format": True},
        "is_marlin_format True",
    ),
    "gptq in other words": (
        {"quant_method": "gptq", "bits": 4, "pack_dtype": "int16"},
        "pack_dtype 'int16', not 'int32'",
    ),
    "gptq in odd groups": ({"quant_method": "gptq", "bits": 4, "group_size": 20}, "group_size 20, not -1 or a mult"),
    "gptq of three bits in some layers": (
        {"quant_method": "gptq", "bits": 4, "dynamic": {".*up_proj": {"bits": 3}}},
        "gptq: bits 3, not 4 or 8",
    ),
    "no groups": ({"quant_method": "compressed-tensors"}, "without config_groups"),
    "sparse": (tensors_of(GROUP) | {"sparsity_config": {"format": "2:4"}}, "with a sparsity_config"),
    "rotated": (tensors_of(GROUP) | {"transform_config": {"a": 1}}, "with a transform_config"),
    "rotated by groups": (tensors_of(GROUP) | {"transform_config": {"config_groups": {"a": {}}}}, "a transform_config"),
    "int8 in groups": (
        tensors_of(GROUP | {"weights": ROWS | {"strategy": "group"}}),
        "weights.strategy 'group', not 'channel' or 'tensor'",
    ),
    "activations without symmetry": (
        tensors_of(GROUP | {"input_activations": ROWS | {"symmetric": False}}),
        "input_activations.symmetric False, not True; input_activations.strategy None, not 'token'",
    ),
    "activations of eight bits with weights of four": (
        PACKED | {"config_groups": {"a": GROUP | {"weights": W4}}},
        r"pack-quantized with input_activations \{'num_bits': 8, 'type': 'int'\}",
    ),
    "nvfp4": (
        tensors_of({"targets": ["Linear"], "format": "nvfp4-pack-quantized", "weights": W4 | {"type": "float"}}),
        "format 'nvfp4-pack-quantized': NVFP4 is not computed",
    ),
    "other classes": (tensors_of(GROUP | {"targets": ["Conv1d"]}), r"targets \['Conv1d'\], not 'Linear'"),
    "static": (
        {"quant_method": "modelslim", "a.weight": "FLOAT", "model.b.weight": "W4A4_DYNAMIC"},
        "model.b.weight is W4A4_DYNAMIC; FLOAT, W4A16, W4A8_DYNAMIC, W8A16, W8A8, W8A8_DYNAMIC",
    ),
    "settings of no shape": ({"quant_method": "gptq", "dynamic": ["x"]}, "gptq: quantization_config cannot be read: "),
    "a group of nothing": (tensors_of(None), "compressed-tensors: quantization_config cannot be read: "),
    "an expression that is none": (tensors_of(GROUP) | {"ignore": ["re:("]}, "cannot be read: missing \\)"),
    "a method of no name": ({"quant_method": ["gptq"]}, r"quant_method \['gptq'\] is not supported"),
    "settings of auto-round by no expression": (
        {"quant_method": "auto-round", "extra_config": {"mlp(": {"bits": 8}}},
        r"auto-round: extra_config has 'mlp\(', which is no regular expression",
    ),
    "no description": ({"quant_method": "modelslim"}, "without quant_model_description.json"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_method_computes_is_refused_by_name(name):
    config, message = REFUSED[name]
    with pytest.raises(UnsupportedQuantization, match=message):
        read(config)


# What llmcompressor also writes of a checkpoint whose zeros were counted, and of one whose codes are not packed.
SAYS_NOTHING = {
    "zeros": {"sparsity_config": {"format": "dense", "global_sparsity": 0.03, "sparsity_structure": "unstructured"}},
    "nothing": {"sparsity_config": {}, "transform_config": {}},
    "no rotations": {"transform_config": {"config_groups": {}}},
    "an older name": {"format": "naive-quantized"},
}


@pytest.mark.parametrize("name", SAYS_NOTHING)
def test_keys_that_change_no_value_are_accepted(name):
    found = read(tensors_of(GROUP) | SAYS_NOTHING[name]).encoding("x")
    assert found == read(tensors_of(GROUP)).encoding("x")
    assert found.format.name == "int8_row"


def test_settings_of_auto_round_may_be_for_names_that_match():
    extra = {".*self_attn.*": {"bits": 16}, "model.layers.0.mlp.up_proj": {"bits": 8}, "mlp\\.[du]": {"bits": 8}}
    find = read({"quant_method": "auto-round", "bits": 4, "group_size": 32, "extra_config": extra}).encoding
    names = ("0.mlp.up", "1.mlp.down", "1.mlp.gate")
    assert [find(f"model.layers.{name}_proj").format.bits for name in names] == [8, 8, 4]
    assert find("model.layers.1.self_attn.q_proj") is None


def test_older_names_of_awqs_keys_and_single_names_are_read():
    found = {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "modules_to_not_convert": "visual"}
    find = read(found).encoding
    assert find("model.layers.0.mlp.up_proj").format.block == (1, 64)
    assert find("visual.blocks.0.attn.qkv") is None


SCHEMES = {
    "w8a8_int8": {"quant_method": "w8a8_int8", "ignore": ["a.x_proj"]},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "config_groups": {"a": GROUP},
        "ignore": [r"re:a\.x_.*"],
    },
    "modelslim": {"quant_method": "modelslim", "a.x_proj.weight": "FLOAT", "a.y_proj.weight": "W8A8_DYNAMIC"},
}


@pytest.mark.parametrize("name", SCHEMES)
def test_int8_is_for_the_layers_that_the_config_names(name):
    scheme = read(SCHEMES[name])
    assert type(scheme.get_method(LINEAR, ["a.y_proj"])) is QuantizedLinear
    assert type(scheme.get_method(MOE, ["a.y_proj"])) is QuantizedMoE
    assert type(scheme.get_method(LINEAR, ["a.x_proj"])) is UnquantizedLinear
    assert type(scheme.get_method(MOE, [])) is UnquantizedMoE  # tensors that are no Linear's in the checkpoint
    assert scheme.get_method(DENSE, ["a.y_proj"]).encoding.format == formats.INT8_ROW
    with pytest.raises(UnsupportedQuantization, match=r"quantizes a\.y_proj\.weight and not a\.x_proj\.weight"):
        scheme.get_method(LINEAR, ["a.x_proj", "a.y_proj"])


def form_of(scheme, layer, kind=LINEAR):
    """-> the format of a layer's method, None where it is not quantized; and how the checkpoint holds it."""
    encoding = scheme.get_method(kind, [layer]).encoding
    return (None, None) if encoding is None else (encoding.format, encoding)


def test_experts_of_gpt_oss_are_held_as_mxfp4_and_nothing_else():
    scheme = read({"quant_method": "mxfp4"})
    assert scheme.get_method(MOE, []).encoding.format is formats.MXFP4
    assert form_of(scheme, "a.q_proj") == (None, None) and read(None).get_method(LINEAR, ["a"]).encoding is None


def test_float8_is_held_with_the_scales_that_config_json_says():
    blocks = read({"quant_method": "fp8", "weight_block_size": [16, 32], "modules_to_not_convert": ["a.gate"]})
    form, encoding = form_of(blocks, "a.up_proj")
    assert (form.block, form.kind, encoding.scales) == ((16, 32), "e4m3", "_scale_inv")
    assert form_of(blocks, "a.gate_up") == (None, None) == form_of(blocks, "lm_head", HEAD)
    form, encoding = form_of(read({"quant_method": "fp8", "activation_scheme": "static"}), "a")
    assert (form.block, encoding.scales) == ((1, 0), "_scale")


def test_gptq_has_settings_for_some_layers():
    found = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 64,
        "sym": False,
        "desc_act": True,
        "dynamic": {
            r"-:.*\.v_proj": {},
            r"+:model\.layers\.1\.": {"bits": 8, "sym": True},
            r".*\.2\.": {"group_size": -1},
        },
    }
    scheme = read(found)
    form, encoding = form_of(scheme, "model.layers.0.q_proj")
    assert (form.bits, form.block, form.offset, encoding.ordered) == (4, (1, 64), "zero_point", True)
    assert form_of(scheme, "model.layers.1.v_proj") == (None, None) == form_of(scheme, "lm_head", HEAD)
    form, _ = form_of(scheme, "model.layers.1.q_proj")
    assert (form.bits, form.kind, form.block, form.offset) == (8, "int8", (1, 64), "")
    assert form_of(scheme, "model.layers.2.q_proj")[0].block == (1, 0)
    head = read(found | {"lm_head": True, "modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]]})
    held = ("lm_head", "a.self_attn.q_proj", "a.mlp.up_proj", "a.self_attn.o_proj")
    assert [form_of(head, layer)[0] is not None for layer in held] == [True, True, True, False]
    assert form_of(head, "lm_head", HEAD)[0].kind == "int4"


def test_groups_of_compressed_tensors_are_for_the_layers_that_they_target():
    groups = {
        "a": {"targets": ["Linear"], "weights": W4, "format": "pack-quantized"},
        "b": GROUP | {"targets": [r"re:.*down_proj$"], "format": "int-quantized"},
        "c": {"targets": ["x.o_proj"], "weights": {"num_bits": 8, "type": "float", "strategy": "tensor"}},
    }
    scheme = read({"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]}, "bfloat16")
    form, _ = form_of(scheme, "x.q_proj")
    assert (form.kind, form.block, form.scale, form.activations) == ("int4", (1, 32), "bfloat16", "float")
    assert form_of(scheme, "x.down_proj")[0].activations == "int8"
    assert form_of(scheme, "x.o_proj")[0].kind == "e4m3" and form_of(scheme, "lm_head", HEAD) == (None, None)
    with pytest.raises(
        UnsupportedQuantization, match=r"x\.q_proj\.weight as int4_group and x\.o_proj\.weight as fp8_row"
    ):
        scheme.get_method(LINEAR, ["x.q_proj", "x.o_proj"])


def test_of_gguf_files_each_layer_has_the_types_of_its_tensors():
    types = {
        "x.q_proj": "Q4_K",
        "x.k_proj": "Q4_K",
        "x.v_proj": "Q6_K",
        "lm_head": "Q6_K",
        "model.embed_tokens": "Q4_K",
    }
    types |= {"y.experts.gate_proj": "Q4_K", "y.experts.up_proj": "Q4_K", "y.experts.down_proj": "IQ4_NL"}
    scheme = read({"quant_method": "gguf", "tensors": types | {"z.experts.gate_proj": "Q4_K"}})
    assert type(scheme.get_method(LINEAR, ["x.q_proj", "x.k_proj"])) is QuantizedLinear
    mixed = scheme.get_method(LINEAR, ["x.q_proj", "x.k_proj", "x.v_proj", "x.o_proj"])
    names = [encoding and encoding.format.name for encoding in mixed.encodings]
    assert (type(mixed), names) == (MixedLinear, ["Q4_K", "Q4_K", "Q6_K", None])
    assert type(scheme.get_method(HEAD, ["lm_head"])) is QuantizedHead
    assert type(scheme.get_method(EMBEDDING, ["model.embed_tokens"])) is QuantizedHead
    assert type(scheme.get_method(LOOKUP, ["model.embed_tokens"])) is QuantizedEmbedding
    assert type(scheme.get_method(DENSE, ["x.q_proj"])) is UnquantizedLinear
    assert type(scheme.get_method(LINEAR, ["x.o_proj"])) is UnquantizedLinear
    experts = scheme.get_method(MOE, [f"y.experts.{e}.{name}" for name in ("gate_proj", "down_proj") for e in range(2)])
    formats_of = [experts.of(name).format for name in ("gate_up", "down")]
    assert [(form.name, form.activations) for form in formats_of] == [("Q4_K", "int8_group"), ("IQ4_NL", "int8_group")]
    assert type(scheme.get_method(MOE, ["z.experts.0.gate_proj"])) is UnquantizedMoE  # the others have no blocks


def test_of_a_gguf_file_float32_is_exact_and_others_are_rounded_by_groups():
    held = ENCODINGS["Q4_K"]
    assert (held.format.scale, held.format.activations, held.format.block) == ("int8", "int8_group", (1, 32))
    assert (held.exact.scale, held.exact.activations) == ("int8", "float")
    assert (held.wider.format.scale, held.wider.exact.scale) == ("float16", "float32")


def linear_of(dtype, method, columns=64):
    """A layer whose matrix that method holds."""
    layer = ReplicatedLinear(columns, 6, dtype)
    layer.create_parameters(method)
    return layer


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", ENCODINGS)
def test_blocks_meet_rounded_rows_where_operators_have_them(table, name, monkeypatch):
    """Codes are held either way."""
    held = {"weight", "weight_scale"} | ({"weight_offset"} if ENCODINGS[name].format.offset else set())

    def activations(dtype):
        layer = linear_of(dtype, QuantizedLinear(ENCODINGS[name]))
        assert {one.name.rpartition(".")[-1] for one in layer.get_parameters()} >= held
        return layer.activation_format

    def lacks_rounding(kind, group, offset, activations, *_):
        if activations != "float":
            raise NotImplementedError("no rounded rows")

    assert (activations(bfloat16), activations(float32)) == ("int8_group", "float")
    monkeypatch.setattr(quantized.ops, "check_quant", lacks_rounding)
    assert activations(bfloat16) == "float"


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
@pytest.mark.parametrize("dtype", [bfloat16, float32], ids=str)
@pytest.mark.parametrize("columns", [256, 320])
def test_scales_are_in_two_parts_where_a_rank_has_whole_blocks(table, dtype, columns):
    """Of 256 columns: bytes of eight groups, and a float16."""
    layer = linear_of(dtype, QuantizedLinear(ENCODINGS["Q4_K"]), columns)
    wanted = {256: (int8, 10), 320: (float16 if dtype == bfloat16 else float32, 10)}[columns]
    for part in (layer.weight_scale, layer.weight_offset):
        assert (part.dtype, part.shape[-1]) == wanted


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
@pytest.mark.parametrize("name, columns, kind", [("Q5_0", 96, "int5"), ("Q5_0", 48, "int8"), ("Q5_K", 256, "uint5")])
def test_codes_of_five_bits_are_held_so_where_a_rank_has_whole_groups(table, name, columns, kind):
    layer = linear_of(bfloat16, QuantizedLinear(ENCODINGS[name]), columns)
    assert (layer.weight_kind, layer.activation_format) == (kind, "int8_group")


class Layer(nn.Cell):
    def __init__(self):
        super().__init__()
        self.gate_up_proj = MergedColumnParallelLinear(8, ["gate_proj", "up_proj"], 4, False, Shard(), float32)
        self.experts = Experts(8, 4, 2, Shard(), float32)
        self.gate = ReplicatedLinear(8, 1, float32, quantizable=False)


def test_layers_are_asked_for_by_the_checkpoints_names():
    network, asked = nn.Cell(), []
    network.layers = nn.CellList([Layer()])

    class Scheme:
        towers = True

        def get_method(self, kind, layers):
            asked.append((kind, layers))
            return read(None).get_method(kind, layers)

    create_parameters(network, Scheme(), TensorNames({"gate_proj": "w1", "layers": "h"}, {"layers.0": "layers.3"}))
    experts = [f"h.3.experts.{e}.{name}" for e in range(2) for name in ("w1", "up_proj")]
    experts += [f"h.3.experts.{e}.down_proj" for e in range(2)]
    assert asked == [(LINEAR, ["h.3.w1", "h.3.up_proj"]), (MOE, experts), (DENSE, ["h.3.gate"])]


@pytest.mark.parametrize(
    "form, shape, scales, count",
    [
        (formats.FP8_BLOCK, (130, 256), (2, 2), 8),
        (formats.INT8_ROW, (5, 7), (5, 1), 8),
        (formats.MXFP4, (3, 4, 64), (3, 4, 2), 4),
    ],
)
def test_a_format_says_how_many_scales_and_bytes_there_are(form, shape, scales, count):
    assert form.scales(shape) == scales and form.nbytes(8) == count

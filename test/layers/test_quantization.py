"""Which method each layer gets by config.json, and what of it is refused by name."""

import pytest
from mindspore import float32, nn

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import Experts, MergedColumnParallelLinear
from sglang.srt.layers_ms.linear import ReplicatedLinear
from sglang.srt.layers_ms.quantization import (
    DENSE,
    LINEAR,
    MOE,
    UnsupportedQuantization,
    create_parameters,
    formats,
    read,
)
from sglang.srt.layers_ms.quantization.unquantized import UnquantizedLinear, UnquantizedMoE
from sglang.srt.layers_ms.quantization.w8a8_int8 import W8A8Int8Linear, W8A8Int8MoE
from sglang.srt.model_loader_ms.names import TensorNames

SECONDS = 5

ROWS = {"num_bits": 8, "type": "int", "symmetric": True}
GROUP = {
    "targets": ["Linear"],
    "weights": ROWS | {"strategy": "channel"},
    "input_activations": ROWS | {"strategy": "token", "dynamic": True},
}
REFUSED = {
    "awq": ({"quant_method": "awq", "bits": 4}, r"'awq' is not supported, only \['compressed-tensors', 'fp8'"),
    "no method": ({"bits": 4}, "None is not supported"),
    "fp8 of whole matrices": ({"quant_method": "fp8"}, "weight_block_size of None"),
    "odd blocks": ({"quant_method": "fp8", "weight_block_size": ["a", 1]}, r"weight_block_size of \['a', 1\]"),
    "no groups": ({"quant_method": "compressed-tensors"}, "without config_groups"),
    "four bits": (
        {"quant_method": "compressed-tensors", "config_groups": {"a": GROUP | {"weights": ROWS | {"num_bits": 4}}}},
        "weights.num_bits 4, not 8; weights.strategy None, not 'channel'",
    ),
    "static": (
        {"quant_method": "modelslim", "a.weight": "FLOAT", "model.b.weight": "W8A8"},
        "model.b.weight is W8A8; W8A8_DYNAMIC and FLOAT",
    ),
    "no description": ({"quant_method": "modelslim"}, "without quant_model_description.json"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_method_computes_is_refused_by_name(name):
    config, message = REFUSED[name]
    with pytest.raises(UnsupportedQuantization, match=message):
        read(config)


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
    assert type(scheme.get_method(LINEAR, ["a.y_proj"])) is W8A8Int8Linear
    assert type(scheme.get_method(MOE, ["a.y_proj"])) is W8A8Int8MoE
    assert type(scheme.get_method(LINEAR, ["a.x_proj"])) is UnquantizedLinear
    assert type(scheme.get_method(MOE, [])) is UnquantizedMoE  # tensors that are no Linear's in the checkpoint
    assert scheme.get_method(DENSE, ["a.y_proj"]).encoding.format is formats.INT8_ROW
    with pytest.raises(UnsupportedQuantization, match=r"quantizes a\.y_proj\.weight and not a\.x_proj\.weight"):
        scheme.get_method(LINEAR, ["a.x_proj", "a.y_proj"])


def test_what_is_dequantized_when_it_is_loaded_has_the_methods_of_weights_that_are_not_quantized():
    fp8 = read({"quant_method": "fp8", "weight_block_size": [16, 32]})
    mxfp4 = read({"quant_method": "mxfp4"})
    for scheme, form in ((fp8, "fp8_block"), (mxfp4, "mxfp4")):
        for kind, layers in ((LINEAR, ["a"]), (MOE, [])):
            method = scheme.get_method(kind, layers)
            assert type(method) is {LINEAR: UnquantizedLinear, MOE: UnquantizedMoE}[kind]
            assert method.encoding.format.name == form
    assert fp8.get_method(LINEAR, ["a"]).encoding.format.block == (16, 32)
    assert read(None).get_method(LINEAR, ["a"]).encoding is None


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

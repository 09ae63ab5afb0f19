"""What config.json says of a checkpoint's quantization -> the method of each layer.

A scheme names the layers by the checkpoint's names: model.layers.0.mlp.down_proj.
"""

import re
from collections.abc import Callable, Sequence

from sglang.srt.layers_ms.quantization.base import Method
from sglang.srt.layers_ms.quantization.fp8 import fp8
from sglang.srt.layers_ms.quantization.mxfp4 import mxfp4
from sglang.srt.layers_ms.quantization.unquantized import unquantized
from sglang.srt.layers_ms.quantization.w8a8_int8 import w8a8_int8


class UnsupportedQuantization(Exception):
    """A checkpoint is quantized in a way that no method computes."""


class QuantizationConfig:
    """The scheme of a checkpoint whose layers are all held by the same method.

    method: kind of a layer (quantization.base) -> its method. holds: name of a layer -> whether it is quantized.
    """

    ignored_tensors = ()  # patterns of names of tensors that nothing reads

    def __init__(self, name: str, method: Callable[[str], Method], holds: Callable[[str], bool] | None = None):
        self.name, self.method, self.holds = name, method, holds or (lambda layer: True)

    def get_method(self, kind: str, layers: Sequence[str]) -> Method:
        """Of a layer that holds the matrices of these layers of the checkpoint; () for tensors that are no layers'.

        UnsupportedQuantization where only some of them are quantized.
        """
        quantized = [layer for layer in layers if self.holds(layer)]
        if len(quantized) == len(layers):
            return self.method(kind)
        if quantized:
            other = next(layer for layer in layers if layer not in quantized)
            raise UnsupportedQuantization(
                f"{self.name} quantizes {quantized[0]}.weight and not {other}.weight, which are multiplied as one"
            )
        return unquantized(kind)


UNQUANTIZED = QuantizationConfig("unquantized", unquantized)


class Int8Config(QuantizationConfig):
    """int8 rows. The tensors that are no Linear's in the checkpoint are never quantized."""

    ignored_tensors = (r"\.weight_offset$",)  # of ModelSlim's weights without an offset: zeros

    def __init__(self, name: str, holds: Callable[[str], bool]):
        super().__init__(name, w8a8_int8, holds)

    def get_method(self, kind, layers):
        return super().get_method(kind, layers) if layers else unquantized(kind)


def _w8a8_int8(found: dict) -> QuantizationConfig:
    return Int8Config("w8a8_int8", _but_ignored(found))


INT8_ROWS = {"num_bits": 8, "type": "int", "symmetric": True}
INT8_GROUP = {
    "weights": INT8_ROWS | {"strategy": "channel"},
    "input_activations": INT8_ROWS | {"strategy": "token", "dynamic": True},
}


def _compressed_tensors(found: dict) -> QuantizationConfig:
    groups = found.get("config_groups") or {}
    if not groups:
        raise UnsupportedQuantization("compressed-tensors without config_groups")
    for group in groups.values():
        wrong = [] if group.get("targets") == ["Linear"] else [f"targets {group.get('targets')}, not ['Linear']"]
        for part, wanted in INT8_GROUP.items():
            given = group.get(part) or {}
            pairs = ((key, given.get(key), value) for key, value in wanted.items())
            wrong += [f"{part}.{key} {value!r}, not {right!r}" for key, value, right in pairs if value != right]
        if wrong:
            raise UnsupportedQuantization(f"compressed-tensors: {'; '.join(wrong)}")
    return Int8Config("compressed-tensors", _but_ignored(found))


def _but_ignored(found: dict) -> Callable[[str], bool]:
    """All layers but those of `ignore`, which has names of layers, or after `re:` a regular expression."""
    names = set(found.get("ignore") or ())
    patterns = [re.compile(name.removeprefix("re:")) for name in names if name.startswith("re:")]
    return lambda layer: layer not in names and not any(pattern.match(layer) for pattern in patterns)


def _modelslim(found: dict) -> QuantizationConfig:
    """Of quant_model_description.json: the name of each weight -> how it is quantized."""
    described = {name: kind for name, kind in found.items() if name.endswith(".weight")}
    if not described:
        raise UnsupportedQuantization("modelslim without quant_model_description.json, which names each weight")
    kinds = {name: kind for name, kind in described.items() if kind != "FLOAT"}
    others = {name: kind for name, kind in kinds.items() if kind != "W8A8_DYNAMIC"}
    for name, kind in others.items():
        raise UnsupportedQuantization(f"modelslim: {name} is {kind}; W8A8_DYNAMIC and FLOAT are computed")
    return Int8Config("modelslim", lambda layer: f"{layer}.weight" in kinds)


def _fp8(found: dict) -> QuantizationConfig:
    block = found.get("weight_block_size")
    if not (isinstance(block, Sequence) and len(block) == 2 and all(isinstance(n, int) and n > 0 for n in block)):
        raise UnsupportedQuantization(f"fp8 with a weight_block_size of {block!r}; it is computed with [rows, columns]")
    return QuantizationConfig("fp8", lambda kind: fp8(kind, tuple(block)))


def _mxfp4(found: dict) -> QuantizationConfig:
    return QuantizationConfig("mxfp4", mxfp4)


READERS = {
    "w8a8_int8": _w8a8_int8,
    "compressed-tensors": _compressed_tensors,
    "modelslim": _modelslim,
    "fp8": _fp8,
    "mxfp4": _mxfp4,
}


def read(found: dict | None) -> QuantizationConfig:
    """The scheme of config.json's quantization_config; UnsupportedQuantization, naming it, if none computes it."""
    if not found:
        return UNQUANTIZED
    method = found.get("quant_method")
    if method not in READERS:
        raise UnsupportedQuantization(f"quant_method {method!r} is not supported, only {sorted(READERS)}")
    return READERS[method](found)

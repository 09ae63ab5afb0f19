"""Checkpoints of int8 weights with a factor for each row: which layers have them, by what config.json says.

Three ways to write such a checkpoint are known: SGLang's w8a8_int8, compressed-tensors, and Ascend's ModelSlim, whose
quant_model_description.json names every tensor. All have `weight`, int8 [out, in], and `weight_scale` [out, 1]; the
rows of activations are rounded to int8 when they are multiplied.
"""

import re
from collections.abc import Callable

from mindspore import nn

from sglang.srt.layers_ms.linear import ColumnParallelLinear, ReplicatedLinear, RowParallelLinear
from sglang.srt.layers_ms.mla import KVBProj
from sglang.srt.layers_ms.moe import Experts
from sglang.srt.models_ms.config import UnsupportedConfig
from sglang.srt.models_ms.registry import INT8_METHODS

ROWS = {"num_bits": 8, "type": "int", "symmetric": True}
GROUP = {"weights": ROWS | {"strategy": "channel"}, "input_activations": ROWS | {"strategy": "token", "dynamic": True}}
IGNORED = (r"\.weight_offset$",)  # of ModelSlim's weights without an offset: zeros
PROJECTION = re.compile(r"_proj(_with_mqa)?\.weight$")


def apply(network: nn.Cell, hf: dict) -> None:
    """Let the linear layers of a network hold int8 weights where its config says so; before it is loaded.

    UnsupportedConfig for methods, and for weights, that no layer computes with.
    """
    found = hf.get("quantization_config") or {}
    method = found.get("quant_method")
    if method not in INT8_METHODS:
        return  # what the loader dequantizes
    if network.tensor_names:
        raise UnsupportedConfig(f"{method}: int8 weights of {type(network).__name__}, whose tensors have other names")
    held = _modelslim(found) if method == "modelslim" else _but_ignored(found)
    problems = []
    for name, cell in network.cells_and_names():
        names = [_absolute(network, name, weight_slice.source) for weight_slice in _weights(cell)]
        chosen = [one for one in names if PROJECTION.search(one) and held(one)]
        if not chosen:
            continue
        if not isinstance(cell, (ColumnParallelLinear, RowParallelLinear, ReplicatedLinear, KVBProj, Experts)):
            problems.append(f"{chosen[0]}, of {type(cell).__name__}")
        elif len(chosen) < len(names):
            problems.append(f"{chosen[0]} and not {next(one for one in names if one not in chosen)}")
        else:
            cell.quantize()
    if problems:
        raise UnsupportedConfig(f"{method}: no operator multiplies these int8 weights: {', '.join(problems[:4])}")
    network.ignored_tensors = (*network.ignored_tensors, *IGNORED)


def _weights(cell):
    """What fills the parameters of a cell, biases and its own cells' left out."""
    own = (parameter for parameter in cell._params.values() if parameter is not None)
    return [
        weight_slice for parameter in own for weight_slice in parameter.slices if weight_slice.source.endswith("weight")
    ]


def _absolute(network, name: str, source: str) -> str:
    """The checkpoint's name of a tensor that a cell names."""
    cells = name.split(".")
    while source.startswith("../"):
        cells, source = cells[:-1], source.removeprefix("../")
    full = ".".join([*cells, source])
    for own, whole in network.layer_renames.items():
        if full.startswith(f"{own}."):
            return whole + full.removeprefix(own)
    return full


def _modelslim(found: dict) -> Callable[[str], bool]:
    kinds = {key: value for key, value in found.items() if key.endswith(".weight") and value != "FLOAT"}
    others = sorted({kind for kind in kinds.values() if kind != "W8A8_DYNAMIC"}, key=str)
    if others:
        name = next(key for key in kinds if kinds[key] == others[0])
        raise UnsupportedConfig(f"modelslim: {name} is {others[0]}; W8A8_DYNAMIC and FLOAT are computed")
    return kinds.__contains__


def _but_ignored(found: dict) -> Callable[[str], bool]:
    """All projections but those of `ignore`, which has names of layers, or after `re:` a regular expression."""
    for group in (found.get("config_groups") or {}).values():
        _check_group(group)
    if found["quant_method"] == "compressed-tensors" and not found.get("config_groups"):
        raise UnsupportedConfig("compressed-tensors without config_groups")
    names = set(found.get("ignore") or ())
    patterns = [re.compile(name.removeprefix("re:")) for name in names if name.startswith("re:")]

    def held(name: str) -> bool:
        layer = name.removesuffix(".weight")
        return layer not in names and not any(pattern.match(layer) for pattern in patterns)

    return held


def _check_group(group: dict) -> None:
    wrong = [] if group.get("targets") == ["Linear"] else [f"targets {group.get('targets')}, not ['Linear']"]
    for part, wanted in GROUP.items():
        found = group.get(part) or {}
        pairs = ((key, found.get(key), value) for key, value in wanted.items())
        wrong += [f"{part}.{key} {value!r}, not {right!r}" for key, value, right in pairs if value != right]
    if wrong:
        raise UnsupportedConfig(f"compressed-tensors: {'; '.join(wrong)}")

"""compressed-tensors, as llmcompressor writes it: groups of layers, each with a format of its own."""

from collections.abc import Callable

from sglang.srt.layers_ms.quantization.config import QuantizationConfig, UnsupportedQuantization, matcher
from sglang.srt.layers_ms.quantization.formats import FP8_BLOCK, INT4_GROUP, INT8_GROUP, INT8_ROW, MXFP4, Encoding
from sglang.srt.layers_ms.quantization.fp8 import FP8_ROW, IGNORED

NAME = "compressed-tensors"


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of config.json's quantization_config. dtype: config.json's, which scales of groups have too."""
    groups = found.get("config_groups") or {}
    if not groups:
        raise UnsupportedQuantization(f"{NAME} without config_groups")
    _refuse_more(found)
    rules = [_rule(group, found.get("format"), dtype) for group in groups.values()]
    ignored = matcher(found.get("ignore"))

    def find(layer: str) -> Encoding | None:
        if ignored(layer):
            return None
        for by_class in (False, True):  # a name says more than a class
            for matches, is_class, encoding in rules:
                if is_class == by_class and matches(layer):
                    return encoding
        return None

    return QuantizationConfig(NAME, find, ignored_tensors=(*IGNORED, r"self_attn\.[kv]_zero_point$"), head=True)


def _refuse_more(found: dict) -> None:
    """What changes values beside quantization. Zeros that were only counted, which `dense` says, do not."""
    sparsity, transforms = (found.get(key) or {} for key in ("sparsity_config", "transform_config"))
    wrong = []
    if sparsity.get("format", "dense") != "dense":
        wrong.append(f"a sparsity_config: {sparsity!r}")
    if transforms.get("config_groups", transforms):
        wrong.append(f"a transform_config: {transforms!r}")
    if wrong:
        raise UnsupportedQuantization(f"{NAME} with {' and '.join(wrong)}")


def _rule(group: dict, form: str | None, dtype: str) -> tuple[Callable[[str], bool], bool, Encoding]:
    """-> whether a layer is in the group, whether that is by its class, and how the group's layers are held."""
    targets = group.get("targets") or []
    others = [name for name in targets if name[:1].isupper() and name != "Linear" and "." not in name]
    if others or not targets:
        raise UnsupportedQuantization(f"{NAME}: targets {targets}, not 'Linear' or names of layers")
    encoding = _encoding(group, group.get("format") or form, dtype)
    return (lambda layer: True, True, encoding) if "Linear" in targets else (matcher(targets), False, encoding)


def _encoding(group: dict, form: str | None, dtype: str) -> Encoding:
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    kind, bits = weights.get("type"), weights.get("num_bits")
    if (kind, bits) == ("float", 8):
        return _float8(weights)
    if "nvfp4" in (form or ""):
        raise UnsupportedQuantization(
            f"{NAME}: format {form!r}: NVFP4 is not computed; of four bits, MXFP4 and int4 are"
        )
    if (kind, bits) == ("float", 4) and form == "mxfp4-pack-quantized":
        return Encoding(MXFP4, codes="_packed")
    if form == "pack-quantized" and kind == "int" and bits in (4, 8):
        _refuse_inputs(inputs, form)
        return _packed(weights, bits, dtype)
    if form in ("int-quantized", "naive-quantized", None) and (kind, bits) == ("int", 8):
        return _int8(weights, inputs)
    raise UnsupportedQuantization(f"{NAME}: format {form!r} with weights of {bits} bits of type {kind!r}")


def _refuse_inputs(inputs: dict | None, form: str) -> None:
    if inputs:
        what = {key: inputs[key] for key in ("num_bits", "type") if key in inputs}
        raise UnsupportedQuantization(f"{NAME}: {form} with input_activations {what}")


def _float8(weights: dict) -> Encoding:
    strategy, block = weights.get("strategy"), weights.get("block_structure")
    if strategy in ("channel", "tensor"):
        return Encoding(FP8_ROW)
    if strategy == "block" and isinstance(block, list) and len(block) == 2:
        return Encoding(FP8_BLOCK._replace(block=tuple(block)))
    raise UnsupportedQuantization(f"{NAME}: float-quantized weights with strategy {strategy!r}, {block!r}")


def _packed(weights: dict, bits: int, dtype: str) -> Encoding:
    strategy, size = weights.get("strategy"), weights.get("group_size")
    if strategy not in ("group", "channel", "tensor") or strategy == "group" and (not size or size < 16 or size % 16):
        raise UnsupportedQuantization(f"{NAME}: pack-quantized weights with strategy {strategy!r}, group_size {size}")
    grouped = strategy == "group"
    scale = dtype if grouped and dtype in ("float16", "bfloat16") else "float32"
    form = (INT4_GROUP if bits == 4 else INT8_GROUP)._replace(
        block=(1, size if grouped else 0), scale=scale, offset="" if weights.get("symmetric", True) else "zero_point"
    )
    return Encoding(form, "packed", ordered=weights.get("actorder") in ("group", True))


def _int8(weights: dict, inputs: dict | None) -> Encoding:
    wrong = [] if weights.get("symmetric", True) else ["weights.symmetric False"]
    if weights.get("strategy") not in ("channel", "tensor"):
        wrong.append(f"weights.strategy {weights.get('strategy')!r}, not 'channel' or 'tensor'")
    if inputs is None:
        activations = "float"
    elif inputs.get("dynamic") is False and inputs.get("strategy") == "tensor":
        wrong += _differing(inputs, {"num_bits": 8, "type": "int"})
        activations = "int8_static"
    else:
        rounded = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
        wrong += _differing(inputs, rounded)
        activations = "int8"
    if wrong:
        raise UnsupportedQuantization(f"{NAME}: {'; '.join(wrong)}")
    return Encoding(INT8_ROW._replace(activations=activations))


def _differing(inputs: dict, wanted: dict) -> list[str]:
    pairs = ((key, inputs.get(key), value) for key, value in wanted.items())
    return [f"input_activations.{key} {value!r}, not {right!r}" for key, value, right in pairs if value != right]

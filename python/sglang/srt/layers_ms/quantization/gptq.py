"""GPTQ: four or eight bits, a zero point and a scale for each group of columns; activations are not rounded.

Frantar et al., 2022. As autogptq and gptqmodel write it; model_loader_ms/layouts/gptq.py has the tensors.
"""

import re
from collections.abc import Callable

from sglang.srt.layers_ms.quantization.config import QuantizationConfig, UnsupportedQuantization, group_size, wanted
from sglang.srt.layers_ms.quantization.formats import INT4_GROUP, INT8_GROUP, Encoding

LAYOUTS = {"gptq": "gptq", "gptq_v2": "gptq_v2"}  # checkpoint_format -> layout


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of config.json's quantization_config."""
    wanted("gptq", found, checkpoint_format=("gptq", "gptq_v2", ""), is_marlin_format=(False, None))
    wanted("gptq", found, pack_dtype=("int32", "torch.int32", None))
    encodings = {"": encoding(found)}
    rules = [_rule(pattern, changes) for pattern, changes in (found.get("dynamic") or {}).items()]
    for _, changes in rules:
        if changes is not None:
            encodings[str(changes)] = encoding(found | changes)
    blocks = _quantized_in_blocks(found)

    def find(layer: str) -> Encoding | None:
        if blocks and layer != "lm_head" and not layer.endswith(blocks):
            return None
        for matches, changes in rules:
            if matches(layer):
                return None if changes is None else encodings[str(changes)]
        return encodings[""]

    return QuantizationConfig("gptq", find, head=bool(found.get("lm_head")), towers=False)


def encoding(found: dict) -> Encoding:
    """Of a checkpoint, or of the layers for which it has settings of their own."""
    wanted("gptq", found, bits=(4, 8))
    form = INT4_GROUP if found.get("bits", 4) == 4 else INT8_GROUP
    form = form._replace(block=(1, group_size("gptq", found)), offset="" if found.get("sym", True) else "zero_point")
    layout = LAYOUTS[found.get("checkpoint_format") or "gptq"]
    return Encoding(form, layout, ordered=bool(found.get("desc_act")))


def _rule(pattern: str, changes: dict) -> tuple[Callable[[str], bool], dict | None]:
    """Of gptqmodel's `dynamic`: "-:" before an expression leaves layers out, "+:" or nothing changes their settings."""
    out = pattern.startswith("-:")
    try:
        expression = re.compile(pattern.removeprefix("-:").removeprefix("+:"))
    except re.error as error:
        raise UnsupportedQuantization(f"gptq: dynamic has {pattern!r}, which is no regular expression") from error
    return lambda layer: expression.match(layer) is not None, None if out else dict(changes or {})


def _quantized_in_blocks(found: dict) -> tuple[str, ...]:
    """Ends of the names of the only layers that are quantized; (): all are."""
    lists = found.get("modules_in_block_to_quantize") or ()
    return tuple("." + name for names in lists for name in ([names] if isinstance(names, str) else names))

"""AutoRound: the layouts of GPTQ and AWQ, with settings of their own for some layers. Cheng et al., 2023."""

import re

from sglang.srt.layers_ms.quantization import awq, gptq
from sglang.srt.layers_ms.quantization.config import QuantizationConfig, UnsupportedQuantization, wanted
from sglang.srt.layers_ms.quantization.formats import Encoding

NAME = "auto-round"
_SPECIAL = set("*+?^$()[]{}|\\")  # of which names of layers have none
# packing_format -> how a layer's settings are read
PACKINGS = {
    "auto_round:auto_gptq": lambda found: gptq.encoding(found | {"checkpoint_format": "gptq", "desc_act": False}),
    "auto_round:auto_awq": lambda found: awq.encoding(found),
}


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of config.json's quantization_config.

    extra_config has what differs for some layers, by their names, or by expressions that are found in them.
    """
    wanted(NAME, found, data_type=("int",), act_bits=(16, None, 32))
    packing = found.get("packing_format") or "auto_round:auto_gptq"
    if packing not in PACKINGS:
        raise UnsupportedQuantization(f"{NAME}: packing_format {packing!r}, not {' or '.join(PACKINGS)}")
    own = {name: _encoding(packing, found | extra) for name, extra in (found.get("extra_config") or {}).items()}
    usual, blocks = _encoding(packing, found), _blocks(found)
    patterns = [(_compiled(name), encoding) for name, encoding in own.items() if _SPECIAL & set(name)]

    def find(layer: str) -> Encoding | None:
        if layer in own:
            return own[layer]
        for pattern, encoding in patterns:
            if pattern.search(layer):
                return encoding
        return usual if not blocks or layer.startswith(blocks) else None

    return QuantizationConfig(NAME, find, head=own.get("lm_head") is not None, towers=False)


def _compiled(name: str) -> re.Pattern:
    try:
        return re.compile(name)
    except re.error as error:
        raise UnsupportedQuantization(f"{NAME}: extra_config has {name!r}, which is no regular expression") from error


def _encoding(packing: str, found: dict) -> Encoding | None:
    return PACKINGS[packing](found) if (found.get("bits") or 4) < 16 else None


def _blocks(found: dict) -> tuple[str, ...]:
    """The beginnings of the names of layers that are quantized; (): of all."""
    names = found.get("block_name_to_quantize") or found.get("to_quant_block_names") or ()
    if isinstance(names, str):
        names = names.split(",")
    flat = [name for one in names for name in ([one] if isinstance(one, str) else one)]
    return tuple(name.strip() + "." for name in flat)

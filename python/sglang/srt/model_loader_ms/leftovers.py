"""Tensors that checkpoints hold and no model computes with: what they are, by their names.

transformers drops whatever a model has no parameter for. Here that is an error, unless it is known to change nothing.
"""

import re
from collections import Counter
from collections.abc import Iterable

_SHOWN = 12  # names in a message, before those that differ in numbers only are counted together
HARMLESS = {
    "tables of rotary embeddings": (
        r"(^|\.)(rotary|rotary_emb|rotary_pos_emb|rope)(_\w+)?\.\w+$",
        r"(^|\.)(original_)?inv_freq$",
        r"(^|\.)(cos_cached|sin_cached|cos_sin_cache|freqs_cis)$",
    ),
    "masks and positions": (
        r"(^|\.)(attn|attention|self_attn|self_attention)\.(bias|masked_bias|causal_mask|mask)$",
        r"(^|\.)(position_ids|causal_mask|attention_mask|future_mask|alibi|alibi_mask|logn_tensor)$",
    ),
    "factors that config.json has too": (r"(^|\.)(embed_scale|normalizer)$",),
    "states of a framework": (r"(^|\.)(_extra_state|num_batches_tracked)$",),
    "scales of a cache in FP8": (
        r"(^|\.)(attn|attention|self_attn)\.((q|k|v|kv|prob|attn)_scale)$",
        r"(^|\.)(q_proj\.q_scale|k_proj\.k_scale|v_proj\.v_scale|[qkv]_proj\.output_scale)$",
    ),
    "layers that predict further tokens": (r"^(model\.)?(mtp|mtp_layers|mtp_block|nextn)\.",),
    "heads of another task": (r"^(v_head|value_head|score|classifier|regression_head)\.",),
    "parts for other modalities": (
        r"^(model\.)?(vision_tower|vision_model|visual|multi_modal_projector|mm_projector|audio_tower)\.",
    ),
}
_PATTERNS = [re.compile(pattern) for patterns in HARMLESS.values() for pattern in patterns]


def is_harmless(name: str) -> bool:
    """Whether a tensor that a model has no use for is known to change nothing."""
    return any(pattern.search(name) for pattern in _PATTERNS)


def is_beyond(name: str, layers: str, count: int, further: int | None = None) -> bool:
    """Whether a tensor is of a layer behind the model's last one, of the next `further` ones at most, if given.

    layers: what the names of all layers begin with.
    """
    number = name.removeprefix(layers).partition(".")[0] if name.startswith(layers) else ""
    return number.isdecimal() and int(number) >= count and (further is None or int(number) < count + further)


def listed(names: Iterable[str]) -> str:
    """The names; where they are many, `*` stands for numbers, and how many names it stands for is said."""
    names = list(names)
    if len(names) <= _SHOWN:
        return ", ".join(names)
    counts = Counter(re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in names)
    return ", ".join(f"{name} ({count})" if count > 1 else name for name, count in counts.items())

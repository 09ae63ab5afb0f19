"""The rotary embedding of a config.json: rope_parameters of transformers 5, or rope_theta and rope_scaling."""

from collections.abc import Iterator

from sglang.srt.layers_ms.rotary import FREQUENCIES, Rope
from sglang.srt.models_ms.config_keys import UnsupportedConfig

NAMES = ("rope_type", "type", "rope_theta", "partial_rotary_factor")  # read of every kind
SCALING = {
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "truncate",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "mrope_section",
    "mrope_interleaved",
}
LONGROPE = {"short_factor", "long_factor", "short_mscale", "long_mscale"}
LISTS = ("short_factor", "long_factor")
IGNORED = {"finetuned": "provenance"}
NEEDED = {  # rope_type -> keys without a default
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
OLDER_NAMES = {"su": "longrope", "mrope": "default"}


def read_rope(config, layer_type: str | None = None) -> Rope:
    """The Rope of a config's layers; UnsupportedConfig with all that is not computed.

    layer_type: of which kind of layers, where rope_parameters has an entry for each.
    """
    given = config.rope_parameters.get(layer_type) or config.rope_parameters
    kinds = {OLDER_NAMES.get(kind, kind) for kind in map(given.get, ("rope_type", "type")) if kind}
    if len(kinds) > 1:
        raise UnsupportedConfig(f"rope_type and type are {sorted(kinds)}, which are names of the same: remove one")
    kind = kinds.pop() if kinds else "default"
    if kind not in FREQUENCIES:
        raise UnsupportedConfig(f"rope_type = {kind!r} is not supported, only {sorted(FREQUENCIES)}")
    partial = given.get("partial_rotary_factor") or config.partial_rotary_factor
    whole = kind == "proportional"
    rotary_dim = config.head_dim if whole else int(config.head_dim * partial)
    used = SCALING | LONGROPE if kind == "longrope" else SCALING
    values = {name: given[name] for name in used if given.get(name) is not None}
    values |= {name: tuple(values[name]) for name in (*LISTS, "mrope_section") if name in values}
    values |= {"proportion": partial, "factor": given.get("factor", 1.0)} if whole else {}
    problems = [*_wrong_keys(kind, given, used), *_wrong_sizes(config.head_dim, partial, rotary_dim, values)]
    if problems:
        raise UnsupportedConfig(*problems)
    longest = config.max_position_embeddings
    values.setdefault("original_max_position_embeddings", config.original_max_position_embeddings)
    if kind != "default" and "factor" not in values:
        values["factor"] = longest / values["original_max_position_embeddings"]
    theta = float(given.get("rope_theta") or config.rope_theta)
    return Rope(kind, theta, rotary_dim, longest, **values)


def _wrong_keys(kind, given, used) -> Iterator[str]:
    strange = set(given) - used - set(NAMES) - set(IGNORED)
    if strange:
        yield f"rope_parameters has {sorted(strange)}, which {kind!r} does not use"
    missing = [name for name in NEEDED.get(kind, ()) if given.get(name) is None]
    if missing:
        yield f"rope_type = {kind!r} needs {missing} beside it"


def _wrong_sizes(head_dim, partial, rotary_dim, values) -> Iterator[str]:
    if rotary_dim % 2:
        yield (
            f"{rotary_dim} of head_dim = {head_dim} dimensions are rotated (partial_rotary_factor = {partial}); "
            "pairs need an even number"
        )
    sections = values.get("mrope_section")
    if sections and (len(sections) != 3 or sum(sections) != rotary_dim // 2):
        yield f"mrope_section = {list(sections)} are no three parts of {rotary_dim // 2} pairs"
    if sections and rotary_dim != head_dim:
        yield f"mrope_section goes with heads that are rotated as a whole, and {rotary_dim} of {head_dim} are"
    factors = {name: len(values[name]) for name in LISTS if name in values}
    if set(factors.values()) - {rotary_dim // 2}:
        yield f"{factors} factors, and {rotary_dim // 2} pairs that are rotated"

"""Which layers have a sliding window, by what config.json says."""

from collections.abc import Callable

from sglang.srt.models_ms.config_keys import UnsupportedConfig


def no_windows(config) -> tuple[int, ...]:
    """0 for each layer; UnsupportedConfig where a window would hide earlier tokens from some layers.

    A sliding_window that is switched off, or as long as the longest context, has no effect and is accepted.
    """
    problems = []
    kinds = set(config.layer_types) or {"full_attention"}
    if kinds != {"full_attention"}:
        problems.append(f"layer_types has {sorted(kinds)}, only 'full_attention' is supported")
    if config.use_sliding_window:
        problems.append("use_sliding_window = True is not supported, only [False]")
    window, off = config.sliding_window, config.use_sliding_window is False
    if window and not off and window < config.max_position_embeddings:
        problems.append(
            f"sliding_window = {window!r} is shorter than the longest context, and this architecture is computed "
            "without windows: remove the key, or set use_sliding_window to false, if that is meant"
        )
    if problems:
        raise UnsupportedConfig(*problems)
    return (0,) * config.num_hidden_layers


def sliding_windows(config, slides: Callable[[int], bool], used: bool = True) -> tuple[int, ...]:
    """The window of each layer in tokens, itself included; 0 for a layer that sees all tokens before it.

    slides: layer -> whether it has a window, where layer_types does not say. used: whether any layer has one.
    """
    layers, window = config.num_hidden_layers, config.sliding_window if used else 0
    default = ["sliding_attention" if window and slides(layer) else "full_attention" for layer in range(layers)]
    kinds = config.layer_types or default
    possible = {"full_attention", "sliding_attention"} if window else {"full_attention"}
    if not set(kinds) <= possible or len(kinds) != layers:
        raise UnsupportedConfig(
            f"layer_types has {sorted(set(kinds))} for {len(kinds)} of {layers} layers, only {sorted(possible)} are "
            f"supported with a sliding_window of {window}"
        )
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)

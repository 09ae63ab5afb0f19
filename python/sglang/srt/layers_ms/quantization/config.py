"""What a reader makes of config.json's quantization_config: how each layer of the checkpoint is held.

Layers are named by the checkpoint's names: model.layers.0.mlp.down_proj.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from sglang.srt.layers_ms.quantization.base import HEAD, LOOKUP, MOE, Method
from sglang.srt.layers_ms.quantization.formats import Encoding
from sglang.srt.layers_ms.quantization.methods import quantized
from sglang.srt.layers_ms.quantization.unquantized import unquantized


class UnsupportedQuantization(Exception):
    """A checkpoint is quantized in a way that no method computes."""


class QuantizationConfig:
    """The scheme of a checkpoint.

    encoding: name of a layer -> how its matrix is held; None: it is not quantized. experts: how the stacks of experts
    are held that are no layers of the checkpoint, as gpt-oss's. ignored_tensors: patterns of names that nothing reads.
    method: kind of a layer (quantization.base), encoding -> its method. head: whether the head is a layer too; else it
    is not quantized. towers: whether those of a model that sees may be quantized, of which nothing else is said.
    """

    def __init__(
        self,
        name: str,
        encoding: Callable[[str], Encoding | None],
        experts: Encoding | None = None,
        ignored_tensors: Sequence[str] = (),
        method: Callable[[str, Encoding], Method] = quantized,
        head: bool = False,
        towers: bool = True,
    ):
        self.name, self.encoding, self.experts, self.method, self.head = name, encoding, experts, method, head
        self.ignored_tensors, self.towers = tuple(ignored_tensors), towers

    def get_method(self, kind: str, layers: Sequence[str]) -> Method:
        """Of a layer that holds the matrices of these layers of the checkpoint; () for tensors that are no layers'.

        UnsupportedQuantization where they are not all held alike.
        """
        if not layers:
            return self.method(kind, self.experts) if self.experts and kind == MOE else unquantized(kind)
        if kind == LOOKUP or kind == HEAD and not self.head:
            return unquantized(kind)
        first, *others = layers
        encoding = self.encoding(first)
        for other in others:
            if self.encoding(other) != encoding:
                raise UnsupportedQuantization(self._mixture(first, other))
        return unquantized(kind) if encoding is None else self.method(kind, encoding)

    def _mixture(self, layer: str, other: str) -> str:
        formats = [self.encoding(name) for name in (layer, other)]
        if None in formats:
            names = (layer, other) if formats[1] is None else (other, layer)
            return f"{self.name} quantizes {names[0]}.weight and not {names[1]}.weight, which are multiplied as one"
        held = [encoding.format.name for encoding in formats]
        return f"{self.name} holds {layer}.weight as {held[0]} and {other}.weight as {held[1]}: multiplied as one"


UNQUANTIZED = QuantizationConfig("unquantized", lambda layer: None)


def but_ignored(encoding: Encoding, ignored: Iterable[str] | None) -> Callable[[str], Encoding | None]:
    """All layers but those whose names these are, or match after `re:`."""
    matches = matcher(ignored)
    return lambda layer: None if matches(layer) else encoding


def but_parts(encoding: Encoding, parts: Iterable[str] | None) -> Callable[[str], Encoding | None]:
    """All layers but those whose names have one of these in them, as transformers' modules_to_not_convert."""
    parts = names_of(parts)
    return lambda layer: None if any(part in layer for part in parts) else encoding


def names_of(found: Iterable[str] | str | None) -> tuple[str, ...]:
    """A list of names; a name for a list of one."""
    return (found,) if isinstance(found, str) else tuple(found or ())


def matcher(names: Iterable[str] | str | None) -> Callable[[str], bool]:
    """Whether a layer has one of these names, or one that a regular expression after `re:` matches."""
    names = names_of(names)
    plain = {name for name in names if not name.startswith("re:")}
    patterns = [re.compile(name.removeprefix("re:")) for name in names if name.startswith("re:")]
    return lambda layer: layer in plain or any(pattern.match(layer) for pattern in patterns)


def wanted(name: str, found: dict, **accepted) -> None:
    """UnsupportedQuantization where a key has none of the values that are computed: key -> them, the first its
    default."""
    wrong = [
        f"{key} {found.get(key, values[0])!r}, not {' or '.join(map(repr, values))}"
        for key, values in accepted.items()
        if found.get(key, values[0]) not in values
    ]
    if wrong:
        raise UnsupportedQuantization(f"{name}: {'; '.join(wrong)}")


def group_size(name: str, found: dict) -> int:
    """Of "group_size", 0 for a whole row."""
    size = found.get("group_size", -1)
    if size in (-1, None, 0):
        return 0
    if not isinstance(size, int) or size < 16 or size % 16:
        raise UnsupportedQuantization(f"{name}: group_size {size!r}, not -1 or a multiple of 16")
    return size

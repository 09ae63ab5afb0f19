"""Single tensors of a checkpoint, as a trainer sends them while a model serves: which parameters they fill."""

from collections.abc import Mapping
from typing import NamedTuple

from mindspore import nn

from sglang.srt.model_loader_ms.checkpoint import Stored
from sglang.srt.model_loader_ms.files import CheckpointError
from sglang.srt.model_loader_ms.loader import LoadItem, Wanted, left_over, misfit, tensors_of, untied


class Plan(NamedTuple):
    """What is to be written: parts of tensors, and the names of the parameters that these fill with nothing missing."""

    items: list[LoadItem]
    filled: frozenset[str]


def check(model: nn.Cell, tensors: Mapping[str, Stored], further: int = 0, **wanted) -> Plan:
    """The parts of these tensors that fill parameters of `model` on this rank; any subset of a checkpoint's tensors.

    Whole tensors by the checkpoint's names; values are looked at where two of them are a tied pair. further: layers
    behind the last one that a checkpoint has and the model leaves out. wanted: as loader.check. CheckpointError names
    everything that does not fit. Nothing is written.
    """
    wanted = Wanted(**wanted)
    names = wanted.tensor_names(tensors)
    every = tensors_of(model, tensors, names)
    items = [item for item in every if item.source in tensors]
    _, unused = left_over(tensors, items, wanted, names, further)
    problems = [f"unexpected: {name}" for name in unused] + untied(tensors, wanted, names)
    problems += [_misfit(item, tensors[item.source]) for item in items]
    problems = list(dict.fromkeys(filter(None, problems)))
    if problems:
        raise CheckpointError("\n".join(problems))
    missing = {item.parameter for item in every if item.source not in tensors}
    return Plan(items, frozenset(item.parameter for item in items) - missing)


def find(model: nn.Cell, name: str, **wanted) -> list[LoadItem]:
    """The parts of the tensor of this name that parameters of `model` hold on this rank; CheckpointError: none is."""
    names = Wanted(**wanted).tensor_names([name])
    nothing = Stored((), "")
    items = [item for item in tensors_of(model, {name: nothing}, names) if item.source == name]
    if not items:
        raise CheckpointError(f"unexpected: {name}")
    return items


def held(model: nn.Cell, **wanted) -> list[LoadItem]:
    """All parts of tensors that parameters of `model` hold on this rank."""
    return tensors_of(model, names=Wanted(**wanted).tensor_names())


def _misfit(item: LoadItem, stored: Stored) -> str | None:
    if item.encoding is not None:
        return f"quantized: {item.source} is read as codes and scales, which are updated from disk only"
    return misfit(item, stored)

"""Fills every parameter of a model from a checkpoint, or reports every misfit and fills none."""

import logging
import re
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mindspore import nn
from tqdm import tqdm

from sglang.srt.model_loader_ms import encoded
from sglang.srt.model_loader_ms.checkpoint import (
    Checkpoint,
    Stored,
    convertible,
    copy,
    is_zero,
    randomize,
    same,
    selected,
)
from sglang.srt.model_loader_ms.files import CheckpointError, locate
from sglang.srt.model_loader_ms.leftovers import is_beyond, is_harmless, listed
from sglang.srt.model_loader_ms.names import TensorNames
from sglang.srt.model_loader_ms.weight_slice import WeightSlice

logger = logging.getLogger(__name__)

READERS = 4  # tensors that are read at a time: a solid-state disk wants several requests at once


class LoadItem(NamedTuple):
    """A part of a checkpoint tensor, and the rows of a parameter that it fills."""

    source: str  # the tensor's full name
    read: tuple  # slices of it, one a dimension
    whole: tuple | None  # the shape that the whole tensor must have, where the model says so
    parameter: str  # the parameter's full name
    host: np.ndarray  # the rows to fill
    dtype: str  # of the parameter
    encoding: object = None  # as WeightSlice's


@dataclass(frozen=True)
class LoadReport:
    """What a load did: tensors and bytes read, seconds taken, and the tensors that were left out as told."""

    tensors: int
    bytes: int
    seconds: float
    ignored: tuple = ()

    def __str__(self) -> str:
        return f"{self.tensors} tensors, {self.bytes / 1e9:.2f} GB in {self.seconds:.1f} s"


class Plan(NamedTuple):
    """A load that has been checked and not begun: all that it needs of the files, which are mapped."""

    items: list[LoadItem]
    checkpoint: Checkpoint | None  # None: dummy weights
    ignored: tuple  # names of tensors that are left out


@dataclass(frozen=True)
class Wanted:
    """What of a checkpoint a model wants and which of its tensors it can do without, beside its parameters.

    names: names of tensors, or whole dotted parts of them, and what the checkpoint has instead. other_names: such
    tables that hold too, tensor by tensor. optional_prefix: of names, which may be absent throughout the checkpoint.
    ignore: regular expressions for the ends of names of tensors that may be in the checkpoint unused. layer_renames:
    cells of a pipeline stage, and what they are called in the whole model. other_stages: cells that other stages have.
    layers: the cell of all layers, and how many the model has; a checkpoint may have more. tied: a tensor of which the
    checkpoint may have nothing but a copy, and the copy's name. endings: what names of the checkpoint's tensors may end
    in, and what is meant. beside: what names of tensors begin with that the checkpoint may lack, and the folder or hub
    id of another one, which has them without it.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    other_names: Sequence[Mapping[str, str]] = ()
    ignore: Iterable[str] = ()
    optional_prefix: str = ""
    layer_renames: Mapping[str, str] = field(default_factory=dict)
    other_stages: Iterable[str] = ()
    layers: tuple[str, int] | None = None
    tied: tuple[str, str] | None = None
    endings: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)

    def tensor_names(self, present: Iterable[str] = ()) -> TensorNames:
        """What a checkpoint of these tensors calls the model's."""
        prefixed = not present or any(name.startswith(self.optional_prefix) for name in present)
        return TensorNames(self.names, self.layer_renames, self.other_names, self.optional_prefix, prefixed)


def load(
    model: nn.Cell, source: str | Path, *, load_format: str = "auto", progress: bool = True, **options
) -> LoadReport:
    """Fill the parameters of `model` from a folder or a hub id, converting to their dtypes.

    load_format "dummy" reads nothing and fills in small random numbers. options: as `check`. CheckpointError names
    everything that does not fit; nothing is written then.
    """
    return execute(check(model, source, load_format=load_format, **options), progress)


def check(
    model: nn.Cell,
    source: str | Path,
    *,
    load_format: str = "auto",
    revision: str | None = None,
    cache_dir: str | None = None,
    **wanted,
) -> Plan:
    """Find everything that a load needs, and write nothing.

    revision, cache_dir: for a hub id. wanted: of the class Wanted. CheckpointError names everything that does not fit.
    """
    wanted = Wanted(**wanted)
    if load_format == "dummy":
        return Plan(tensors_of(model, names=wanted.tensor_names()), None, ())
    folder = locate(source, load_format, revision, cache_dir)
    checkpoint = Checkpoint(folder, load_format)
    checkpoint.rename(wanted.endings)
    for prefix, other in wanted.beside.items():
        if not checkpoint.has(prefix):
            checkpoint.add(prefix, Checkpoint(locate(other, cache_dir=cache_dir)))
    names = wanted.tensor_names(checkpoint.tensors)
    items = tensors_of(model, checkpoint.tensors, names)
    coded = [(item.source, item.encoding) for item in items if item.encoding]
    wrong = encoded.join(checkpoint.tensors, coded, checkpoint.lost)
    checkpoint.lost.update(wrong)
    items, wrong = [_of_part(item) for item in items], dict.fromkeys(filter(None, wrong.values()))
    ignored, unused = left_over(checkpoint.tensors, items, wanted, names)
    problems = [*checkpoint.problems, *wrong, *_misfits(checkpoint, items)]
    problems += untied(checkpoint.tensors, wanted, names)
    problems += [f"unexpected: {name}" for name in unused]
    if problems:
        raise _does_not_fit(model, folder, problems)
    return Plan(items, checkpoint, tuple(ignored))


def execute(plan: Plan, progress: bool = True) -> LoadReport:
    """Write what was checked, in place, so that compiled graphs go on with the new weights; none may run meanwhile."""
    started, items = time.perf_counter(), plan.items
    if plan.ignored:
        logger.warning("tensors that change nothing are left out: %s", listed(plan.ignored))
    read = _randomize(items) if plan.checkpoint is None else _copy(plan.checkpoint, items, progress)
    report = LoadReport(len({item.source for item in items}), read, time.perf_counter() - started, plan.ignored)
    logger.info("weights: %s", report)
    return report


def tensors_of(
    model: nn.Cell, present: Mapping[str, Stored] | None = None, names: TensorNames | None = None
) -> list[LoadItem]:
    """Which parts of which checkpoint tensors the parameters of `model` need, on this rank.

    present: the checkpoint's tensors, where it may have one of several layouts. names: what it calls them.
    """
    items, unknown, names, present = [], [], names or TensorNames(), present or {}
    for name, param in model.parameters_and_names():
        if not hasattr(param, "slices"):
            unknown.append(name)
            continue
        items += _items(name, param, present, names)
    if unknown:
        raise CheckpointError(f"parameters that do not state their slices (make them with parameter()): {unknown}")
    return items


def _items(name: str, param, present: Mapping[str, Stored], names: TensorNames) -> list[LoadItem]:
    """Of a parameter."""
    cell, dtype = name.rpartition(".")[0], str(param.host_dtype).lower()

    def stored(source: str, encoding) -> bool:
        return source in present or encoding is not None and encoded.present(present, source, encoding)

    def source(weight_slice: WeightSlice) -> str:
        try:
            found = names.all_of(cell, weight_slice.source)
        except ValueError as error:
            raise CheckpointError(f"{name}: {error}") from error
        return next((one for one in found if stored(one, weight_slice.encoding)), found[0])

    def is_present(slices: Sequence[WeightSlice]) -> bool:
        return any(stored(source(one), one.encoding) for one in slices)

    def has_shape(slices: Sequence[WeightSlice]) -> bool:
        first = slices[0]
        found = present.get(source(first)) if first.encoding is None else None
        return found is None or first.whole is None or tuple(first.whole) == found.shape

    layouts = [param.slices, *param.alternatives] if param.alternatives else []
    layouts = [slices for slices in layouts if slices and is_present(slices)]
    found = next((slices for slices in layouts if has_shape(slices)), [*layouts, param.slices][0])
    items = []
    for one in found:
        host = param.host[one.rows]
        host = host.swapaxes(-1, -2) if one.transposed else host
        host = host if one.filled_as is None else host.reshape(one.filled_as)
        items.append(LoadItem(source(one), one.read, one.whole, name, host, dtype, one.encoding))
    return items


def _of_part(item: LoadItem) -> LoadItem:
    """By the name of the part of an encoding that it reads."""
    return item._replace(source=encoded.part_name(item.source, item.encoding)) if item.encoding else item


def _misfits(checkpoint: Checkpoint, items: list[LoadItem]) -> list[str]:
    problems = []
    for item in items:
        if item.source in checkpoint.tensors:
            problems.append(misfit(item, checkpoint.tensors[item.source]))
        elif item.source not in checkpoint.lost:
            file = checkpoint.index.get(item.source)
            problems.append(f"missing: {item.source}" + (f", which the index puts into {file}" if file else ""))
    return list(dict.fromkeys(filter(None, problems)))


def misfit(item: LoadItem, stored) -> str | None:
    """Why a tensor cannot fill what it is for; None: it can."""
    have = f"{item.source} is {stored.dtype} {list(stored.shape)}"
    if not convertible(stored.dtype, item.dtype):
        return f"wrong dtype: {have}, which cannot become {item.dtype} for {item.parameter}"
    if item.encoding is not None and item.encoding.part == "scale" and not encoded.keeps(stored.dtype, item.dtype):
        return f"wrong dtype: {have}, and config.json says that they are {item.dtype}"
    if item.whole is not None and stored.shape != tuple(item.whole):
        return f"wrong shape: {have}, the model needs {list(item.whole)}"
    if len(item.read) != len(stored.shape):
        return f"wrong shape: {have}, {item.parameter} needs {len(item.read)} dimensions"
    part = selected(stored.shape, item.read)
    if part != item.host.shape:
        slices = ", ".join("..." if s == slice(None) else f"{s.start or 0}:{s.stop}" for s in item.read)
        return f"wrong shape: {have}, its part [{slices}] must fill {list(item.host.shape)} of {item.parameter}"
    return None


def left_over(
    tensors: Mapping[str, Stored], items: list[LoadItem], wanted: Wanted, names: TensorNames, further: int | None = None
) -> tuple[list[str], list[str]]:
    """Names of tensors that no parameter wants: those that change nothing, and those of which that is not known.

    further: how many layers more than the model's may be there; None: any number.
    """
    may_be_there = [re.compile(f"(?:{pattern})$") for pattern in wanted.ignore]
    other_stages = tuple(name + "." for cell in wanted.other_stages for name in names.cells(cell))
    layers, count = wanted.layers or ("", 0)
    columns = [name + "." for name in names.cells(layers)] if layers else []
    ignored, unused = [], []
    for name in tensors.keys() - {item.source for item in items}:
        if name.startswith(other_stages):
            continue
        allowed = any(pattern.search(name) for pattern in may_be_there)
        allowed |= any(is_beyond(name, column, count, further) for column in columns)
        allowed = allowed or is_harmless(name) or name.endswith(".bias") and is_zero(tensors[name])
        (ignored if allowed else unused).append(name)
    return sorted(ignored), sorted(unused)


def untied(tensors: Mapping[str, Stored], wanted: Wanted, names: TensorNames) -> list[str]:
    """The problem of tensors among which are one and its copy, and they differ."""
    pair = _different(tensors, wanted.tied, names) if wanted.tied else None
    if pair is None:
        return []
    return [f"not tied: {pair[1]} differs from {pair[0]}, which this model uses in its place (tie_word_embeddings)"]


def differ(folder: Path, load_format: str, pair: tuple[str, str], names: TensorNames) -> bool:
    """Whether a checkpoint has both of two tensors of a model, with different values. names: what it calls them."""
    return _different(Checkpoint(folder, load_format).tensors, pair, names) is not None


def _different(tensors: Mapping[str, Stored], pair: tuple[str, str], names: TensorNames) -> list[str] | None:
    """What the checkpoint calls the two; None unless it has both, and they differ."""
    known = [[one for one in names.all_of("", name) if one in tensors] for name in pair]
    if not all(known):
        return None
    found = [one[0] for one in known]
    return None if same(*(tensors[name] for name in found)) else found


def _does_not_fit(model: nn.Cell, folder: Path, problems: list[str]) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint in {folder} does not fit {type(model).__name__} (problems: {len(problems)}). "
        "Is it complete, and does its config.json belong to it?\n  " + "\n  ".join(problems)
    )


def _copy(checkpoint: Checkpoint, items: list[LoadItem], progress: bool) -> int:
    """Copy everything, several tensors at a time, in the order of the files so that disks read ahead.

    Returns the bytes read.
    """
    order = {name: place for place, name in enumerate(checkpoint.tensors)}
    total = sum(checkpoint.tensors[item.source].nbytes(item.host.size) for item in items)
    # None: no bar where the output is not a terminal.
    with (
        tqdm(total=total, desc="Loading weights", unit="B", unit_scale=True, disable=None if progress else True) as bar,
        ThreadPoolExecutor(READERS) as readers,
    ):
        items = sorted(items, key=lambda item: order[item.source])
        for read in readers.map(lambda item: copy_item(checkpoint.tensors[item.source], item), items):
            bar.update(read)
    return total


def copy_item(stored: Stored, item: LoadItem) -> int:
    """Fill what a tensor is for with its part -> the bytes read."""
    return sum(copy(stored, item.read, item.host, item.dtype))


def _randomize(items: list[LoadItem]) -> int:
    """Fill every piece with numbers that depend on its tensor's name only; returns the bytes read, none."""
    for item in items:
        randomize(item.host, item.dtype, zlib.crc32(item.source.encode()))
    return 0

"""Fills every parameter of a model from a checkpoint, or reports every misfit and fills none."""

import logging
import re
import time
import zlib
from collections.abc import Callable, Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mindspore import nn
from tqdm import tqdm

from sglang.srt.model_loader_ms import int8
from sglang.srt.model_loader_ms.checkpoint import Checkpoint, convertible, copy, randomize, selected
from sglang.srt.model_loader_ms.files import CheckpointError, locate
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
    scaled: bool = False  # as Piece's


@dataclass(frozen=True)
class LoadReport:
    """What a load did: tensors and bytes read, seconds taken, and the tensors that were left out as told."""

    tensors: int
    bytes: int
    seconds: float
    ignored: tuple = ()

    def __str__(self) -> str:
        left_out = f"; left out {', '.join(self.ignored)}" if self.ignored else ""
        return f"{self.tensors} tensors, {self.bytes / 1e9:.2f} GB in {self.seconds:.1f} s{left_out}"


def load(
    model: nn.Cell,
    source: str | Path,
    *,
    load_format: str = "auto",
    names: Mapping[str, str] | None = None,
    ignore: Iterable[str] = (),
    optional_prefix: str = "",
    layer_renames: Mapping[str, str] | None = None,
    other_stages: Iterable[str] = (),
    progress: bool = True,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> LoadReport:
    """Fill the parameters of `model` from a folder or a hub id, converting to their dtypes.

    names: names of tensors, or whole dotted parts of them, and what the checkpoint has instead. optional_prefix: of
    names, which may be absent throughout the checkpoint. ignore: regular expressions for the ends of names of tensors
    that may be in the checkpoint unused. layer_renames: cells of a pipeline stage, and what they are called in the
    whole model; other_stages: cells that other stages have. load_format "dummy" reads nothing and fills in small random
    numbers. revision, cache_dir: for a hub id. CheckpointError names everything that does not fit; nothing is written
    then.
    """
    started = time.perf_counter()
    others = _prefixes(other_stages, names or {}, optional_prefix)
    names = _placed(names or {}, layer_renames or {})
    if load_format == "dummy":
        items, ignored = tensors_of(model, names=names), ()
        read = _randomize(items)
    else:
        folder = locate(source, load_format, revision, cache_dir)
        checkpoint = Checkpoint(folder, load_format)
        items = _as_named(checkpoint, tensors_of(model, checkpoint.tensors, names), optional_prefix)
        scaled = int8.join(checkpoint.tensors, {item.source for item in items if item.scaled})
        ignored, unused = _left_over(checkpoint, items, ignore, others)
        problems = [*checkpoint.problems, *scaled, *_misfits(checkpoint, items)]
        problems += [f"unexpected: {name}" for name in unused]
        if problems:
            raise _does_not_fit(model, folder, problems)
        read = _copy(checkpoint, items, progress)
    tensors = {item.source for item in items}
    report = LoadReport(len(tensors), read, time.perf_counter() - started, tuple(ignored))
    logger.info("weights: %s", report)
    return report


def update(model: nn.Cell, source: str | Path, **options) -> LoadReport:
    """Replace the weights in place, so that compiled graphs go on with the new ones; none may run meanwhile.

    options: of `load`. CheckpointError, as from `load`, leaves the old weights as they are.
    """
    return load(model, source, progress=False, **options)


def tensors_of(model: nn.Cell, present: Container[str] = (), names: Mapping[str, str] | None = None) -> list[LoadItem]:
    """Which parts of which checkpoint tensors the parameters of `model` need, on this rank.

    present: the checkpoint's tensors, where it may have one of several layouts. names: as `load`'s.
    """
    items, unknown = [], []
    renamed = _renaming(names or {})

    def source(parameter: str, weight_slice: WeightSlice) -> str:
        return renamed(_absolute(parameter, weight_slice.source))

    for name, param in model.parameters_and_names():
        if not hasattr(param, "slices"):
            unknown.append(name)
            continue
        dtype = str(param.dtype).lower()
        others = (slices for slices in param.alternatives if slices and source(name, slices[0]) in present)
        for weight_slice in next(others, param.slices):
            host = param.host[weight_slice.rows]
            host = host.swapaxes(-1, -2) if weight_slice.transposed else host
            items.append(
                LoadItem(
                    source(name, weight_slice),
                    weight_slice.read,
                    weight_slice.whole,
                    name,
                    host,
                    dtype,
                    weight_slice.scaled,
                )
            )
    if unknown:
        raise CheckpointError(f"parameters that do not state their slices (make them with parameter()): {unknown}")
    return items


def _absolute(parameter: str, source: str) -> str:
    cells = parameter.split(".")[:-1]
    while source.startswith("../"):
        if not cells:
            raise CheckpointError(f"{parameter}: its source steps out of the model, to {source}")
        cells, source = cells[:-1], source.removeprefix("../")
    return ".".join([*cells, source])


def _renaming(names: Mapping[str, str]) -> Callable[[str], str]:
    if not names:
        return lambda name: name
    parts = re.compile(r"(?<![^.])(?:" + "|".join(map(re.escape, names)) + r")(?![^.])")
    return lambda name: parts.sub(lambda found: names[found[0]], name)


def _placed(names: Mapping[str, str], layer_renames: Mapping[str, str]) -> dict[str, str]:
    """The names of `_renaming`, of cells that are layer_renames first."""
    whole = _renaming(names)
    return {**{own: whole(cell) for own, cell in layer_renames.items()}, **names}


def _prefixes(cells: Iterable[str], names: Mapping[str, str], optional_prefix: str) -> tuple[str, ...]:
    """What the checkpoint's names of these cells' tensors begin with."""
    found = [_renaming(names)(cell) + "." for cell in cells]
    return tuple(found + [name.removeprefix(optional_prefix) for name in found])


def _as_named(checkpoint: Checkpoint, items: list[LoadItem], optional_prefix: str) -> list[LoadItem]:
    """The wants by the names that the checkpoint uses: without the prefix if it has tensors for them so only."""
    prefixed = [item for item in items if item.source.startswith(optional_prefix)]
    short = {item.source.removeprefix(optional_prefix) for item in prefixed}
    if not optional_prefix or any(item.source in checkpoint.tensors for item in prefixed):
        return items
    if not short & checkpoint.tensors.keys():
        return items
    return [item._replace(source=item.source.removeprefix(optional_prefix)) for item in items]


def _misfits(checkpoint: Checkpoint, items: list[LoadItem]) -> list[str]:
    problems = []
    for item in items:
        if item.source in checkpoint.tensors:
            problems.append(_misfit(item, checkpoint.tensors[item.source]))
        elif item.source not in checkpoint.lost:
            file = checkpoint.index.get(item.source)
            problems.append(f"missing: {item.source}" + (f", which the index puts into {file}" if file else ""))
    return list(dict.fromkeys(filter(None, problems)))


def _misfit(item: LoadItem, stored) -> str | None:
    have = f"{item.source} is {stored.dtype} {list(stored.shape)}"
    if not convertible(stored.dtype, item.dtype):
        return f"wrong dtype: {have}, which cannot become {item.dtype} for {item.parameter}"
    if item.whole is not None and stored.shape != tuple(item.whole):
        return f"wrong shape: {have}, the model needs {list(item.whole)}"
    if len(item.read) != len(stored.shape):
        return f"wrong shape: {have}, {item.parameter} needs {len(item.read)} dimensions"
    part = selected(stored.shape, item.read)
    if part != item.host.shape:
        slices = ", ".join("..." if s == slice(None) else f"{s.start or 0}:{s.stop}" for s in item.read)
        return f"wrong shape: {have}, its part [{slices}] must fill {list(item.host.shape)} of {item.parameter}"
    return None


def _left_over(
    checkpoint: Checkpoint, items: list[LoadItem], ignore: Iterable[str], other_stages: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """Names of tensors that no parameter items: those that may be there, and those that may not."""
    may_be_there = [re.compile(f"(?:{pattern})$") for pattern in ignore]
    ignored, unused = [], []
    for name in checkpoint.tensors.keys() - {item.source for item in items}:
        if name.startswith(other_stages):
            continue
        allowed = any(pattern.search(name) for pattern in may_be_there)
        (ignored if allowed else unused).append(name)
    return sorted(ignored), sorted(unused)


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
    total = sum(item.host.size * checkpoint.tensors[item.source].data.itemsize for item in items)
    # None: no bar where the output is not a terminal.
    with (
        tqdm(total=total, desc="Loading weights", unit="B", unit_scale=True, disable=None if progress else True) as bar,
        ThreadPoolExecutor(READERS) as readers,
    ):
        items = sorted(items, key=lambda item: order[item.source])
        for read in readers.map(lambda item: _copy_one(checkpoint.tensors[item.source], item), items):
            bar.update(read)
    return total


def _copy_one(stored, item: LoadItem) -> int:
    return sum(copy(stored, item.read, item.host, item.dtype))


def _randomize(items: list[LoadItem]) -> int:
    """Fill every piece with numbers that depend on its tensor's name only; returns the bytes read, none."""
    for item in items:
        randomize(item.host, item.dtype, zlib.crc32(item.source.encode()))
    return 0

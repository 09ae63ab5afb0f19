"""Fills every parameter of a model from a checkpoint, or reports every misfit and fills none."""

import logging
import re
import time
import zlib
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mindspore import nn
from tqdm import tqdm

from sglang.srt.model_loader_ms import encoded
from sglang.srt.model_loader_ms.checkpoint import Checkpoint, convertible, copy, randomize, selected
from sglang.srt.model_loader_ms.files import CheckpointError, locate
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
    whole model. other_stages: cells that other stages have. load_format "dummy" reads nothing and fills in small random
    numbers. revision, cache_dir: for a hub id. CheckpointError names everything that does not fit; nothing is written
    then.
    """
    started = time.perf_counter()
    tensor_names = TensorNames(names, layer_renames)
    others = _prefixes(other_stages, tensor_names, optional_prefix)
    if load_format == "dummy":
        items, ignored = tensors_of(model, names=tensor_names), ()
        read = _randomize(items)
    else:
        folder = locate(source, load_format, revision, cache_dir)
        checkpoint = Checkpoint(folder, load_format)
        items = _as_named(checkpoint, tensors_of(model, checkpoint.tensors, tensor_names), optional_prefix)
        wrong = encoded.join(checkpoint.tensors, {item.source: item.encoding for item in items if item.encoding})
        ignored, unused = _left_over(checkpoint, items, ignore, others)
        problems = [*checkpoint.problems, *wrong, *_misfits(checkpoint, items)]
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


def tensors_of(model: nn.Cell, present: Container[str] = (), names: TensorNames | None = None) -> list[LoadItem]:
    """Which parts of which checkpoint tensors the parameters of `model` need, on this rank.

    present: the checkpoint's tensors, where it may have one of several layouts. names: what it calls them.
    """
    items, unknown, names = [], [], names or TensorNames()
    for name, param in model.parameters_and_names():
        if not hasattr(param, "slices"):
            unknown.append(name)
            continue
        items += _items(name, param, present, names)
    if unknown:
        raise CheckpointError(f"parameters that do not state their slices (make them with parameter()): {unknown}")
    return items


def _items(name: str, param, present: Container[str], names: TensorNames) -> list[LoadItem]:
    """Of a parameter."""
    cell, dtype = name.rpartition(".")[0], str(param.dtype).lower()

    def source(weight_slice: WeightSlice) -> str:
        try:
            return names.of(cell, weight_slice.source)
        except ValueError as error:
            raise CheckpointError(f"{name}: {error}") from error

    def is_present(weight_slice: WeightSlice) -> bool:
        encoding = weight_slice.encoding
        return source(weight_slice) in present or bool(encoding) and source(weight_slice) + encoding.codes in present

    found = next((slices for slices in param.alternatives if slices and is_present(slices[0])), param.slices)
    items = []
    for one in found:
        host = param.host[one.rows]
        host = host.swapaxes(-1, -2) if one.transposed else host
        items.append(LoadItem(source(one), one.read, one.whole, name, host, dtype, one.encoding))
    return items


def _prefixes(cells: Iterable[str], names: TensorNames, optional_prefix: str) -> tuple[str, ...]:
    """What the checkpoint's names of these cells' tensors begin with."""
    found = [names.cell(cell) + "." for cell in cells]
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
    total = sum(checkpoint.tensors[item.source].nbytes(item.host.size) for item in items)
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

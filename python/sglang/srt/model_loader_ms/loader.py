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
from sglang.srt.model_loader_ms.checkpoint import Checkpoint, convertible, copy, randomise, selected
from sglang.srt.model_loader_ms.files import CheckpointError, locate
from sglang.srt.model_loader_ms.pieces import Piece

logger = logging.getLogger(__name__)

READERS = 4  # tensors that are read at a time: a solid-state disk wants several requests at once


class Want(NamedTuple):
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
    renumbered: Mapping[str, str] | None = None,
    elsewhere: Iterable[str] = (),
    progress: bool = True,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> LoadReport:
    """Fill the parameters of `model` from a folder or a hub id, converting to their dtypes.

    names: names of tensors, or whole dotted parts of them, and what the checkpoint has instead. optional_prefix: of
    names, which may be absent throughout the checkpoint. ignore: regular expressions for the ends of names of tensors
    that may be in the checkpoint unused. renumbered: cells of a pipeline stage, and what they are called in the whole
    model; elsewhere: cells that other stages have. load_format "dummy" reads nothing and fills in small random numbers.
    revision, cache_dir: for a hub id. CheckpointError names everything that does not fit; nothing is written then.
    """
    started = time.perf_counter()
    others = _prefixes(elsewhere, names or {}, optional_prefix)
    names = _placed(names or {}, renumbered or {})
    if load_format == "dummy":
        wants, ignored = tensors_of(model, names=names), ()
        read = _randomise(wants)
    else:
        folder = locate(source, load_format, revision, cache_dir)
        checkpoint = Checkpoint(folder, load_format)
        wants = _as_named(checkpoint, tensors_of(model, checkpoint.tensors, names), optional_prefix)
        scaled = int8.join(checkpoint.tensors, {want.source for want in wants if want.scaled})
        ignored, unused = _left_over(checkpoint, wants, ignore, others)
        problems = [*checkpoint.problems, *scaled, *_misfits(checkpoint, wants)]
        problems += [f"unexpected: {name}" for name in unused]
        if problems:
            raise _does_not_fit(model, folder, problems)
        read = _copy(checkpoint, wants, progress)
    tensors = {want.source for want in wants}
    report = LoadReport(len(tensors), read, time.perf_counter() - started, tuple(ignored))
    logger.info("weights: %s", report)
    return report


def update(model: nn.Cell, source: str | Path, **options) -> LoadReport:
    """Replace the weights in place, so that compiled graphs go on with the new ones; none may run meanwhile.

    options: of `load`. CheckpointError, as from `load`, leaves the old weights as they are.
    """
    return load(model, source, progress=False, **options)


def tensors_of(model: nn.Cell, present: Container[str] = (), names: Mapping[str, str] | None = None) -> list[Want]:
    """Which parts of which checkpoint tensors the parameters of `model` need, on this rank.

    present: the checkpoint's tensors, where it may have one of several layouts. names: as `load`'s.
    """
    wants, unknown = [], []
    renamed = _renaming(names or {})

    def source(parameter: str, piece: Piece) -> str:
        return renamed(_absolute(parameter, piece.source))

    for name, param in model.parameters_and_names():
        if not hasattr(param, "pieces"):
            unknown.append(name)
            continue
        dtype = str(param.dtype).lower()
        others = (pieces for pieces in param.otherwise if pieces and source(name, pieces[0]) in present)
        for piece in next(others, param.pieces):
            host = param.host[piece.rows]
            host = host.swapaxes(-1, -2) if piece.transposed else host
            wants.append(Want(source(name, piece), piece.read, piece.whole, name, host, dtype, piece.scaled))
    if unknown:
        raise CheckpointError(f"parameters that do not state their pieces (make them with parameter()): {unknown}")
    return wants


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


def _placed(names: Mapping[str, str], renumbered: Mapping[str, str]) -> dict[str, str]:
    """The names of `_renaming`, of cells that are renumbered first."""
    whole = _renaming(names)
    return {**{own: whole(cell) for own, cell in renumbered.items()}, **names}


def _prefixes(cells: Iterable[str], names: Mapping[str, str], optional_prefix: str) -> tuple[str, ...]:
    """What the checkpoint's names of these cells' tensors begin with."""
    found = [_renaming(names)(cell) + "." for cell in cells]
    return tuple(found + [name.removeprefix(optional_prefix) for name in found])


def _as_named(checkpoint: Checkpoint, wants: list[Want], optional_prefix: str) -> list[Want]:
    """The wants by the names that the checkpoint uses: without the prefix if it has tensors for them so only."""
    prefixed = [want for want in wants if want.source.startswith(optional_prefix)]
    short = {want.source.removeprefix(optional_prefix) for want in prefixed}
    if not optional_prefix or any(want.source in checkpoint.tensors for want in prefixed):
        return wants
    if not short & checkpoint.tensors.keys():
        return wants
    return [want._replace(source=want.source.removeprefix(optional_prefix)) for want in wants]


def _misfits(checkpoint: Checkpoint, wants: list[Want]) -> list[str]:
    problems = []
    for want in wants:
        if want.source in checkpoint.tensors:
            problems.append(_misfit(want, checkpoint.tensors[want.source]))
        elif want.source not in checkpoint.lost:
            file = checkpoint.index.get(want.source)
            problems.append(f"missing: {want.source}" + (f", which the index puts into {file}" if file else ""))
    return list(dict.fromkeys(filter(None, problems)))


def _misfit(want: Want, stored) -> str | None:
    have = f"{want.source} is {stored.dtype} {list(stored.shape)}"
    if not convertible(stored.dtype, want.dtype):
        return f"wrong dtype: {have}, which cannot become {want.dtype} for {want.parameter}"
    if want.whole is not None and stored.shape != tuple(want.whole):
        return f"wrong shape: {have}, the model needs {list(want.whole)}"
    if len(want.read) != len(stored.shape):
        return f"wrong shape: {have}, {want.parameter} needs {len(want.read)} dimensions"
    part = selected(stored.shape, want.read)
    if part != want.host.shape:
        slices = ", ".join("..." if s == slice(None) else f"{s.start or 0}:{s.stop}" for s in want.read)
        return f"wrong shape: {have}, its part [{slices}] must fill {list(want.host.shape)} of {want.parameter}"
    return None


def _left_over(
    checkpoint: Checkpoint, wants: list[Want], ignore: Iterable[str], elsewhere: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """Names of tensors that no parameter wants: those that may be there, and those that may not."""
    may_be_there = [re.compile(f"(?:{pattern})$") for pattern in ignore]
    ignored, unused = [], []
    for name in checkpoint.tensors.keys() - {want.source for want in wants}:
        if name.startswith(elsewhere):
            continue
        allowed = any(pattern.search(name) for pattern in may_be_there)
        (ignored if allowed else unused).append(name)
    return sorted(ignored), sorted(unused)


def _does_not_fit(model: nn.Cell, folder: Path, problems: list[str]) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint in {folder} does not fit {type(model).__name__} (problems: {len(problems)}). "
        "Is it complete, and does its config.json belong to it?\n  " + "\n  ".join(problems)
    )


def _copy(checkpoint: Checkpoint, wants: list[Want], progress: bool) -> int:
    """Copy everything, several tensors at a time, in the order of the files so that disks read ahead.

    Returns the bytes read.
    """
    order = {name: place for place, name in enumerate(checkpoint.tensors)}
    total = sum(want.host.size * checkpoint.tensors[want.source].data.itemsize for want in wants)
    # None: no bar where the output is not a terminal.
    with (
        tqdm(total=total, desc="Loading weights", unit="B", unit_scale=True, disable=None if progress else True) as bar,
        ThreadPoolExecutor(READERS) as readers,
    ):
        wants = sorted(wants, key=lambda want: order[want.source])
        for read in readers.map(lambda want: _copy_one(checkpoint.tensors[want.source], want), wants):
            bar.update(read)
    return total


def _copy_one(stored, want: Want) -> int:
    return sum(copy(stored, want.read, want.host, want.dtype))


def _randomise(wants: list[Want]) -> int:
    """Fill every piece with numbers that depend on its tensor's name only; returns the bytes read, none."""
    for want in wants:
        randomise(want.host, want.dtype, zlib.crc32(want.source.encode()))
    return 0

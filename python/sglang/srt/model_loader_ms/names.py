"""What a checkpoint calls the tensors that a model's cells name."""

import re
from collections.abc import Callable, Mapping


class TensorNames:
    """The one place where a model's names of tensors become the checkpoint's.

    renames: names, or whole dotted parts of them, and what the checkpoint has instead. layer_renames: cells of a
    pipeline stage, and what they are called in the whole model, in the model's own names.
    """

    def __init__(self, renames: Mapping[str, str] | None = None, layer_renames: Mapping[str, str] | None = None):
        whole = _replace(renames or {})
        # A cell that is counted within its stage is renamed in one go: its number may be another cell's in the whole.
        stage = {own: whole(cell) for own, cell in (layer_renames or {}).items()}
        self.cell = whole  # the name of a cell of the whole model -> the checkpoint's
        self._renamed = _replace({**stage, **(renames or {})})

    def of(self, cell: str, source: str) -> str:
        """`source` as a WeightSlice of the cell has it -> the checkpoint's name; ValueError if it is no cell's."""
        return self._renamed(absolute(cell, source))


def absolute(cell: str, source: str) -> str:
    """The full name of a tensor that a cell names; ValueError if it steps out of the model."""
    cells = cell.split(".") if cell else []
    while source.startswith("../"):
        if not cells:
            raise ValueError(f"its source steps out of the model, to {source}")
        cells, source = cells[:-1], source.removeprefix("../")
    return ".".join([*cells, source])


def _replace(names: Mapping[str, str]) -> Callable[[str], str]:
    if not names:
        return lambda name: name
    parts = re.compile(r"(?<![^.])(?:" + "|".join(map(re.escape, names)) + r")(?![^.])")
    return lambda name: parts.sub(lambda found: names[found[0]], name)

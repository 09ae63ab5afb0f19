"""What a checkpoint calls the tensors that a model's cells name."""

import re
from collections.abc import Callable, Mapping, Sequence


class TensorNames:
    """The one place where a model's names of tensors become the checkpoint's.

    renames: names, or whole dotted parts of them, and what the checkpoint has instead. layer_renames: cells of a
    pipeline stage, and what they are called in the whole model, in the model's own names. others: what else `renames`
    may be, for other checkpoints of the model. optional_prefix: what names may lack; prefixed: whether most have it.
    """

    def __init__(
        self,
        renames: Mapping[str, str] | None = None,
        layer_renames: Mapping[str, str] | None = None,
        others: Sequence[Mapping[str, str]] = (),
        optional_prefix: str = "",
        prefixed: bool = True,
    ):
        self._prefix, self._prefixed = optional_prefix, prefixed
        self._whole, self._renamed = [], []
        for one in (renames or {}, *others):
            whole = _replace(one)
            # A cell that is counted within its stage is renamed in one go: its number may be another's in the whole.
            stage = {own: whole(cell) for own, cell in (layer_renames or {}).items()}
            self._whole.append(whole)
            self._renamed.append(_replace({**stage, **one}))

    def cells(self, cell: str) -> list[str]:
        """The name of a cell of the whole model -> what checkpoints call it, the usual name first."""
        return self._with_and_without_prefix([whole(cell) for whole in self._whole])

    def of(self, cell: str, source: str) -> str:
        """`source` as a WeightSlice of the cell has it -> the checkpoint's name; ValueError if it is no cell's."""
        return self.all_of(cell, source)[0]

    def all_of(self, cell: str, source: str) -> list[str]:
        """All that checkpoints call it, the usual name first."""
        name = absolute(cell, source)
        return self._with_and_without_prefix([renamed(name) for renamed in self._renamed])

    def _with_and_without_prefix(self, names: list[str]) -> list[str]:
        if not self._prefix or not names[0].startswith(self._prefix):
            return names
        short = [name.removeprefix(self._prefix) for name in names]
        return names + short if self._prefixed else short + names


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

"""Weights by the names that the checkpoint gives them: written by a trainer, read, and compared, while a model serves.

A parameter's memory is what kernels read, in their layout, and captured steps know its address. So the cells of the
tensors in question are unpacked where they are, written or read, and packed again, between two steps.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.parallel.agreement import AllOrNone
from sglang.srt.model_loader_ms import named
from sglang.srt.model_loader_ms.checkpoint import Stored, torch_view
from sglang.srt.model_loader_ms.files import CheckpointError
from sglang.srt.model_loader_ms.loader import LoadItem, copy_item
from sglang.srt.model_loader_ms.weight_slice import restore_host
from sglang.srt.runtime_context import get_parallel

_FROM_DISK = "which is updated from disk only (update_weights_from_disk)"


def drafting_layers(config) -> int:
    """How many layers that draft a checkpoint has behind its last one, by its config.json; a model leaves them out."""
    return max(getattr(config, key, None) or 0 for key in ("num_nextn_predict_layers", "num_mtp_layers"))


class NamedWeights:
    """The weights of a network by names of Hugging Face's; of a rank its parts of them."""

    def __init__(self, network, written: Callable[[], None], further: int = 0):
        """written: called after the network's parameters have changed. further: as named.check."""
        self.network, self.written, self.further = network, written, further
        self.given: Mapping[str, Stored] = {}
        self.update_all = AllOrNone(self._plan)

    def update(self, offer: Callable[[], Iterable[tuple[str, torch.Tensor]]]) -> tuple[bool, str]:
        """Take named tensors, whole ones, on all ranks, or none of them on any -> (success, what is wrong with them).

        All ranks call it, with tensors of the same names. offer: gives this rank's; what it raises is a problem. Later
        stages take those that the first one has sent them with its question: others can be read once only.
        """
        given = None
        if get_parallel().pp_rank == 0:
            try:
                given = _described(offer())
            except Exception as error:  # of this rank only, maybe: the others wait for its answer
                given = f"the tensors cannot be read: {error or type(error).__name__}"
        plan, problems = self.update_all.prepare(given)
        given, self.given = self.given, {}
        if problems:
            return False, "\n".join(problems)
        if plan.items:
            self._write(plan, given)
        return True, "Success"

    def _plan(self, given: Mapping[str, Stored] | str) -> named.Plan:
        if isinstance(given, str):
            raise CheckpointError(given)
        self.given = given
        self._restore_hosts()
        plan = named.check(self.network, given, self.further, **self.network.checkpoint())
        whole = self._whole(plan.filled)
        self._refuse_converted(plan.items, lambda cell: cell.can_unpack or id(cell) in whole and _unquantized(cell))
        return plan

    def _write(self, plan: named.Plan, given: Mapping[str, Stored]) -> None:
        """Cells that are given whole are written as they are; of others the rest stays what it is."""
        items, cells, whole = plan.items, self._cells(plan.items), self._whole(plan.filled)
        touched = {item.parameter for item in items}
        with self._loaded([cell for cell in cells if id(cell) not in whole], cells, touched):
            for cell in cells:
                if id(cell) in whole:
                    _clear_padding(cell, items)
            for item in items:
                copy_item(given[item.source], item)
        self.written()

    def read(self, name: str, rows: int) -> torch.Tensor:
        """The first rows of a tensor, of all ranks' parts. CheckpointError if it has no such name, or is held as codes.

        All ranks call it.
        """
        self._restore_hosts()
        items = named.find(self.network, name, **self.network.checkpoint())
        coded = [item for item in items if item.encoding is not None]
        if coded:
            raise CheckpointError(f"{name} is read as codes and scales, and cannot be handed out")
        cells = self._cells(items)
        self._refuse_converted(items, lambda cell: cell.can_unpack)
        with self._loaded(cells, cells, {item.parameter for item in items}):
            parts = [(item.read, item.whole, torch_view(item.host, item.dtype).clone()) for item in items]
        return _joined(_of_all_ranks(parts))[:rows]

    @contextlib.contextmanager
    def plain(self) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """All that this rank holds, by names, as it was loaded: views, which may be written to.

        Parts of one tensor are numbered. What is held as codes, or converted, has the name and the layout that it has
        here; what a device holds in another dtype than it was loaded in is left out.
        """
        self._restore_hosts()
        items = named.held(self.network, **self.network.checkpoint())
        cells = [cell for cell in self._cells(items) if _as_loaded(cell)]
        reversible = {id(cell) for cell in cells}
        owners = self._owners()
        by_name: dict[str, torch.Tensor] = {}
        with self._loaded(cells, cells, {item.parameter for item in items}):
            for item in items:
                if item.host.size and id(owners[item.parameter]) in reversible and item.encoding is None:
                    _number(by_name, item.source, torch_view(item.host, item.dtype))
            for name, parameter in self.network.parameters_and_names():
                kept = hasattr(parameter, "host") and not getattr(parameter, "repacked", False)
                if id(owners[name]) not in reversible and parameter.slices and kept:
                    by_name[name] = torch_view(parameter.host, str(parameter.host_dtype).lower())
            yield list(by_name.items())
        self.written()

    def memory(self) -> list[tuple[int, int]]:
        """Address and bytes of each parameter that is loaded."""
        loaded = [parameter for parameter in self.network.get_parameters() if parameter.slices]
        return [(parameter.data_ptr(), parameter.nbytes) for parameter in loaded]

    # ---- cells and parameters ----

    def _owners(self) -> dict:
        """A parameter's name -> its cell."""
        cells = dict(self.network.cells_and_names())
        names = [name for name, _ in self.network.parameters_and_names()]
        return {name: cells[name.rpartition(".")[0]] for name in names}

    def _cells(self, items: list[LoadItem]) -> list:
        owners = self._owners()
        return list({id(owners[item.parameter]): owners[item.parameter] for item in items}.values())

    def _whole(self, filled: frozenset[str]) -> set[int]:
        """The ids of the cells of which every parameter that is loaded is among these."""
        owners = self._owners()
        loaded = {name for name, parameter in self.network.parameters_and_names() if parameter.slices}
        return {id(owners[name]) for name in filled} - {id(owners[name]) for name in loaded - filled}

    def _refuse_converted(self, items: list[LoadItem], holds: Callable) -> None:
        """CheckpointError for cells whose weights are not what was loaded, and cannot become it again."""
        owners, wrong = self._owners(), []
        for item in items:
            cell = owners[item.parameter]
            if hasattr(cell, "process_weights_after_loading") and not (hasattr(cell, "can_unpack") and holds(cell)):
                wrong.append(f"converted when it was loaded: {item.source}, {_FROM_DISK}")
        if wrong:
            raise CheckpointError("\n".join(dict.fromkeys(wrong)))

    def _restore_hosts(self) -> None:
        for parameter in self.network.get_parameters():
            restore_host(parameter)

    @contextlib.contextmanager
    def _loaded(self, unpacked: list, packed: list, touched: set[str]) -> Iterator[None]:
        """Let `host` of the parameters of cells be as it was loaded, and have the device take it from there afterwards.

        unpacked: cells of which it is needed; packed: all cells that change; touched: parameters that are read or
        written.
        """
        packed = [cell for cell in packed if hasattr(cell, "process_weights_after_loading")]
        unpacked = [cell for cell in unpacked if cell in packed]
        names = {id(parameter): name for name, parameter in self.network.parameters_and_names()}
        of_cells = {id(one): one for cell in packed for one in cell.get_parameters(expand=False)}
        others = {id(one): one for one in self.network.get_parameters() if names[id(one)] in touched}
        parameters = list({**of_cells, **others}.values())
        for parameter in parameters:
            ops.fetch(parameter)
        for cell in unpacked:
            cell.unpack_weights()
        try:
            yield
        finally:
            for parameter in parameters:
                ops.renew(parameter)
            for cell in packed:
                cell.process_weights_after_loading()
            for parameter in parameters:
                if not parameter.slices:  # it was computed of others just now
                    ops.renew(parameter)
            for parameter in self.network.get_parameters():
                ops.move_to_device(parameter)


def _described(offered: Iterable[tuple[str, torch.Tensor]]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for name, tensor in offered:
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise ValueError(f"{name} is {type(tensor).__name__}, not a dense tensor")
        if name in found:
            raise ValueError(f"{name} is given twice")
        found[name] = Stored(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.detach().cpu())
    return found


def _clear_padding(cell, items: list[LoadItem]) -> None:
    """Let rows that nothing fills be zeros, in parameters of which all the rest is given."""
    for parameter in cell.get_parameters(expand=False):
        given = sum(item.host.size for item in items if np.shares_memory(item.host, parameter.host))
        if parameter.slices and given < parameter.host.size:
            parameter.host[...] = 0


def _as_loaded(cell) -> bool:
    """Whether the cell's parameters are, or can be again, what was loaded."""
    return getattr(cell, "can_unpack", not hasattr(cell, "process_weights_after_loading"))


def _unquantized(cell) -> bool:
    return getattr(cell, "method", cell).can_unpack


def _of_all_ranks(parts: list) -> list:
    parallel = get_parallel()
    if parallel.tp_size == 1:
        return parts
    found = [None] * parallel.tp_size
    torch.distributed.all_gather_object(found, parts, group=parallel.tp_group.cpu_group)
    return [part for one in found for part in one]


def _joined(parts: list) -> torch.Tensor:
    """Parts (slices of the whole, its shape if that is known, values) -> the whole."""
    _, shape, values = parts[0]
    whole = torch.zeros(shape or values.shape, dtype=values.dtype)
    for read, _, part in parts:
        whole[read] = part
    return whole


def _number(tensors: dict, name: str, tensor: torch.Tensor) -> None:
    """Add a part of a tensor, of which there may be others."""
    count = 1 + sum(known == name or known.startswith(f"{name} (") for known in tensors)
    tensors[name if count == 1 else f"{name} ({count})"] = tensor

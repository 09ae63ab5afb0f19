"""Low-rank adapters of linear layers: the slots in which a layer has those of a batch, and what they add.

Hu et al., 2021 (LoRA).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from mindspore import Tensor, int32, nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.quantization.base import Matrix
from sglang.srt.model_loader_ms.names import TensorNames
from sglang.srt.model_loader_ms.weight_slice import parameter, restore_host

LORA_SLOTS = "lora_slots"  # the field of a step that has the slot of each token
DP_LORA_SLOTS = "dp_lora_slots"  # the same of the tokens of all attention DP ranks


class LoRAPart(NamedTuple):
    """Of a matrix that an adapter may have factors for, what this rank multiplies by."""

    names: Sequence[str]  # of the module in checkpoints, the usual one first
    whole: tuple[int, int]  # [out, in] of the whole matrix
    columns: slice  # of A [r, in]
    rows: tuple[slice, ...]  # of B [out, r], in the order of the layer's results
    stack: int = 0  # how many such matrices the module is a stack of: A [stack, r, in]; 0: it is none
    number: int = 0  # of the matrix in the stack

    @property
    def width(self) -> int:
        """Columns of the layer's results."""
        return sum(len(range(rows.start, rows.stop, rows.step or 1)) for rows in self.rows)


def lora_parts(path: str, matrix: Matrix, names: TensorNames) -> tuple[LoRAPart, ...]:
    """The checkpoint's matrices that a layer at `path` multiplies by as one, in the order of its results."""
    found = {}
    for one in matrix.slices:
        known = tuple(name.removesuffix(".weight") for name in names.all_of(path, one.source))
        (first, last, _), columns = one.read[0].indices(one.whole[0]), one.read[1].indices(one.whole[1])
        part = found.setdefault(one.source, LoRAPart(known, tuple(one.whole), slice(*columns[:2]), ()))
        found[one.source] = part._replace(rows=(*part.rows, slice(first, last)))
    return tuple(found.values())


class LoRA(nn.Cell):
    """What the adapters of a batch add to a linear layer: y [T, out], x [T, in] -> [T, out].

    The layer has room for `max_loras` adapters, of ranks up to `rank`. `hosts` are the parameters lora_a, lora_b and
    ranks of ops.add_lora in the host's memory, of int16 where they are bfloat16; what is written there counts from
    `renew` on.
    """

    def __init__(self, parts: Sequence[LoRAPart], dtype, max_loras: int, rank: int):
        super().__init__()
        self.slots = LORA_SLOTS  # or DP_LORA_SLOTS, where x has the rows of all attention DP ranks
        self.parts, self.widths = tuple(parts), tuple(part.width for part in parts)
        columns = parts[0].columns.stop - parts[0].columns.start
        self.lora_a = parameter((len(parts), max_loras, rank, columns), dtype)
        self.lora_b = parameter((max_loras * rank * sum(self.widths),), dtype)
        self.ranks = parameter((max_loras,), int32)
        for one in self.held():
            ops.move_to_device(one)
            restore_host(one)
        self.hosts = tuple(one.host for one in self.held())

    def held(self):
        """lora_a, lora_b and ranks, as operators take them."""
        return self.lora_a, self.lora_b, self.ranks

    def factors(self, step):
        """What an operator takes that adds adapters by itself. In graphs."""
        return step[self.slots], self.lora_a, self.lora_b, self.ranks

    def places(self, slot: int) -> list:
        """[(place of a slot in lora_a, lora_b and ranks, the forms in which an adapter may have each part)]"""
        return [(slot, [(part,) for part in self.parts])]

    def renew(self) -> None:
        """Let the operators read what is in `hosts`. None may run meanwhile."""
        for one, host in zip(self.held(), self.hosts, strict=True):
            one.host = host
            ops.renew(one)

    # A load of the model's weights, which are others' on a device that took them, leaves the adapters as they are.
    process_weights_after_loading = renew

    def construct(self, y, x, step):
        return ops.add_lora(y, x, step[self.slots], self.lora_a, self.lora_b, self.ranks, self.widths)


class LoRATable(nn.Cell):
    """A of one adapter of an embedding, transposed: the rows [N, r] of this rank's ids."""

    def __init__(self, rows: int, rank: int, dtype):
        super().__init__()
        self.weight = parameter((rows, rank), dtype)
        self.plain = self.weight.host.copy()
        ops.move_to_device(self.weight)
        restore_host(self.weight)

    def renew(self) -> None:
        """Let the operators read what is in `plain`. None may run meanwhile."""
        restore_host(self.weight)
        self.weight.host[...] = self.plain
        ops.renew(self.weight)
        ops.prepack_embedding(self.weight)

    process_weights_after_loading = renew


class EmbeddingLoRA(nn.Cell):
    """What the adapters of a batch add to an embedding: y [T, out], ids [T] -> [T, out].

    A row of each slot's table is taken, all of them are put side by side, and ops.add_lora multiplies by those of a
    token's own slot: its A picks them.
    """

    def __init__(self, part: LoRAPart, rows: int, first: int, dtype, max_loras: int, rank: int):
        """rows, first: how many ids this rank has, and the first of them."""
        super().__init__()
        self.parts, self.first, self.widths = (part,), first, (part.width,)
        self.tables = nn.CellList([LoRATable(rows, rank, dtype) for _ in range(max_loras)])
        picks = np.eye(max_loras * rank, dtype=np.float32).reshape(1, max_loras, rank, max_loras * rank)
        self.picks = Tensor(picks, dtype)
        self.lora_b = parameter((max_loras * rank * part.width,), dtype)
        self.ranks = parameter((max_loras,), int32)
        for one in (self.lora_b, self.ranks):
            ops.move_to_device(one)
            restore_host(one)
        self.hosts = self.lora_b.host, self.ranks.host

    def renew(self) -> None:
        """Let the operators read what is in `hosts` and in the tables. None may run meanwhile."""
        for one, host in zip((self.lora_b, self.ranks), self.hosts, strict=True):
            one.host = host
            ops.renew(one)

    process_weights_after_loading = renew

    def construct(self, y, ids, step):
        x = ops.embedding(ids, self.tables[0].weight, self.first)
        for table in self.tables[1:]:
            x = ops.concat_columns(x, ops.embedding(ids, table.weight, self.first))
        return ops.add_lora(y, x, step[LORA_SLOTS], self.picks, self.lora_b, self.ranks, self.widths)


def vocabulary_part(path: str, matrix: Matrix, names: TensorNames, source: str = "") -> LoRAPart:
    """Of the matrix [vocab_size, hidden_size] of an embedding or head, as a linear layer has it: of a head."""
    one = matrix.slices[0]
    known = tuple(name.removesuffix(".weight") for name in names.all_of(path, source or one.source))
    first, last, _ = one.read[0].indices(one.whole[0])
    return LoRAPart(known, tuple(one.whole), slice(0, one.whole[1]), (slice(first, last),))

"""Where checkpoints have the matrices of experts: what fills the stacks of `moe.Experts`.

A layout is a function of Sizes; it gives the ways in which a checkpoint may have them, as `parameter` takes them.
"""

from collections.abc import Callable
from typing import NamedTuple

from sglang.srt.model_loader_ms.pieces import Piece

ALL = slice(None)


class Sizes(NamedTuple):
    """What a layout needs to know to say where experts' matrices are."""

    experts: int
    width: int  # of the hidden states
    size: int  # inner size of an expert
    own: slice  # the share of it that this rank computes


class Layout(NamedTuple):
    """Pieces of the stacks gate_up [E, 2, size, width] and down [E, width, size], and of their biases."""

    gate_up: tuple
    down: tuple
    gate_up_bias: tuple = ()
    down_bias: tuple = ()


def separate(gate: str, up: str, down: str) -> Callable[[Sizes], tuple[Layout, ...]]:
    """Three matrices an expert, as most checkpoints have them: experts.3.gate_proj.weight."""

    def layouts(sizes: Sizes):
        inner, outer = (sizes.size, sizes.width), (sizes.width, sizes.size)
        gate_up = [
            Piece(f"{expert}.{name}.weight", (sizes.own, ALL), (expert, part), inner)
            for expert in range(sizes.experts)
            for part, name in enumerate((gate, up))
        ]
        downs = [
            Piece(f"{expert}.{down}.weight", (ALL, sizes.own), (expert,), outer) for expert in range(sizes.experts)
        ]
        return Layout(tuple(gate_up), tuple(downs)), fused(sizes)

    return layouts


def fused(sizes: Sizes) -> Layout:
    """Two tensors for all experts, as transformers holds them: gate_up_proj, gate first, and down_proj."""
    start, stop = sizes.own.start, sizes.own.stop
    whole = (sizes.experts, 2 * sizes.size, sizes.width)
    gate_up = tuple(
        Piece(
            "gate_up_proj", (ALL, slice(part * sizes.size + start, part * sizes.size + stop), ALL), (ALL, part), whole
        )
        for part in (0, 1)
    )
    down = Piece("down_proj", (ALL, ALL, sizes.own), whole=(sizes.experts, sizes.width, sizes.size))
    return Layout(gate_up, (down,))


SEPARATE = separate("gate_proj", "up_proj", "down_proj")


def stacked_by_rows(sizes):
    """All experts' w1 (gate), v1 (up) and w2 (down, transposed) below each other."""
    whole = (sizes.experts * sizes.size, sizes.width)
    rows = [slice(sizes.own.start + i * sizes.size, sizes.own.stop + i * sizes.size) for i in range(sizes.experts)]
    gate_up = [
        Piece(name, (rows[i], ALL), (i, part), whole)
        for i in range(sizes.experts)
        for part, name in enumerate(("w1", "v1"))
    ]
    down = [Piece("w2", (rows[i], ALL), (i,), whole, transposed=True) for i in range(sizes.experts)]
    return (Layout(tuple(gate_up), tuple(down)),)


def interleaved(sizes):
    """Gate and up by turns in the columns of gate_up_proj; matrices are transposed. The same from MXFP4."""
    start, stop, size = sizes.own.start, sizes.own.stop, sizes.size
    parts = [slice(2 * start + part, 2 * stop, 2) for part in (0, 1)]
    experts = [slice(i, i + 1) for i in range(sizes.experts)]
    whole, outer = (sizes.experts, sizes.width, 2 * size), (sizes.experts, size, sizes.width)
    gate_up = [
        Piece("gate_up_proj", (expert, ALL, columns), (expert, part), whole, transposed=True)
        for expert in experts
        for part, columns in enumerate(parts)
    ]
    down = [Piece("down_proj", (expert, sizes.own, ALL), (expert,), outer, transposed=True) for expert in experts]
    inner = [Piece("gate_up_proj_bias", (ALL, columns), (ALL, part), whole[::2]) for part, columns in enumerate(parts)]
    here = slice(0, 0) if start else ALL  # the first rank adds it
    bias = Piece("down_proj_bias", (here, ALL), (here,), outer[::2])
    return (Layout(tuple(gate_up), tuple(down), tuple(inner), (bias,)),)

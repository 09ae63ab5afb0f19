"""The layouts of experts' matrices in checkpoints, which fill the stacked parameters of `moe.Experts`.

A layout is a function of Sizes. It returns every form in which a checkpoint may have the matrices.
"""

from collections.abc import Callable
from typing import NamedTuple

from sglang.srt.model_loader_ms.weight_slice import WeightSlice

ALL, NONE = slice(None), slice(0, 0)


class Sizes(NamedTuple):
    """The sizes and the experts of a rank."""

    experts: int
    held: tuple[int, ...]  # this rank's experts, in the order of its stacks
    width: int  # of the hidden states
    size: int  # inner size of an expert
    own: slice  # this rank's share of the inner size

    def places(self):
        """(expert, index in the stacks) for each expert of this rank."""
        return [(expert, place) for place, expert in enumerate(self.held)]

    def runs(self):
        """(slice of experts, slice of indices in the stacks) for each run of consecutive experts of this rank."""
        starts = [i for i, expert in enumerate(self.held) if not i or self.held[i - 1] != expert - 1]
        ends = [*starts[1:], len(self.held)]
        return [
            (slice(self.held[start], self.held[end - 1] + 1), slice(start, end))
            for start, end in zip(starts, ends, strict=True)
        ]


class Layout(NamedTuple):
    """Weight slices of the stacks gate_up [E, 2, size, width] and down [E, width, size], and of their biases."""

    gate_up: tuple
    down: tuple
    gate_up_bias: tuple = ()
    down_bias: tuple = ()


USUAL = ("gate_proj", "up_proj", "down_proj")
MIXTRAL = ("w1", "w3", "w2")  # gate, up, down


def separate(*names: str) -> Callable[[Sizes], tuple[Layout, ...]]:
    """Three matrices an expert, as most checkpoints have them: experts.3.gate_proj.weight.

    names: of gate, up and down, which most checkpoints of the model have. Those that other models have hold too, and
    the layouts with all experts in two or three tensors.
    """
    known = dict.fromkeys((names, USUAL, MIXTRAL))

    def layouts(sizes: Sizes):
        return (
            *(one_by_one(sizes, *kind) for kind in known),
            fused(sizes),
            fused(sizes, transposed=True),
            stacked(sizes),
        )

    return layouts


def one_by_one(sizes: Sizes, *names: str, bias: bool = False) -> Layout:
    """A few matrices an expert, and a bias for each of them. names: gate, up and down; or up and down."""
    *inside, down = names
    others = sorted(set(range(sizes.experts)) - set(sizes.held))

    def gate_up(kind: str, read: tuple, whole: tuple) -> tuple:
        parts = list(enumerate(inside))
        held = [
            WeightSlice(f"{expert}.{name}.{kind}", read, (place, part), whole)
            for expert, place in sizes.places()
            for part, name in parts
        ]
        # Nothing is read from these tensors, but they belong to the model.
        none, rows = (NONE, *read[1:]), (0, 0, NONE)
        names = [f"{expert}.{name}.{kind}" for expert in others for _, name in parts]
        rest = [WeightSlice(name, none, rows, whole) for name in names]
        return (*held, *rest)

    def downs(kind: str, read: tuple, whole: tuple) -> tuple:
        held = [
            WeightSlice(f"{expert}.{down}.{kind}", read, (place, read[0]), whole) for expert, place in sizes.places()
        ]
        rest = [WeightSlice(f"{expert}.{down}.{kind}", (NONE, *read[1:]), (0, NONE), whole) for expert in others]
        return (*held, *rest)

    inner, outer = (sizes.size, sizes.width), (sizes.width, sizes.size)
    matrices = gate_up("weight", (sizes.own, ALL), inner), downs("weight", (ALL, sizes.own), outer)
    if not bias:
        return Layout(*matrices)
    added = NONE if sizes.own.start else ALL  # the first rank of an expert adds it
    return Layout(*matrices, gate_up("bias", (sizes.own,), inner[:1]), downs("bias", (added,), outer[:1]))


def fused(
    sizes: Sizes, transposed: bool = False, names: tuple[str, str] = ("gate_up_proj", "down_proj"), parts: int = 2
) -> Layout:
    """Two tensors for all experts, as transformers holds them: gate and up, gate first, and down.

    transposed: [E, width, 2 * size] and [E, size, width], in the place of [E, 2 * size, width] and [E, width, size].
    parts: 1 where there is no gate.
    """

    def turned(*axes):
        return (axes[0], axes[2], axes[1]) if transposed else axes

    start, stop = sizes.own.start, sizes.own.stop
    whole = turned(sizes.experts, parts * sizes.size, sizes.width)
    rows = [slice(part * sizes.size + start, part * sizes.size + stop) for part in range(parts)]
    gate_up = tuple(
        WeightSlice(names[0], turned(experts, own, ALL), (places, part), whole, transposed)
        for experts, places in sizes.runs()
        for part, own in enumerate(rows)
    )
    outer = turned(sizes.experts, sizes.width, sizes.size)
    down = tuple(
        WeightSlice(names[1], turned(experts, ALL, sizes.own), places, outer, transposed)
        for experts, places in sizes.runs()
    )
    return Layout(gate_up, down)


def stacked(sizes: Sizes) -> Layout:
    """Three tensors for all experts, as GGUF files have them: gate_proj.weight, up_proj.weight and down_proj.weight."""
    inner, outer = (sizes.experts, sizes.size, sizes.width), (sizes.experts, sizes.width, sizes.size)
    gate_up = [
        WeightSlice(f"{name}.weight", (experts, sizes.own, ALL), (places, part), inner)
        for experts, places in sizes.runs()
        for part, name in enumerate(("gate_proj", "up_proj"))
    ]
    down = [
        WeightSlice("down_proj.weight", (experts, ALL, sizes.own), places, outer) for experts, places in sizes.runs()
    ]
    biases = [
        WeightSlice(f"{name}.bias", (experts, sizes.own), (places, part), inner[:2])
        for experts, places in sizes.runs()
        for part, name in enumerate(("gate_proj", "up_proj"))
    ]
    added = [(NONE, NONE)] if sizes.own.start else sizes.runs()  # the first rank of an expert adds it
    down_bias = [WeightSlice("down_proj.bias", (experts, ALL), (places,), outer[:2]) for experts, places in added]
    return Layout(tuple(gate_up), tuple(down), tuple(biases), tuple(down_bias))


SEPARATE = separate(*USUAL)


def ungated(sizes):
    """Two matrices an expert, or in two tensors for all experts, where there is no gate."""
    return one_by_one(sizes, "up_proj", "down_proj"), fused(sizes, names=("up_proj", "down_proj"), parts=1)


def granites(sizes):
    """Two tensors for all experts under Granite's names, or any layout of others."""
    return (fused(sizes, names=("input_linear.weight", "output_linear.weight")), *SEPARATE(sizes))


def stacked_by_rows(sizes):
    """All experts' w1 (gate), v1 (up) and w2 (down, transposed) below each other; or three matrices an expert."""
    whole = (sizes.experts * sizes.size, sizes.width)
    rows = [slice(sizes.own.start + i * sizes.size, sizes.own.stop + i * sizes.size) for i in range(sizes.experts)]
    gate_up = [
        WeightSlice(name, (rows[expert], ALL), (place, part), whole)
        for expert, place in sizes.places()
        for part, name in enumerate(("w1", "v1"))
    ]
    down = [
        WeightSlice("w2", (rows[expert], ALL), (place,), whole, transposed=True) for expert, place in sizes.places()
    ]
    return Layout(tuple(gate_up), tuple(down)), one_by_one(sizes, "w1", "v1", "w2")


def interleaved(sizes):
    """Gate and up by turns in the columns of gate_up_proj; matrices are transposed. The same from MXFP4.

    Or three matrices an expert, with biases, as some tools for quantization write them, or `stacked`.
    """
    start, stop, size = sizes.own.start, sizes.own.stop, sizes.size
    parts = [slice(2 * start + part, 2 * stop, 2) for part in (0, 1)]
    experts = [(slice(expert, expert + 1), slice(place, place + 1)) for expert, place in sizes.places()]
    whole, outer = (sizes.experts, sizes.width, 2 * size), (sizes.experts, size, sizes.width)
    gate_up = [
        WeightSlice("gate_up_proj", (expert, ALL, columns), (place, part), whole, transposed=True)
        for expert, place in experts
        for part, columns in enumerate(parts)
    ]
    down = [
        WeightSlice("down_proj", (expert, sizes.own, ALL), (place,), outer, transposed=True)
        for expert, place in experts
    ]
    inner = [
        WeightSlice("gate_up_proj_bias", (run, columns), (places, part), whole[::2])
        for run, places in sizes.runs()
        for part, columns in enumerate(parts)
    ]
    runs = [(NONE, NONE)] if start else sizes.runs()  # the first rank of an expert adds it
    biases = [WeightSlice("down_proj_bias", (run, ALL), (places,), outer[::2]) for run, places in runs]
    layout = Layout(tuple(gate_up), tuple(down), tuple(inner), tuple(biases))
    return layout, one_by_one(sizes, *USUAL, bias=True), stacked(sizes)

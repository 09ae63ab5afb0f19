"""Tensors that a checkpoint holds as codes and scales: read as these, or as the values that they stand for.

Which tensors those are, and in which format, is what a weight slice says (layers_ms/quantization/formats.py); how they
hold it, a layout does (layouts).
"""

import torch

from sglang.srt.model_loader_ms.layouts import LAYOUTS
from sglang.srt.model_loader_ms.layouts.base import Layout, Misfit


def part_name(name: str, encoding) -> str:
    """What the part of an encoding that a slice reads is called among the tensors of a checkpoint."""
    return name if encoding.part == "values" else f"{name} ({encoding.part})"


def present(names, name: str, encoding) -> bool:
    """Whether a checkpoint with these tensors has the tensor `name` encoded so."""
    return LAYOUTS[encoding.layout].present(names, name, encoding)


def keeps(stored: str, held: str) -> bool:
    """Whether scales of one dtype are held in another one as they are, subnormal ones of float16 aside."""
    return held != "bfloat16" or stored == held


class Part:
    """A tensor of what a layout gives; computed for the part of it that is asked for."""

    def __init__(self, layout: Layout, encoding):
        self.layout, self.encoding, self.format = layout, encoding, encoding.format
        *self.stack, self.rows, self.columns = layout.matrix

    def __getitem__(self, read: tuple) -> torch.Tensor:
        raise NotImplementedError

    def stored(self, read: tuple) -> torch.Tensor:
        """The codes that are read for a part."""
        *stack, rows, _ = read
        return self.layout.stored(tuple(stack), rows)

    def nbytes(self, values: int) -> int:
        """Bytes that so many of them take in the file."""
        return values


class Values(Part):
    """float32"""

    dtype = "float32"

    @property
    def shape(self):
        last = (self.columns, self.rows) if self.encoding.transposed else (self.rows, self.columns)
        return (*self.stack, *last)

    def __getitem__(self, read):
        *stack, rows, columns = self._of_matrix(read)
        values = self.layout.values(tuple(stack), rows, columns)
        return values.transpose(-1, -2) if self.encoding.transposed else values

    def stored(self, read):
        return super().stored(self._of_matrix(read))

    def nbytes(self, values):
        return self.format.nbytes(values)

    def _of_matrix(self, read: tuple) -> tuple:
        return (*read[:-2], read[-1], read[-2]) if self.encoding.transposed else read


class Codes(Part):
    """As they are held."""

    @property
    def dtype(self):
        return "int8" if self.format.kind == "int8" else "uint8"

    @property
    def shape(self):
        return (*self.stack, self.rows, self.format.nbytes(self.columns))

    def __getitem__(self, read):
        *stack, rows, octets = read
        span, bits = range(self.shape[-1])[octets], self.format.bits
        columns = slice(span.start * 8 // bits, span.stop * 8 // bits)
        return self.layout.packed(tuple(stack), rows, columns)


class Scales(Part):
    """One for each `encoding.group` columns, of the dtype that the checkpoint has."""

    def __init__(self, layout, encoding):
        super().__init__(layout, encoding)
        self._every = torch.arange(0, self.columns, encoding.group or self.columns)
        if layout.order is not None:
            self._every = layout.order[self._every]
        self.shape = (*self.stack, self.rows, len(self._every))
        self.dtype = str(self._of([slice(0, 0)] * len(self.stack), slice(0, 0), self._every).dtype)[len("torch.") :]

    def _of(self, stack, rows, columns):
        return self.layout.scales(tuple(stack), rows, columns)

    def __getitem__(self, read):
        *stack, rows, groups = read
        return self._of(stack, rows, self._every[groups])

    def stored(self, read):
        return self.layout.stored((slice(0, 0),) * len(self.stack), slice(0, 0))  # nothing is given back


class Offsets(Scales):
    def _of(self, stack, rows, columns):
        return self.layout.offsets(tuple(stack), rows, columns)


class InTwoParts(Part):
    """Scales or minima of super-blocks, whose groups have factors of a byte."""

    dtype = "int8"

    @property
    def shape(self):
        return (*self.stack, self.rows, self.format.factor_bytes(self.columns, self.encoding.group))

    def __getitem__(self, read):
        *stack, rows, octets = read
        name = self.encoding.part.removesuffix("_parts")
        return self.layout.in_two_parts(tuple(stack), rows, name).flatten(-2)[..., octets]

    def stored(self, read):
        return self.layout.stored((slice(0, 0),) * len(self.stack), slice(0, 0))  # small, as scales are


class Order(Part):
    """Of the columns as they are held, int32 [k]."""

    dtype = "int32"

    @property
    def shape(self):
        return (self.columns,)

    def __getitem__(self, read):
        order = self.layout.order
        return (torch.arange(self.columns) if order is None else order)[read].int()

    def stored(self, read):
        return self.layout.stored((), slice(0, 0))  # small, and read with others: nothing is given back


class Vector(Part):
    """Of static activations, or of the bias with them."""

    dtype = "float32"

    @property
    def shape(self):
        return tuple(self.layout.vector(self.encoding.part).shape)

    def __getitem__(self, read):
        return self.layout.vector(self.encoding.part)[read]

    def stored(self, read):
        return self.layout.stored((), slice(0, 0))


PARTS = {"values": Values, "codes": Codes, "scale": Scales, "offset": Offsets, "order": Order}
PARTS |= dict.fromkeys(("scale_parts", "offset_parts"), InTwoParts)
PARTS |= dict.fromkeys(("input_scale", "input_offset", "bias"), Vector)


def join(tensors: dict, encodings, lost=()) -> dict[str, str]:
    """Put parts in the place of the tensors that encode them (name -> checkpoint.Stored).

    encodings: (name, Encoding) of what is wanted. A tensor that the checkpoint has as values stays as it is. lost:
    names of tensors of which it is known already that they cannot be read.
    -> by the name of each part that there is not, what does not fit; "" where that is known.
    """
    problems, layouts = {}, {}
    for name, encoding in dict.fromkeys(encodings):
        if name not in layouts:
            layouts[name] = _layout_or_problem(tensors, name, encoding, lost)
        layout = layouts[name]
        if isinstance(layout, str):
            problems[part_name(name, encoding)] = layout
        elif layout is not None:
            part = PARTS[encoding.part](layout, encoding)
            stored = layout.source._replace(shape=tuple(part.shape), dtype=part.dtype, data=part)
            tensors[part_name(name, encoding)] = stored
    return problems


def _layout_or_problem(tensors: dict, name: str, encoding, lost) -> Layout | str | None:
    """-> what does not fit, in the place of a layout."""
    try:
        return _layout(tensors, name, encoding)
    except Misfit as error:
        return "" if LAYOUTS[encoding.layout].codes_name(name, encoding) in lost else str(error)


def _layout(tensors: dict, name: str, encoding) -> Layout | None:
    """None: the tensor is there as values, or not at all."""
    layout = LAYOUTS[encoding.layout]
    if layout.present(tensors, name, encoding):
        return layout(tensors, name, encoding)
    if encoding.part == "values":
        return None
    codes, form = layout.codes_name(name, encoding), encoding.format
    if codes in tensors:
        raise Misfit(f"wrong dtype: {codes} is {tensors[codes].dtype}, and codes of {form.name} weights {form.dtype}")
    instead = f"; there is {name}, {tensors[name].dtype}" if name in tensors else ""
    raise Misfit(f"missing: {codes}, the codes of {form.name} weights{instead}")

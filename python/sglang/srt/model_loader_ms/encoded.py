"""Tensors that a checkpoint holds as codes and scales, read as the values that they stand for.

Which tensors those are, and in which format, is what a weight slice says (layers_ms/quantization/formats.py).
"""

import torch

_EXPONENT_BIAS = 127  # of scales that are exponents


class Values:
    """What codes [..., n, k] and scales stand for, float32; computed for the part that is asked for."""

    dtype = "float32"

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor, encoding):
        self.codes, self.scales = codes, scales
        self.format, self.transposed = encoding.format, encoding.transposed
        self.blocked = codes.ndim > scales.ndim  # [..., n, blocks, bytes of one]: the columns are two axes
        *stack, rows, width = codes.flatten(-2).shape if self.blocked else codes.shape
        columns = width * 8 // self.format.bits
        self.matrix = (*stack, rows, columns)
        self.shape = (*stack, columns, rows) if self.transposed else self.matrix
        self._values = torch.tensor(self.format.values) if self.format.values else None

    def __getitem__(self, read: tuple) -> torch.Tensor:
        *stack, rows, columns = self._of_matrix(read)
        scales = self._scales(tuple(stack), rows, columns)
        values = self._decoded(self.codes[(*stack, rows)], columns)
        values = torch.ldexp(values, scales) if self.format.scale == "exponent" else values * scales
        return values.transpose(-1, -2) if self.transposed else values

    def stored(self, read: tuple) -> torch.Tensor:
        """The codes that are read for a part."""
        *stack, rows, _ = self._of_matrix(read)
        return self.codes[(*stack, rows)]

    def nbytes(self, values: int) -> int:
        return self.format.nbytes(values)

    def _of_matrix(self, read: tuple) -> tuple:
        return (*read[:-2], read[-1], read[-2]) if self.transposed else read

    def _decoded(self, codes: torch.Tensor, columns: slice) -> torch.Tensor:
        if self.format.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)  # the low bits come first
        codes = (codes.flatten(-2) if self.blocked else codes)[..., columns]
        return codes.float() if self._values is None else self._values[codes.int()]

    def _scales(self, stack: tuple, rows: slice, columns: slice) -> torch.Tensor:
        """One for each value of the part."""
        blocks = [
            torch.arange(size)[part] // (width or size)
            for size, part, width in zip(self.matrix[-2:], (rows, columns), self.format.block, strict=True)
        ]
        scales = self.scales[stack][..., blocks[0], :][..., blocks[1]]
        return scales.int().sub(_EXPONENT_BIAS) if self.format.scale == "exponent" else scales.float()


def join(tensors: dict, encodings: dict) -> list[str]:
    """Put values in the place of the tensors that encode them (name -> checkpoint.Stored).

    encodings: name of the values -> their Encoding. A tensor that the checkpoint has as values stays as it is.
    -> a line for each that does not fit.
    """
    problems = [_join(tensors, name, encoding) for name, encoding in encodings.items()]
    return [problem for problem in problems if problem]


def _join(tensors: dict, name: str, encoding) -> str | None:
    """-> what does not fit."""
    form, codes = encoding.format, tensors.get(name + encoding.codes)
    if codes is None or codes.dtype != form.dtype or codes.data is None:
        return None
    scales = tensors.pop(name + encoding.scales, None)
    if scales is None:
        return f"missing: {name}{encoding.scales}, the scales of {form.name} weights"
    del tensors[name + encoding.codes]
    values = Values(codes.data, scales.data, encoding) if len(codes.shape) > 1 else None
    wanted = form.scales(values.matrix) if values else ()
    if scales.shape != wanted:
        block = " x ".join(str(width or "all") for width in form.block)
        return (
            f"wrong shape: {name}{encoding.scales} is {list(scales.shape)}, and {name}{encoding.codes} "
            f"{list(codes.shape)} in blocks of {block} wants {list(wanted)}"
        )
    tensors[name] = codes._replace(shape=values.shape, dtype=values.dtype, data=values)
    return None

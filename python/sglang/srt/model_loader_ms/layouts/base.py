"""What a layout gives of a matrix: its codes, scales and zero points, or the values that they stand for, by parts.

Codes and scales have one canonical form, whatever the checkpoint holds: ops.quant_linear (layers_ms/ops/contract.py).
"""

import torch

EXPONENT_BIAS = 127  # of scales that are exponents
_CENTERS = {"int4": 8, "int8": 128}  # what was taken from codes that start at 0


class Misfit(Exception):
    """A tensor of a layout is missing, or is not what the others want. The message names it."""


class Layout:
    """The tensors of a checkpoint that hold a matrix [n, k], or a stack of them; a subclass takes them in `open`.

    matrix: the shape of the matrix or stack. order: of the columns, int64 [k], where they are held sorted; or None.
    """

    order: torch.Tensor | None = None

    def __init__(self, tensors: dict, name: str, encoding):
        """tensors: name -> checkpoint.Stored; what the layout takes is removed from them. Raises Misfit."""
        self.tensors, self.name, self.encoding, self.format = tensors, name, encoding, encoding.format
        self.source = tensors[self.codes_name(name, encoding)]  # which the codes are in
        self.matrix = self.open()

    @classmethod
    def tensor(cls, name: str, suffix: str) -> str:
        """The name of one of the tensors that hold the tensor `name`."""
        return name + suffix

    @classmethod
    def codes_name(cls, name: str, encoding) -> str:
        """The name of the tensor of codes: that of the matrix, where a layout does not say another one."""
        return name

    @classmethod
    def present(cls, present, name: str, encoding) -> bool:
        """Whether a checkpoint with these names of tensors holds the tensor `name` so."""
        return cls.codes_name(name, encoding) in present

    def open(self) -> tuple[int, ...]:
        """Take the tensors -> the shape of the matrix or stack."""
        raise NotImplementedError

    def codes(self, stack: tuple, rows: slice, columns) -> torch.Tensor:
        """A byte each, [..., rows, columns]: int8 where the kind is "int8", else uint8. columns: a slice or indices."""
        raise NotImplementedError

    def packed(self, stack: tuple, rows: slice, columns: slice) -> torch.Tensor:
        """As they are held: two codes a byte where they have four bits, 16 in twelve where they have six, and 32 in 20
        where they have five."""
        wanted = columns if self.order is None else self.order[columns]
        codes = self.codes(stack, rows, wanted)
        if self.format.bits in (5, 6):
            upper, bits = codes >> 4, self.format.bits - 4
            for size in (1, 2, 4):
                upper = pairs(upper, size) if size >= bits else upper
            lower = pairs(codes & 15).unflatten(-1, (-1, 16 // bits))
            return torch.cat([lower, upper.unflatten(-1, (-1, 4))], -1).flatten(-2)
        return pairs(codes) if self.format.bits == 4 else codes

    def scales(self, stack: tuple, rows: slice, columns: torch.Tensor) -> torch.Tensor:
        """Of each of these columns, [..., rows, columns]."""
        raise NotImplementedError

    def offsets(self, stack: tuple, rows: slice, columns: torch.Tensor) -> torch.Tensor:
        """As `scales`: zero points, uint8, of codes that start at 0."""
        raise NotImplementedError

    def in_two_parts(self, stack: tuple, rows: slice, part: str) -> torch.Tensor:
        """int8 [..., rows, super-blocks, groups of one + 2]: of all columns, "scale" or "offset" as the contract has
        them in two parts."""
        raise NotImplementedError

    def vector(self, part: str) -> torch.Tensor:
        """float32: "input_scale" or "input_offset" [1] of static activations, or what belongs to the "bias" [n]."""
        raise NotImplementedError

    def stored(self, stack: tuple, rows: slice) -> torch.Tensor:
        """The memory that is read for the codes of these rows."""
        raise NotImplementedError

    def take(self, suffix: str, shape: tuple | None = None, dtypes=(), beside: str = "", what: str = ""):
        """Remove a tensor from the checkpoint's -> its values, of this shape, which the tensor `beside` wants, and one
        of these dtypes. what: it is, in messages."""
        name = self.tensor(self.name, suffix)
        stored = self.tensors.pop(name, None)
        if stored is None:
            raise Misfit(f"missing: {name}, {f'the {what} ' if what else ''}of {self.format.name} weights")
        if dtypes and stored.dtype not in dtypes:
            raise Misfit(f"wrong dtype: {name} is {stored.dtype}, not {' or '.join(dtypes)}")
        if shape is not None and stored.shape != tuple(shape):
            raise Misfit(f"wrong shape: {name} is {list(stored.shape)}, and {beside or self.name} wants {list(shape)}")
        return stored.data

    def drop(self, suffix: str) -> None:
        """Remove a tensor that says nothing more."""
        self.tensors.pop(self.tensor(self.name, suffix), None)

    def values(self, stack: tuple, rows: slice, columns: slice) -> torch.Tensor:
        """What the codes stand for, float32."""
        codes, every = self.codes(stack, rows, columns), torch.arange(self.matrix[-1])[columns]
        scales = self.scales(stack, rows, every)
        if self.format.offset:
            offsets = self.offsets(stack, rows, every).float() - _CENTERS.get(self.format.kind, 0)
            return (self.decoded(codes) - offsets) * scales.float()
        if self.format.scale == "uint8":
            return torch.ldexp(self.decoded(codes), scales.int().sub(EXPONENT_BIAS))
        return self.decoded(codes) * scales.float()

    def decoded(self, codes: torch.Tensor) -> torch.Tensor:
        """What codes stand for without their scales, float32."""
        if self.format.kind == "e4m3":
            return codes.view(torch.float8_e4m3fn).float()
        return torch.tensor(self.format.values)[codes.int()] if self.format.values else codes.float()


def pairs(codes: torch.Tensor, bits: int = 4) -> torch.Tensor:
    """uint8 [..., 2 * n] -> [..., n]: the second of two begins at that bit."""
    return codes[..., ::2] | codes[..., 1::2] << bits


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """uint8 [..., n] -> uint8 [..., 2 * n]: the low bits come first."""
    return torch.stack([packed & 15, packed >> 4], -1).flatten(-2)


def unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [..., n] -> codes of 4 or 8 bits, uint8 [..., n * 32 / bits]; the low bits come first."""
    if not words.numel():
        return torch.empty((*words.shape[:-1], words.shape[-1] * 32 // bits), dtype=torch.uint8)
    octets = words.contiguous().view(torch.uint8)
    return nibbles(octets) if bits == 4 else octets


def canonical(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes that start at 0, as they are held: those of eight bits less 128."""
    return codes if bits == 4 else (codes ^ 128).view(torch.int8)

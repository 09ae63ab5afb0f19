"""Codes in a tensor of the shape of the matrix, or of half as many bytes a row, and scales of blocks in another one."""

import torch

from sglang.srt.model_loader_ms.layouts.base import Layout, Misfit, nibbles


class Plain(Layout):
    """NAME + encoding.codes and NAME + encoding.scales. Codes of four bits: the low bits of a byte come first."""

    @classmethod
    def codes_name(cls, name, encoding):
        return name + encoding.codes

    @classmethod
    def present(cls, present, name, encoding):
        stored = present.get(cls.codes_name(name, encoding)) if isinstance(present, dict) else None
        return cls.codes_name(name, encoding) in present and (stored is None or stored.dtype == encoding.format.dtype)

    def open(self):
        form, encoding = self.format, self.encoding
        scales = self.take(encoding.scales, what="scales")
        codes = self.take(encoding.codes)
        self._blocked = codes.ndim > max(2, scales.ndim)  # [..., n, blocks, bytes of one]: the columns are two axes
        if codes.ndim < 2:
            raise Misfit(f"wrong shape: {self.name}{encoding.codes} is {list(codes.shape)}, no matrix")
        *stack, rows, width = codes.flatten(-2).shape if self._blocked else codes.shape
        matrix = (*stack, rows, width * 8 // form.bits)
        wanted = form.scales(matrix)
        if form.block == (1, 0) and scales.numel() == 1:  # of the whole matrix
            scales = scales.reshape([1] * len(wanted)).expand(wanted)
        elif form.block == (1, 0) and tuple(scales.shape) == wanted[:-1]:
            scales = scales.unsqueeze(-1)
        if tuple(scales.shape) != wanted:
            block = " x ".join(str(width or "all") for width in form.block)
            raise Misfit(
                f"wrong shape: {self.name}{encoding.scales} is {list(scales.shape)}, and {self.name}{encoding.codes} "
                f"{list(codes.shape)} in blocks of {block} wants {list(wanted)}"
            )
        self._scales = scales
        self._vectors = self.open_vectors(matrix) if form.activations == "int8_static" else {}
        self._codes = codes.view(torch.uint8) if form.kind == "e4m3" else codes
        return matrix

    def codes(self, stack, rows, columns):
        codes = self._codes[(*stack, rows)]
        codes = codes.flatten(-2) if self._blocked else codes
        return (nibbles(codes) if self.format.bits == 4 else codes)[..., columns]

    def packed(self, stack, rows, columns):
        codes = self._codes[(*stack, rows)]
        codes = codes.flatten(-2) if self._blocked else codes
        bits = self.format.bits
        return codes[..., columns.start * bits // 8 : columns.stop * bits // 8]

    def scales(self, stack, rows, columns):
        height, width = self.format.block
        of_rows = torch.arange(self.matrix[-2])[rows] // (height or self.matrix[-2] or 1)
        return self._scales[stack][..., of_rows, :][..., columns // (width or self.matrix[-1] or 1)]

    def open_vectors(self, matrix: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """Take the tensors of static activations -> `vector`s. A bias has what zero points add to the products."""
        scale = self._sibling("input_scale", None)
        offset = self._sibling("input_zero_point", torch.zeros(1))
        return {"input_scale": scale, "input_offset": offset}

    def _sibling(self, suffix: str, default: torch.Tensor | None) -> torch.Tensor:
        name = self.name.removesuffix("weight") + suffix
        stored = self.tensors.pop(name, None)
        if stored is None and default is None:
            raise Misfit(f"missing: {name}, of static activations")
        found = default if stored is None else stored.data.float().reshape(-1)
        if found.numel() != 1:
            raise Misfit(f"wrong shape: {name} is {list(stored.shape)}, not [1]")
        return found

    def vector(self, part):
        return self._vectors[part]

    def stored(self, stack, rows):
        return self._codes[(*stack, rows)]

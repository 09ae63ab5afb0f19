"""bitsandbytes: NF4 codes of a matrix whose rows lie one behind the other, and rows of int8.

NF4: NAME uint8 [n * k / 2, 1], the high bits first; NAME.absmax [blocks of 64 values], float32, or where these are
quantized again uint8, with NAME.nested_absmax and NAME.nested_quant_map; NAME.quant_map [16]; and
NAME.quant_state.bitsandbytes__nf4, which is JSON. int8: NAME int8 [n, k], and SCB [n]. Dettmers et al., 2022, 2023.
"""

import json

import torch

from sglang.srt.model_loader_ms.layouts.base import Layout, Misfit

_STATE = ".quant_state.bitsandbytes__nf4"


class NF4(Layout):
    @classmethod
    def present(cls, present, name, encoding):
        return name + _STATE in present

    def open(self):
        state = json.loads(bytes(self.take(_STATE, dtypes=("uint8",)).tolist()))
        matrix = rows, columns = tuple(state["shape"])
        width = self._width = self.format.block[1]
        if state["blocksize"] != width or columns % width:
            raise Misfit(f"{self.name}: {columns} columns in blocks of {state['blocksize']}, not whole ones of {width}")
        self._codes = self.take("", (rows * columns // 2, 1), ("uint8",)).view(rows, columns // 2)
        scales = self.take(".absmax", (rows * columns // width,), beside=self.name)
        table = self.take(".quant_map", (16,)).float()
        if not torch.allclose(table, torch.tensor(self.format.values), atol=1e-6):
            raise Misfit(f"{self.name}.quant_map is not that of NF4: {table.tolist()}")
        if scales.dtype == torch.uint8:
            size = state["nested_blocksize"]
            nested = self.take(".nested_absmax", (-(-len(scales) // size),), beside=self.name).float()
            of_codes = self.take(".nested_quant_map", (256,)).float()[scales.int()]
            scales = of_codes * nested[torch.arange(len(scales)) // size] + state["nested_offset"]
        self._scales = scales.view(rows, columns // width)
        return matrix

    def codes(self, stack, rows, columns):
        codes = self._codes[rows]
        return torch.stack([codes >> 4, codes & 15], -1).flatten(-2)[:, columns]

    def packed(self, stack, rows, columns):
        codes = self._codes[rows][:, columns.start // 2 : columns.stop // 2]
        return codes >> 4 | codes << 4

    def scales(self, stack, rows, columns):
        return self._scales[rows][:, columns // self._width]

    def stored(self, stack, rows):
        return self._codes[rows]


class Int8(Layout):
    @classmethod
    def present(cls, present, name, encoding):
        return name.removesuffix(".weight") + ".SCB" in present

    @classmethod
    def tensor(cls, name, suffix):
        return name.removesuffix(".weight") + suffix

    def open(self):
        self._codes = self.take(".weight", dtypes=("int8",))
        rows, columns = self._codes.shape
        self._scales = self.take(".SCB", (rows,), beside=self.name).float()[:, None] / 127
        self.drop(".weight_format")
        return rows, columns

    def codes(self, stack, rows, columns):
        return self._codes[rows][:, columns]

    def scales(self, stack, rows, columns):
        return self._scales[rows].expand(-1, len(columns))

    def stored(self, stack, rows):
        return self._codes[rows]

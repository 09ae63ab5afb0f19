"""Weights that a checkpoint holds as MXFP4, as gpt-oss's experts: 32 values share a power of two, each has four bits.

Beside `name`_blocks, uint8 [experts, n, k / 32, 16], such a checkpoint has `name`_scales, uint8 [experts, n, k / 32].
Both become `name`, bfloat16 [experts, k, n], as checkpoints that are not quantized have it. Open Compute Project, 2023.
"""

import torch

BLOCKS, SCALES = "_blocks", "_scales"
VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
VALUES = torch.cat([VALUES, -VALUES])  # of each four bits; the highest is the sign
BIAS = 127  # of the exponent


class Values:
    """What the blocks and scales of a tensor stand for; computed for the part that is asked for."""

    itemsize = torch.bfloat16.itemsize

    def __init__(self, blocks: torch.Tensor, scales: torch.Tensor):
        self.blocks, self.scales = blocks, scales
        experts, rows, groups, width = blocks.shape
        self.shape = (experts, groups * width * 2, rows)

    def __getitem__(self, read: tuple) -> torch.Tensor:
        experts, columns, rows = read
        blocks, scales = self.blocks[experts, rows], self.scales[experts, rows]
        pairs = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2)  # the low bits come first
        found = torch.ldexp(VALUES[pairs.int()], scales.int().sub(BIAS).unsqueeze(-1))
        return found.flatten(-2).transpose(1, 2)[:, columns].bfloat16()


def join(tensors: dict) -> list[str]:
    """Put the tensors that blocks and scales stand for in their place (name -> checkpoint.Stored).

    -> a line for each pair that does not fit.
    """
    problems = []
    for name in [name.removesuffix(BLOCKS) for name in tensors if name.endswith(BLOCKS)]:
        blocks, scales = tensors[name + BLOCKS], tensors.get(name + SCALES)
        if scales is None or blocks.dtype != "uint8" or scales.dtype != "uint8":
            continue  # something else
        if len(blocks.shape) != 4 or blocks.shape[:3] != scales.shape:
            problems.append(f"wrong shape: {name}_scales is {list(scales.shape)}, its blocks {list(blocks.shape)}")
            continue
        del tensors[name + BLOCKS], tensors[name + SCALES]
        values = Values(blocks.data, scales.data)
        tensors[name] = blocks._replace(shape=values.shape, dtype="bfloat16", data=values, file=None)
    return problems

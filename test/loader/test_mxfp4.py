"""Four bits a value and a power of two for each 32 of them become the values that they stand for."""

import mindspore as ms
import numpy as np
import torch
from mindspore import nn
from safetensors.torch import save_file

from sglang.srt.layers_ms.expert_layouts import Sizes, interleaved
from sglang.srt.model_loader_ms import loader
from sglang.srt.model_loader_ms.weight_slice import parameter

SECONDS = 1
EXPERTS, WIDTH, SIZE = 3, 64, 32
FOUR_BITS = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


def quantized(generator, rows, columns):
    """-> (blocks, scales, what they stand for, [experts, columns, rows])"""
    blocks = generator.integers(0, 256, (EXPERTS, rows, columns // 32, 16), np.uint8)
    scales = generator.integers(120, 130, (EXPERTS, rows, columns // 32), np.uint8)
    values = np.zeros((EXPERTS, columns, rows), np.float32)
    for (expert, row, group, byte), pair in np.ndenumerate(blocks):
        for half, bits in enumerate((pair % 16, pair // 16)):
            value = FOUR_BITS[bits] * 2.0 ** (int(scales[expert, row, group]) - 127)
            values[expert, group * 32 + byte * 2 + half, row] = value
    return torch.from_numpy(blocks), torch.from_numpy(scales), values


class Stacks(nn.Cell):
    def __init__(self, own):
        super().__init__()
        (layout,) = interleaved(Sizes(EXPERTS, tuple(range(EXPERTS)), WIDTH, SIZE, own))
        local = own.stop - own.start
        self.gate_up = parameter((EXPERTS, 2, local, WIDTH), ms.float32, *layout.gate_up)
        self.down = parameter((EXPERTS, WIDTH, local), ms.float32, *layout.down)


def test_a_checkpoint_of_four_bits_is_loaded_as_what_it_stands_for(tmp_path):
    generator = np.random.default_rng(0)
    (gate_up_blocks, gate_up_scales, gate_up), (down_blocks, down_scales, down) = (
        quantized(generator, 2 * SIZE, WIDTH),
        quantized(generator, WIDTH, SIZE),
    )
    four_bits = {
        "gate_up_proj_blocks": gate_up_blocks,
        "gate_up_proj_scales": gate_up_scales,
        "down_proj_blocks": down_blocks,
        "down_proj_scales": down_scales,
    }
    plain = {"gate_up_proj": torch.from_numpy(gate_up), "down_proj": torch.from_numpy(down)}
    for name, tensors in (("quantized", four_bits), ("plain", plain)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        for own in (slice(0, SIZE), slice(SIZE // 2, SIZE)):
            stacks = Stacks(own)
            loader.load(stacks, tmp_path / name, progress=False)
            np.testing.assert_array_equal(stacks.gate_up.host[:, 0], gate_up[:, :, ::2].swapaxes(1, 2)[:, own])
            np.testing.assert_array_equal(stacks.gate_up.host[:, 1], gate_up[:, :, 1::2].swapaxes(1, 2)[:, own])
            np.testing.assert_array_equal(stacks.down.host, down.swapaxes(1, 2)[:, :, own])

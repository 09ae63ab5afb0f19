"""Four bits a value and a power of two for each 32 of them become the values that they stand for."""

import mindspore as ms
import numpy as np
import torch
from safetensors.torch import save_file

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import Experts
from sglang.srt.layers_ms.expert_layouts import interleaved
from sglang.srt.layers_ms.quantization import create_parameters, read
from sglang.srt.model_loader_ms import loader

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


def stacks_of(shard, config=None):
    """gpt-oss's experts."""
    experts = Experts(WIDTH, SIZE, EXPERTS, shard, ms.float32, layouts=interleaved)
    create_parameters(experts, read(config))
    return experts


def decoded(codes, scales):
    """What held codes stand for."""
    low_first = np.stack([codes.host & 15, codes.host >> 4], -1).reshape(*codes.shape[:-1], -1)
    width = low_first.shape[-1] // scales.shape[-1]
    return np.float32(FOUR_BITS)[low_first] * np.repeat(2.0 ** (scales.host.astype(np.float32) - 127), width, -1)


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
        for shard, own in ((Shard(), slice(0, SIZE)), (Shard(1, 2), slice(SIZE // 2, SIZE))):
            stacks = stacks_of(shard, {"quant_method": "mxfp4"} if name == "quantized" else None)
            loader.load(stacks, tmp_path / name, progress=False)
            held = ["gate_up", "down"]
            stands_for = {part: getattr(stacks, part).host for part in held}
            if name == "quantized":
                assert (
                    stacks.gate_up.host.nbytes
                    == stacks.gate_up.host.size
                    == EXPERTS * 2 * len(range(SIZE)[own]) * WIDTH // 2
                )
                stands_for = {part: decoded(getattr(stacks, part), getattr(stacks, part + "_scale")) for part in held}
            np.testing.assert_array_equal(stands_for["gate_up"][:, 0], gate_up[:, :, ::2].swapaxes(1, 2)[:, own])
            np.testing.assert_array_equal(stands_for["gate_up"][:, 1], gate_up[:, :, 1::2].swapaxes(1, 2)[:, own])
            np.testing.assert_array_equal(stands_for["down"], down.swapaxes(1, 2)[:, :, own])

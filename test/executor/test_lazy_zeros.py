"""A key/value pool whose memory comes when it is written."""

import psutil
import pytest
import torch

from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.model_executor_ms.runner.lazy_zeros import LazyZeros, PoolTooLarge

SECONDS = 2
SIZE = 64 << 20
COMMON = dict(page_size=1, dtype=torch.bfloat16, device="cpu", enable_memory_saver=False)
POOLS = {
    "keys and values": lambda: MHATokenToKVPool(8191, head_num=8, head_dim=128, layer_num=2, **COMMON),
    "latent": lambda: MLATokenToKVPool(8191, kv_lora_rank=512, qk_rope_head_dim=64, layer_num=2, **COMMON),
}


def resident() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
def test_large_zeros_are_zeros_that_take_memory_when_they_are_written(dtype):
    before = resident()
    with LazyZeros() as zeros:
        made = torch.zeros((2, SIZE // (2 * dtype.itemsize)), dtype=dtype, device="cpu")
    assert resident() - before < SIZE // 4
    assert (made.dtype, made.shape, zeros.size) == (dtype, (2, SIZE // (2 * dtype.itemsize)), SIZE)
    made[0] = 1
    assert resident() - before > SIZE // 4
    assert made[0].min() == 1 and not made[1].any()


@pytest.mark.parametrize("kind", POOLS)
def test_sglangs_pool_is_made_of_them(kind):
    before = resident()
    with LazyZeros() as zeros:
        pool = POOLS[kind]()
    buffers = [pool.get_key_buffer(layer) for layer in range(2)]
    assert zeros.size >= sum(buffer.nbytes for buffer in buffers)
    assert resident() - before < zeros.size // 4
    assert not any(buffer.any() for buffer in buffers)


def test_small_tensors_and_those_of_other_devices_are_torchs():
    with LazyZeros() as zeros:
        assert torch.zeros(5, dtype=torch.int64).tolist() == [0] * 5
        assert torch.zeros(SIZE, device="meta").device.type == "meta"
        assert torch.ones(3).sum() == 3
    assert zeros.size == 0


def test_a_pool_that_cannot_be_filled_is_refused_with_what_fits():
    zeros = LazyZeros()
    zeros.size, zeros.available = 10 * 10**9, 4 * 10**9
    with pytest.raises(
        PoolTooLarge, match="--max-total-tokens: .* 1000 tokens take 10.0 GB, and 4.0 GB .*: give 400 or"
    ):
        zeros.check(1000)
    zeros.available = 10 * 10**9
    zeros.check(1000)

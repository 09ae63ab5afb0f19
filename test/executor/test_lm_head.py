"""How the logits of ranks come together, in the place of SGLang's own gather."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mindspore import Tensor

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.lm_head import gather_logits


@pytest.fixture
def gathers(monkeypatch):
    """Three ranks, of which each has 1 more in its logits than the one before -> the groups that were asked for"""
    asked = []

    def column_gather(group):
        asked.append(group)
        return lambda x: Tensor(np.concatenate([x.asnumpy() + rank for rank in range(3)], 1))

    monkeypatch.setattr(ops, "column_gather", column_gather)
    return asked


@pytest.mark.parametrize(
    "shard, inside, name",
    [
        (Shard(1, 3, "ranks").head, False, "_logits_gatherer"),
        (Shard(4, 6, "ranks", replicas=2).head, False, "_logits_gatherer"),
        (Shard(4, 6, "ranks", replicas=2, own_head=True).head, True, "_gather_attn_tp_logits"),
    ],
)
def test_the_logits_of_the_ranks_that_divide_the_head_lie_side_by_side(gathers, shard, inside, name):
    processor = SimpleNamespace(do_tensor_parallel_all_gather=True, use_attn_tp_group=inside)
    gather_logits(processor, shard)
    assert set(vars(processor)) - {"do_tensor_parallel_all_gather", "use_attn_tp_group"} == {name}
    assert gathers == ["ranks@attention" if inside else "ranks"]
    gather = getattr(processor, name)
    logits = torch.arange(8.0).reshape(2, 4)[:, ::2]  # which do not lie side by side in memory
    torch.testing.assert_close(gather(logits), torch.cat([logits, logits + 1, logits + 2], 1))
    assert gather(logits[:0]).shape == (0, 2 * shard.size)


def test_logits_that_no_rank_divides_are_left_alone(gathers):
    processor = SimpleNamespace(do_tensor_parallel_all_gather=False, use_attn_tp_group=False)
    gather_logits(processor, Shard())
    assert not gathers
    assert len(vars(processor)) == 2

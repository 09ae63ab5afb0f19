"""Who puts the logits of ranks side by side: the operator table, SGLang, or the group of a replica of attention."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mindspore import Tensor

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.lora import LoRAPart
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor_ms.runner import lm_head, lora_head
from sglang.srt.model_executor_ms.runner.lm_head import gather_logits

SECONDS = 1


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
        (Shard(4, 6, "ranks", attn_dp_size=2).head, False, "_logits_gatherer"),
        (Shard(4, 6, "ranks", attn_dp_size=2, dp_lm_head=True).head, True, "_gather_attn_tp_logits"),
    ],
)
def test_the_logits_of_the_ranks_that_divide_the_head_lie_side_by_side(gathers, shard, inside, name):
    processor = SimpleNamespace(do_tensor_parallel_all_gather=True, use_attn_tp_group=inside)
    gather_logits(processor, shard)
    assert set(vars(processor)) - {"do_tensor_parallel_all_gather", "use_attn_tp_group"} == {name}
    assert gathers == ["ranks@attn_tp" if inside else "ranks"]
    gather = getattr(processor, name)
    logits = torch.arange(8.0).reshape(2, 4)[:, ::2]  # which do not lie side by side in memory
    torch.testing.assert_close(gather(logits), torch.cat([logits, logits + 1, logits + 2], 1))
    assert gather(logits[:0]).shape == (0, 2 * shard.size)


def test_logits_that_no_rank_divides_are_left_alone(gathers):
    processor = SimpleNamespace(do_tensor_parallel_all_gather=False, use_attn_tp_group=False)
    gather_logits(processor, Shard())
    assert not gathers
    assert len(vars(processor)) == 2


@pytest.fixture
def processor(monkeypatch):
    """Function of what a LogitsProcessor knows -> it, with a table that leaves gathering to others."""
    group = SimpleNamespace(all_gather=lambda logits: torch.cat([logits, logits + 1], -1))
    monkeypatch.setattr(lm_head, "get_parallel", lambda: SimpleNamespace(attn_tp_group=group))
    monkeypatch.setattr(lm_head.ops, "column_gather", lambda group: None)

    def made(gathers, within):
        found = SimpleNamespace(do_tensor_parallel_all_gather=gathers, use_attn_tp_group=within)
        found._gather_attn_tp_logits = found._logits_gatherer = "SGLang's"
        lm_head.gather_logits(found, Shard(1, 4, "tp", attn_dp_size=2, dp_lm_head=True).head)
        return found

    return made


def test_without_a_gather_of_the_table_the_ranks_of_a_replica_use_their_group(processor):
    made = processor(True, True)
    assert made._gather_attn_tp_logits(torch.zeros(1, 2)).tolist() == [[0, 0, 1, 1]]
    assert made._gather_attn_tp_logits(torch.zeros(0, 2)).shape == (0, 4)  # an idle replica does not ask
    assert made._logits_gatherer == "SGLang's"


@pytest.mark.parametrize("gathers, within", [(False, True), (True, False)])
def test_all_ranks_together_are_left_to_sglang(processor, gathers, within):
    made = processor(gathers, within)
    assert made._gather_attn_tp_logits == made._logits_gatherer == "SGLang's"


def test_each_row_of_a_verify_step_is_of_its_requests_adapter():
    part = LoRAPart(("lm_head",), (6, 4), slice(0, 4), (slice(0, 6),))
    head, generator = lora_head.HeadLoRA(part, 6, 2, 1, "cpu"), torch.Generator().manual_seed(0)
    for factor in (head.lora_a, head.lora_b):
        factor[1] = torch.randn(factor.shape[1:], generator=generator)
    drafts = SimpleNamespace(draft_token_num=3)
    head.begin(SimpleNamespace(forward_mode=ForwardMode.TARGET_VERIFY, spec_info=drafts), np.array([-1, 1], np.int32))
    logits, hidden = torch.zeros(6, 6), torch.randn(6, 4, generator=generator)
    head.add(logits, hidden)
    assert not logits[:3].any()
    torch.testing.assert_close(logits[3:], hidden[3:] @ head.lora_a[1].T @ head.lora_b[1].T)
    assert not len(head.slots)

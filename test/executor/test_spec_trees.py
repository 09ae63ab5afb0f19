"""Trees of drafts as steps: what their tokens attend to, against torch's attention with a mask; branches of drafts."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.metadata import FULL
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor_ms.runner import bridge, spec_kernels
from sglang.srt.model_executor_ms.runner.draft_steps import DraftSteps
from sglang.srt.model_executor_ms.runner.step_inputs import from_forward_batch

SECONDS = 4
SLOTS, HEADS, KV_HEADS, HEAD_DIM, SCALE = 256, 4, 2, 16, 0.3


def random_trees(generator, requests, n):
    """[requests, n, n] bool; every third one is a chain."""
    parents = [[-1] + [int(generator.integers(0, i)) for i in range(1, n)] for _ in range(requests)]
    parents[::3] = [list(range(-1, n - 1))] * len(parents[::3])
    return np.stack([spec_kernels._ancestors(one) for one in parents])


class Case:
    """A verify step of trees on shuffled slots, as SGLang gives it: lengths are those before the drafts."""

    def __init__(self, seed):
        generator = np.random.default_rng(seed)
        self.n, self.lengths = int(generator.integers(2, 9)), generator.integers(1, 30, 5)
        self.sees = random_trees(generator, 5, self.n)
        self.table = generator.permutation(np.arange(1, SLOTS))[: 5 * 40].reshape(5, 40).astype(np.int32)
        drafts = self.lengths[:, None] + np.arange(self.n)
        slots = np.take_along_axis(self.table, drafts, 1).reshape(-1)
        self.batch = SimpleNamespace(
            forward_mode=ForwardMode.TARGET_VERIFY,
            seq_lens_cpu=torch.from_numpy(self.lengths),
            req_pool_indices=torch.arange(5),
            out_cache_loc=torch.from_numpy(slots).long(),
            global_num_tokens_cpu=None,
        )
        mask = torch.from_numpy(self.sees).reshape(-1)
        self.batch.spec_info = SimpleNamespace(draft_token_num=self.n, tree_topk=4, custom_mask=mask)
        self.step = from_forward_batch(self.batch, torch.from_numpy(self.table), 1)

    @property
    def positions(self):
        return (self.lengths[:, None] + self.sees.sum(-1) - 1).reshape(-1)

    def expected(self, q, k_cache, v_cache, window):
        """torch's, of each request: keys before the tree, and ancestors; a window counts positions."""
        found, q = [], q.view(len(self.lengths), self.n, HEADS, HEAD_DIM).transpose(1, 2)
        for length, sees, row, query in zip(self.lengths, self.sees, self.table, q, strict=True):
            keys, values = (
                cache[torch.from_numpy(row[: length + self.n]).long()].transpose(0, 1) for cache in (k_cache, v_cache)
            )
            own = length + sees.sum(-1) - 1
            places = np.append(np.arange(length), own)
            mask = np.concatenate([np.ones((self.n, length), bool), sees], 1)
            mask &= own[:, None] - places < (window or SLOTS)
            y = scaled_dot_product_attention(
                query[None], keys[None], values[None], torch.from_numpy(mask), scale=SCALE, enable_gqa=True
            )
            found.append(y[0].transpose(0, 1).reshape(self.n, -1))
        return torch.cat(found)


@pytest.mark.parametrize("window", [0, 5])
def test_each_token_attends_to_what_its_mask_says(table, window):
    generator = torch.Generator().manual_seed(window)
    for seed in range(14):  # 70 trees
        case = Case(seed)
        k_cache, v_cache = torch.randn(2, SLOTS, KV_HEADS, HEAD_DIM, generator=generator)
        q = torch.randn(5 * case.n, HEADS * HEAD_DIM, generator=generator)
        arrays = case.step.arrays
        step = {name: bridge.int32(array) for name, array in (arrays | arrays["attn"][FULL]).items() if name != "attn"}
        views = [ops.cache_view(bridge.to_mindspore(cache), "cache", 1) for cache in (k_cache, v_cache)]
        found = ops.paged_attention(bridge.to_mindspore(q), *views, step, KV_HEADS, HEAD_DIM, SCALE, window)
        wanted = case.expected(q, k_cache, v_cache, window)
        np.testing.assert_allclose(found.asnumpy(), wanted.numpy(), atol=1e-5, err_msg=str(seed))
        np.testing.assert_array_equal(arrays["positions"], case.positions)
        np.testing.assert_array_equal(arrays["attn"][FULL]["out_cache_loc"], case.batch.out_cache_loc)


@pytest.mark.usefixtures("table")
def test_a_chain_is_one_request_and_a_trees_token_has_its_requests_adapter():
    case = Case(0)
    case.batch.lora_slots = np.array([3, 1, 4, 1, 5], np.int32)
    host = from_forward_batch(case.batch, torch.from_numpy(case.table), 1).host
    n = case.n
    assert host.query_lens.tolist() == [n, *[1] * n, *[1] * n, n, *[1] * n]  # the first and the fourth are chains
    assert host.lora_slots[host.request_ids].tolist() == np.repeat(case.batch.lora_slots, n).tolist()
    case.batch.spec_info = SimpleNamespace(draft_token_num=n, tree_topk=1, custom_mask=None)  # chains need no mask
    chains = from_forward_batch(case.batch, torch.from_numpy(case.table), 1).host
    assert chains.query_lens.tolist() == [n] * 5 and chains.seq_lens.tolist() == (case.lengths + n).tolist()


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("topk", [1, 3])
def test_a_branch_sees_the_prompt_and_its_own_drafts(topk):
    lengths, steps, requests = [5, 2], 4, 2
    table = torch.arange(1, 81, dtype=torch.int32).view(2, 40).flip(1).contiguous()
    drafted = torch.zeros(requests * topk * steps, dtype=torch.long)
    rows, before = torch.tensor([1, 0]), torch.tensor(lengths)
    spec_kernels.draft_cache_locs(rows, table, before, drafted, topk, steps)
    prepared = []
    model = SimpleNamespace(prepare=lambda batch, pool: prepared.append(from_forward_batch(batch, table, 1)))
    model.profile = SimpleNamespace(phase=lambda name: nullcontext())
    drafts = DraftSteps(SimpleNamespace(model=model, token_to_kv_pool=None), topk, steps)
    given = SimpleNamespace(out_cache_loc=drafted, batch_size=requests, seq_lens_cpu=before, req_pool_indices=rows)
    drafts.init_forward_metadata(given)
    assert len(prepared) == steps - 1
    own = table[rows].numpy()
    for made, step in enumerate(prepared, 1):
        assert step.host.query_lens.tolist() == [1] * requests * topk
        for request, length in enumerate(lengths):
            for branch in range(topk):
                row, first = request * topk + branch, length + branch * steps
                seen = [*own[request, :length], *own[request, first : first + made]]
                assert step.arrays["seq_lens"][row] == len(seen)
                assert step.arrays["attn"][FULL]["block_tables"][row, : len(seen)].tolist() == seen
                assert step.arrays["attn"][FULL]["out_cache_loc"][row] == seen[-1]


def test_only_what_is_elsewhere_is_moved():
    moved, own, source = [], torch.tensor([3, 4, 0]), torch.tensor([3, 7, 0])
    spec_kernels.move_cache(lambda *given: moved.append(given), "pool", own, source)
    ((pool, to, found),) = moved
    assert (pool, to.tolist(), found.tolist()) == ("pool", [4], [7])
    spec_kernels.move_cache(None, "pool", own, own)


def test_rows_of_the_table_have_room_for_all_that_a_step_allocates(monkeypatch):
    monkeypatch.setattr(spec_kernels, "get_alloc_reserve_per_decode", lambda: 40)
    assert [spec_kernels.room_for_branches(lambda own=own: own) for own in (12, 64)] == [40, 64]

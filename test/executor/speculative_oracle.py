"""SGLang's own triton kernels, interpreted on a CPU, on random trees: prints what they write, as a torch file.

Run as a process of its own, with TRITON_INTERPRET=1 and TORCHDYNAMO_DISABLE=1: python speculative_oracle.py FILE
"""

import itertools
import sys
from types import ModuleType

import torch

# One module has its triton kernel beside an import of this package, which is not installed.
sys.modules["sgl_kernel"], sys.modules["sgl_kernel.speculative"] = ModuleType("sgl_kernel"), ModuleType("speculative")
sys.modules["sgl_kernel.speculative"].reconstruct_indices_from_tree_mask = None

from sglang.kernels.ops.speculative import cache_locs, eagle, reconstruct_tree, spec_tree  # noqa: E402
from sglang.srt.mem_cache import allocation  # noqa: E402
from sglang.srt.speculative.eagle_utils import organize_draft_results  # noqa: E402
from sglang.srt.speculative.spec_utils import select_top_k_tokens  # noqa: E402

VOCABULARY = 50


def sizes():
    """(topk, steps, n, requests): chains, and trees of 2 to 8 tokens."""
    for topk, steps, requests in itertools.product((1, 2, 4), (1, 2, 3, 5), (1, 3)):
        drafts = topk + topk * topk * (steps - 1)
        wanted = {steps + 1} if topk == 1 else {2, 3, min(4, 1 + topk * steps), min(8, 1 + drafts)}
        yield from ((topk, steps, n, requests) for n in sorted(wanted) if n - 1 <= drafts)


def drafts(topk, steps, n, requests, generator):
    """What SGLang's draft steps hand on -> parent_list, top_scores_index, tokens."""
    kept, scores, hidden = [], None, torch.zeros(requests, 1)
    probs = torch.rand(requests, topk, generator=generator).sort(descending=True)[0]
    tokens = torch.randint(0, VOCABULARY, (requests, topk), generator=generator)
    for step in range(steps):
        _, hidden, scores, info = select_top_k_tokens(step, probs, tokens, hidden, scores, topk)
        kept.append(info)
        probs, tokens = torch.rand(requests * topk, VOCABULARY, generator=generator).softmax(-1).topk(topk)
    return organize_draft_results(*map(list, zip(*kept, strict=True)), n)


def case(topk, steps, n, requests, generator):
    parents, chosen, tokens = drafts(topk, steps, n, requests, generator)
    lengths = torch.randint(1, 9, (requests,), generator=generator)
    outputs = {
        "tree_mask": torch.ones(int(lengths.sum()) * n + n * n * requests, dtype=torch.bool),
        "positions": torch.zeros(requests * n, dtype=torch.long),
        "retrieve": torch.full((3, requests, n), -1),
    }
    given = dict(parents=parents, chosen=chosen, lengths=lengths, sizes=(topk, steps, n, requests))
    spec_tree.sgl_build_tree_kernel_triton(
        parents, chosen, lengths, outputs["tree_mask"], outputs["positions"], *outputs["retrieve"], topk, steps, n
    )
    given["candidates"] = torch.cat([torch.randint(0, 3, (requests, 1), generator=generator), tokens % 3], 1)
    given["targets"] = torch.randint(0, 3, (requests, n), generator=generator)
    verified = {
        "predicts": torch.zeros(requests * n, dtype=torch.int32),
        "accept_index": torch.full((requests, steps + 1), -1, dtype=torch.int32),
        "accept_token_num": torch.zeros(requests, dtype=torch.int32),
    }
    spec_tree.verify_tree_greedy_triton(*verified.values(), given["candidates"], *outputs["retrieve"], given["targets"])
    masks = torch.cat(
        [rows.view(n, -1)[:, -n:].reshape(-1) for rows in outputs["tree_mask"].split(((lengths + n) * n).tolist())]
    )
    again = {"positions": torch.zeros_like(outputs["positions"]), "retrieve": torch.full((3, requests, n), -1)}
    reconstruct_tree.reconstruct_indices_from_tree_mask_triton(
        masks, lengths, again["positions"], *again["retrieve"], requests, n
    )
    return dict(given=given | {"masks": masks}, tree=outputs, verified=verified, again=again)


def slots(generator):
    """Kernels that gather and note cache slots, for three requests."""
    table = torch.randint(1, 900, (6, 40), generator=generator, dtype=torch.int32)
    rows, starts = torch.tensor([4, 0, 2]), torch.tensor([3, 17, 9])
    drafted, positions = torch.zeros(3 * 2 * 3, dtype=torch.long), torch.zeros(6, dtype=torch.long)
    cache_locs.assign_draft_cache_locs_contiguous_func(rows, table, starts, drafted, 2, 3, positions=positions)
    extended = torch.zeros(12, dtype=torch.long)
    cache_locs.assign_extend_cache_locs[(3,)](rows, table, starts, starts + 4, extended, table.shape[1], 4)
    counts, front = torch.tensor([2, 0, 3]), torch.zeros(12, dtype=torch.long)
    cache_locs.fill_front_out_cache_loc_func(counts, extended, front)
    noted, fresh = table.clone(), torch.arange(1000, 1009)
    ends = starts + torch.tensor([4, 2, 3])
    allocation.assign_req_to_token_pool_func(rows, noted, starts, ends, fresh, 3)
    tokens, lengths = torch.arange(12, dtype=torch.int32) * 7, torch.tensor([1, 4, 2], dtype=torch.int32)
    bonus = torch.zeros(3, dtype=torch.int32)
    eagle.fill_bonus_tokens_func(tokens, lengths, bonus, 4, 3)
    index = torch.tensor([[0, 2, -1], [4, -1, -1], [8, 9, 10]], dtype=torch.int32)
    accepted = torch.zeros(9, dtype=torch.long)
    eagle.fill_accept_out_cache_loc_func(index, extended, accepted, 9)
    given = dict(table=table, rows=rows, starts=starts, counts=counts, ends=ends, fresh=fresh, index=index)
    given |= dict(tokens=tokens, lengths=lengths)
    found = dict(drafted=drafted, positions=positions, extended=extended, front=front, noted=noted)
    return given, found | dict(bonus=bonus, accepted=accepted)


if __name__ == "__main__":
    generator = torch.Generator().manual_seed(0)
    cases = [case(*size, generator) for size in sizes()]
    torch.save({"trees": cases, "slots": slots(generator)}, sys.argv[1])

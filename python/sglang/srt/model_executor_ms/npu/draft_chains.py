"""Chains of drafts on an NPU: what is verified, and what is accepted of it, in torch alone.

SGLang 0.5.23 has kernels of sgl_kernel_npu, and Triton's, which a 310P has not. These take the places of the functions
that seams/speculation.py names, as runner/spec_kernels.py does on a CPU, and compute the same of a chain. Nothing is
read from the device: shapes are all that the host knows. B requests verify n tokens each; the first is certain already.
"""

import torch

from sglang.srt.model_executor_ms.runner.spec_kernels import FULL_MASK


def build_chain(
    parent_list,
    top_scores_index,
    seq_lens,
    tree_mask,
    positions,
    retrieve_index,
    retrieve_next_token,
    retrieve_next_sibling,
    topk: int,
    spec_steps: int,
    num_verify_tokens: int,
    tree_mask_mode,
) -> None:
    """As spec_kernels.build_tree, where each draft goes on from the one before.

    NotImplementedError for trees, and for masks with a column of each token before the drafts.
    """
    if topk != 1 or int(tree_mask_mode) == FULL_MASK:
        raise NotImplementedError(f"topk {topk}, mask mode {int(tree_mask_mode)}: chains with small masks are built")
    n, device = num_verify_tokens, seq_lens.device
    steps = torch.arange(n, device=device)
    tree_mask.view(-1, n, n).copy_(steps[:, None] >= steps)
    positions.view(-1, n).copy_(seq_lens[:, None] + steps)
    retrieve_index.copy_(torch.arange(retrieve_index.numel(), device=device).view(-1, n))
    retrieve_next_token.copy_(torch.where(steps + 1 < n, steps + 1, -1))
    retrieve_next_sibling.fill_(-1)


def verify_chain_greedy(
    predicts,
    accept_index,
    accept_token_num,
    candidates,
    retrieve_index,
    retrieve_next_token,
    retrieve_next_sibling,
    target_predict,
    topk: int = -1,
):
    """As spec_kernels.verify_tree_greedy: drafts are accepted up to the first that the target would not choose."""
    count = _accepted(candidates[:, 1:] == target_predict[:, :-1])
    _accept(count, target_predict, predicts, accept_index, accept_token_num)
    return predicts, accept_index, accept_token_num


def _accepted(chosen: torch.Tensor) -> torch.Tensor:
    """How many drafts are accepted [B]; chosen [B, n - 1]: whether each would be behind the one before."""
    return chosen.to(torch.int32).cumprod(1).sum(1)


def _accept(count, next_tokens, predicts, accept_index, accept_token_num) -> None:
    """Write what is accepted: count [B] drafts; next_tokens [B, n]: at each accepted token, the next one."""
    steps = torch.arange(next_tokens.shape[1], device=next_tokens.device)
    accepted = steps <= count[:, None]
    accept_token_num.copy_(count)
    predicts.view(next_tokens.shape).copy_(torch.where(accepted, next_tokens, 0))
    nodes = torch.arange(next_tokens.numel(), device=next_tokens.device).view(next_tokens.shape)
    accept_index.copy_(torch.where(accepted, nodes, -1))


def verify_chain_sampling(
    *,
    predicts,
    accept_index,
    accept_token_num,
    candidates,
    retrive_index,
    retrive_next_token,
    retrive_next_sibling,
    uniform_samples,
    uniform_samples_for_final_sampling,
    target_probs,
    draft_probs,
    threshold_single: float = 1.0,
    threshold_acc: float = 1.0,
    deterministic: bool = True,
) -> None:
    """As spec_kernels.verify_tree_sampling: target_probs [B, n, V], coins in float32."""
    drafted = candidates[:, 1:].long()
    single = target_probs[:, :-1].gather(2, drafted[:, :, None])[:, :, 0]
    coins = uniform_samples[:, :-1]
    count = _accepted((single > 0) & ((coins < single / threshold_acc) | (single >= threshold_single)))
    last = target_probs.gather(1, count.view(-1, 1, 1).expand(-1, 1, target_probs.shape[2]))[:, 0]
    behind = torch.nn.functional.pad(drafted, (0, 1), value=-1)  # of each token the draft behind it; -1 is no token
    refused = behind.gather(1, count[:, None])
    tokens = torch.arange(last.shape[1], device=last.device)
    drawn = _drawn(last.masked_fill(tokens == refused, 0), uniform_samples_for_final_sampling)
    steps = torch.arange(behind.shape[1], device=behind.device)
    next_tokens = torch.where(steps == count[:, None], drawn[:, None], behind)
    _accept(count, next_tokens, predicts, accept_index, accept_token_num)


def _drawn(weights: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    """A token [B] of each distribution [B, V] that need not sum to 1, by coins [B] in [0, 1); of nothing the last one.

    A float32 below 1 times a sum is below it, rounded too: what adds nothing is not drawn.
    """
    reached = weights.cumsum(1)
    place = (reached <= coins[:, None] * reached[:, -1:]).sum(1)
    return place.clamp(max=weights.shape[1] - 1)


def top_k_renorm(probs: torch.Tensor, top_ks: torch.Tensor) -> torch.Tensor:
    """As spec_sampling.top_k_renorm, by a sort."""
    size = probs.shape[1]
    kth = top_ks.reshape(-1, 1).long().clamp(1, size) - 1
    least = probs.sort(1, descending=True).values.gather(1, kth)
    first = torch.arange(size, device=probs.device) == probs.argmax(1, keepdim=True)
    return _renormed(probs, torch.where(kth == 0, first, probs >= least))


def top_p_renorm(probs: torch.Tensor, top_ps: torch.Tensor) -> torch.Tensor:
    """As spec_sampling.top_p_renorm, by a sort."""
    ordered, top_ps = probs.sort(1, descending=True).values, top_ps.reshape(-1, 1)
    place = (ordered.cumsum(1) < top_ps).sum(1, keepdim=True).clamp(max=probs.shape[1] - 1)
    return _renormed(probs, (top_ps >= 1) | (probs >= ordered.gather(1, place)))


def _renormed(probs, kept):
    found = torch.where(kept, probs, 0)
    return found / found.sum(1, keepdim=True)

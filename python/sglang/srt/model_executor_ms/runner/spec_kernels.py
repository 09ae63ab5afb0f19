"""The kernels of speculative decoding that SGLang 0.5.23 has for GPUs only, on a CPU.

Each takes the place of the function of SGLang's that seams/speculation.py names, has its parameters, and writes where
it does. B requests verify n draft tokens each: a tree of tokens, whose first one is certain already, or a chain. What
gathers, notes and hands on is for any device, and reads nothing of it; trees are for CPUs (npu/draft_chains.py).
"""

import numpy as np
import torch

from sglang.srt.mem_cache.allocation_sizing import get_alloc_reserve_per_decode
from sglang.srt.model_executor_ms.runner.spec_sampling import draw

FULL_MASK = 0  # of SGLang's TreeMaskMode: rows have a column of each token before the tree's


def _slots(req_to_token, req_pool_indices, starts, width: int) -> torch.Tensor:
    """[B * width]: of each request the cache slots of so many places from its start on."""
    places = starts.long()[:, None] + torch.arange(width, device=starts.device)
    return req_to_token[req_pool_indices.long()[:, None], places].reshape(-1)


def draft_cache_locs(
    req_pool_indices, req_to_token, seq_lens, out_cache_loc, topk: int, num_cols: int, positions=None, mrope=None
) -> None:
    """Slots that draft steps write to, topk * num_cols of each request, into out_cache_loc; and their positions."""
    out_cache_loc.copy_(_slots(req_to_token, req_pool_indices, seq_lens, topk * num_cols))
    for written in (positions, mrope):
        if written is not None:
            written.copy_(seq_lens.repeat_interleave(topk).expand(written.shape))


def extend_cache_locs(
    req_pool_indices, req_to_token, start_offset, end_offset, batch_size: int, draft_token_num: int, device
) -> torch.Tensor:
    """Slots [B * draft_token_num], int64, that a verify step writes to."""
    return _slots(req_to_token, req_pool_indices, start_offset, draft_token_num).long()


def front_cache_locs(num_front, out_cache_loc, front_out_cache_loc) -> None:
    """The first num_front[b] slots of each request's own, one after another, into front_out_cache_loc."""
    slots = out_cache_loc.view(num_front.numel(), -1)
    found = slots[torch.arange(slots.shape[1]) < num_front[:, None]]
    front_out_cache_loc[: len(found)] = found


def write_req_to_token(req_pool_indices, req_to_token, start_offset, end_offset, out_cache_loc, batch_size: int):
    """Note new slots, which are all of out_cache_loc, in each request's row of the table, from start to end."""
    counts = (end_offset - start_offset).long()
    ends = counts.cumsum(0)
    numbers = torch.arange(len(out_cache_loc), device=ends.device)
    of = (numbers[:, None] >= ends).sum(1)  # the request that each slot is of
    places = numbers + (start_offset.long() + counts - ends)[of]
    req_to_token[req_pool_indices.long()[of], places] = out_cache_loc.to(req_to_token.dtype)


def bonus_tokens(accept_tokens, accept_lens, bonus_tokens, accept_stride: int, batch_size: int) -> None:
    """The last accepted token of each request, of accept_stride places for each, into bonus_tokens."""
    last = torch.arange(batch_size, device=accept_lens.device) * accept_stride + accept_lens.long() - 1
    bonus_tokens.copy_(accept_tokens.reshape(-1)[last])


def accept_cache_locs(accept_index, out_cache_loc, accept_out_cache_loc, size: int) -> None:
    """The slots of accepted tokens, one after another; an index of -1 is none."""
    index = accept_index.reshape(-1)[:size]
    found = out_cache_loc[index[index >= 0].long()]
    accept_out_cache_loc[: len(found)] = found


def relayed(indices, topk_p_buf, topk_index_buf, output_tokens_buf, hidden_states_buf):
    """What the step before left for the requests in these rows, where steps overlap; no hidden states: None."""
    buffers = (topk_p_buf, topk_index_buf, output_tokens_buf, hidden_states_buf)
    return tuple(None if rows is None else rows.index_select(0, indices) for rows in buffers)


def build_tree(
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
    """The tree of each request's drafts: who sees whom, positions, and for each token its first child and next sibling.

    top_scores_index [B, n - 1]: which drafts are verified, ascending, of all that were made; parent_list: of each row
    of topk drafts, the draft that they continue.
    """
    n, written = num_verify_tokens, 0
    for request, length in enumerate(seq_lens.tolist()):
        chosen = top_scores_index[request].tolist()
        rows = parent_list[request].tolist()
        parents = [-1] + [0 if draft < topk else chosen.index(rows[draft // topk]) + 1 for draft in chosen]
        sees = _ancestors(parents)
        positions[request * n : (request + 1) * n] = torch.from_numpy(length + sees.sum(1) - 1)
        width = length + n if int(tree_mask_mode) == FULL_MASK else n
        tree_mask[written : written + n * width].view(n, width)[:, width - n :] = torch.from_numpy(sees)
        written += n * width
        retrieve_index[request] = torch.arange(request * n, (request + 1) * n)
        children, siblings = _links(parents)
        retrieve_next_token[request] = torch.tensor(children)
        retrieve_next_sibling[request] = torch.tensor(siblings)


def _ancestors(parents: list[int]) -> np.ndarray:
    """[n, n] bool: whether a token's ancestor, or the token itself, is that of the column. Parents come first."""
    sees = np.eye(len(parents), dtype=bool)
    for token, parent in enumerate(parents):
        if parent >= 0:
            sees[token] |= sees[parent]
    return sees


def _links(parents: list[int]) -> tuple[list[int], list[int]]:
    """Of each token its first child, and the next child of its parent; -1: none."""
    children, siblings = [-1] * len(parents), [-1] * len(parents)
    for token in reversed(range(len(parents))):
        parent = parents[token]
        if parent >= 0:
            siblings[token], children[parent] = children[parent], token
    return children, siblings


def reconstruct_tree(
    tree_mask,
    verified_seq_len,
    positions,
    retrieve_index,
    retrieve_next_token,
    retrieve_next_sibling,
    batch_size: int,
    draft_token_num: int,
) -> None:
    """What build_tree says, of trees that are given by their masks [B, n, n]."""
    n = draft_token_num
    before = np.tril(tree_mask.numpy().reshape(batch_size, n, n), -1)
    positions.copy_(torch.from_numpy(before.sum(-1)).add(verified_seq_len[:, None]).reshape(-1))
    retrieve_index.copy_(torch.arange(batch_size * n).view(batch_size, n))
    parents = np.where(before.any(-1), n - 1 - before[..., ::-1].argmax(-1), -1)
    for request in range(batch_size):
        children, siblings = _links(parents[request].tolist())
        retrieve_next_token[request] = torch.tensor(children)
        retrieve_next_sibling[request] = torch.tensor(siblings)


def verify_tree_greedy(
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
    """Accept of each request's tree the path that the target itself would take: target_predict [B, n].

    predicts: at each accepted token, the next one. accept_index [B, depth]: which they are; accept_token_num: how many,
    without the first.
    """
    links = (retrieve_index, retrieve_next_token, retrieve_next_sibling, candidates, target_predict)
    for request, rows in enumerate(zip(*map(torch.Tensor.tolist, links), strict=True)):
        index, children, siblings, tokens, targets = rows
        path = [0]
        while len(path) < accept_index.shape[1]:
            child = children[path[-1]]
            while child >= 0 and tokens[child] != targets[path[-1]]:
                child = siblings[child]
            if child < 0:
                break
            path.append(child)
        _accept(request, path, index, accept_index, accept_token_num)
        for node in path:
            predicts[index[node]] = targets[node]
    return predicts, accept_index, accept_token_num


def _accept(request: int, path: list[int], index: list[int], accept_index, accept_token_num) -> None:
    accept_index[request, : len(path)] = torch.tensor([index[node] for node in path])
    accept_token_num[request] = len(path) - 1


def verify_tree_sampling(
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
    """As verify_tree_greedy, where the target draws: target_probs [B, n, V] are its distributions.

    A token is accepted if its coin is below the probability that it or a sibling before it has, over threshold_acc, or
    if its own is threshold_single or more. The token after the path is drawn of what is left: no refused sibling. With
    both thresholds 1 tokens are distributed as without drafts.
    """
    links = (retrive_index, retrive_next_token, retrive_next_sibling, candidates, uniform_samples)
    final = uniform_samples_for_final_sampling.tolist()
    for request, rows in enumerate(zip(*map(torch.Tensor.tolist, links), strict=True)):
        index, children, siblings, tokens, coins = rows
        probs = target_probs[request].numpy()
        path, refused, mass = [0], [], 0.0
        child = children[0]
        while child >= 0 and len(path) < accept_index.shape[1]:
            single = float(probs[path[-1], tokens[child]])
            mass += single
            if single > 0 and (coins[path[-1]] < mass / threshold_acc or single >= threshold_single):
                predicts[index[path[-1]]] = tokens[child]
                path.append(child)
                refused, mass, child = [], 0.0, children[child]
            else:
                refused.append(tokens[child])
                child = siblings[child]
        _accept(request, path, index, accept_index, accept_token_num)
        predicts[index[path[-1]]] = draw(probs[path[-1]], refused, final[request])


def move_cache(original, pool, tgt_loc, src_loc) -> None:
    """Around a pool's move_kv_cache: most accepted tokens, and all of a chain, are where they belong."""
    moved = tgt_loc != src_loc
    if moved.any():
        original(pool, tgt_loc[moved], src_loc[moved])


def room_for_branches(original) -> int:
    """Around get_req_to_token_extra_context_len, which has no room for all that a decode step allocates of a tree."""
    return max(original(), get_alloc_reserve_per_decode())


def _put_prompts(worker, batch) -> None:
    """Put prompts into the corpus before their first drafts are looked up: 20 ms for 4,000 tokens.

    SGLang puts answers, and a prompt's last tokens: a text that the answer is to rewrite would not be found.
    """
    lengths = batch.seq_lens_cpu.tolist()
    fresh = [request for request, n in zip(batch.reqs, lengths, strict=True) if n == len(request.origin_input_ids)]
    if fresh:
        # Of images, ids that are not padded have no places.
        worker.ngram_corpus.batch_put([list(request.origin_input_ids_unpadded) for request in fresh])


def drafted_by_n_grams(original, worker, batch) -> tuple[np.ndarray, np.ndarray]:
    """Around NGRAMWorker._prepare_draft_tokens -> tokens [B * n] and who sees whom [B * n * n].

    The corpus gives trees at any breadth. Where the breadth is 1 a tree is cut to its longest path, a chain, which
    costs less to verify; what the path lacks of n tokens is 0.
    """
    _put_prompts(worker, batch)
    tokens, mask = original(worker, batch)
    if worker.topk > 1:
        return tokens, mask
    n, requests = worker.draft_token_num, len(batch.reqs)
    tokens, mask = np.asarray(tokens).reshape(requests, n), np.asarray(mask).reshape(requests, n, n).astype(bool)
    chains = np.zeros_like(tokens)
    for chain, own, sees in zip(chains, tokens, mask, strict=True):
        path = np.flatnonzero(sees[sees.sum(-1).argmax()])
        chain[: len(path)] = own[path]
    causal = np.broadcast_to(np.tri(n, dtype=bool), mask.shape)
    return chains.reshape(-1), causal.reshape(-1).copy()

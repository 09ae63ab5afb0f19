"""Verify steps on the NPU path: decode steps in which each draft of a chain is a row of its own.

A draft's row has its request's pages, and the tokens before the draft for its context. All rows' keys and values are
written before any is read, so decode attention needs no mask, and captured decode graphs serve verify steps too.
"""

import numpy as np
import torch

from sglang.srt.model_executor_ms.npu.link import DeviceLink
from sglang.srt.model_executor_ms.runner.spec_trees import DraftStep, verified_trees
from sglang.srt.model_executor_ms.seams import batches


def decode_rows(forward_batch, link: DeviceLink):
    """The step as a runner of graphs reads it: B chains of n drafts as B * n rows, any other step as it is.

    NotImplementedError where drafts form a tree: a row of a table of pages cannot leave out a token.
    """
    mode = forward_batch.forward_mode
    if mode.is_decode_or_idle() or not mode.is_target_verify():
        return forward_batch
    n, slots = forward_batch.spec_info.draft_token_num, batches.lora_slots(forward_batch)
    trees = verified_trees(forward_batch)
    if trees is not None and not (trees == np.tri(n, dtype=bool)).all():
        raise NotImplementedError(
            "drafts form a tree, and these operators verify chains: give --speculative-eagle-topk 1, or with NGRAM "
            "--speculative-ngram-max-bfs-breadth 1"
        )
    lengths = forward_batch.seq_lens_cpu[:, None] + torch.arange(1, n + 1)
    rows = link.launch(_repeated, forward_batch.req_pool_indices, n)
    own = None if slots is None else np.repeat(slots, n)
    return DraftStep(lengths.reshape(-1), rows, forward_batch.out_cache_loc, None, own)


def _repeated(rows: torch.Tensor, times: int) -> torch.Tensor:
    return rows[:, None].expand(-1, times).reshape(-1)

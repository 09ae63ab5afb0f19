"""SGLang's speculative decoding: kernels that it has for GPUs only, drafts' attention, and the trees of its n-grams.

SGLang 0.5.23 finds none of the kernels on a CPU without its own engine: some of its functions raise there, and one
leaves its outputs as they are. On an NPU it finds sgl_kernel_npu's and Triton's, where they are installed.
"""

import sys
from collections.abc import Callable
from types import ModuleType

from sglang.srt.model_executor_ms.seams import hooks

KERNELS = "sglang.kernels.ops.speculative"
ALLOCATION = "sglang.srt.mem_cache.allocation"
POOLS = "sglang.srt.mem_cache.memory_pool"
DRAFT_BACKENDS = "sglang.srt.speculative.draft_utils.DraftBackendFactory"


def assign_cache_locs_with(draft: Callable, extend: Callable, front: Callable, note: Callable) -> None:
    """What gathers the slots of draft steps, of verify steps and of their front, and notes new ones in the table."""
    hooks.replace(f"{KERNELS}.cache_locs.assign_draft_cache_locs_contiguous_func", draft)
    hooks.replace(f"{KERNELS}.cache_locs.assign_extend_cache_locs_func", extend)
    hooks.replace(f"{KERNELS}.cache_locs.fill_front_out_cache_loc_func", front)
    hooks.replace(f"{ALLOCATION}.assign_req_to_token_pool_func", note)


def relay_with(gather: Callable) -> None:
    """What gathers from the step before where steps overlap."""
    hooks.replace(f"{KERNELS}.gather_spec_extras.gather_spec_extras", gather)


def take_accepted_with(bonus_tokens: Callable, cache_locs: Callable) -> None:
    """What finds the last accepted token of each request, and the slots of all accepted ones."""
    hooks.replace(f"{KERNELS}.eagle.fill_bonus_tokens_func", bonus_tokens)
    hooks.replace(f"{KERNELS}.eagle.fill_accept_out_cache_loc_func", cache_locs)


def verify_with(build_tree: Callable, verify_greedy: Callable) -> None:
    """What makes the tree of a request's drafts, and accepts of it what the target would choose.

    SGLang's verify_tree_greedy_func raises nothing where it has no kernel: the outputs would say that nothing was
    accepted, and that the next token is 0.
    """
    hooks.replace(f"{KERNELS}.spec_tree.build_tree_kernel_efficient_func", build_tree)
    hooks.replace(f"{KERNELS}.spec_tree.verify_tree_greedy_func", verify_greedy)


def sample_with(verify: Callable, top_k_renorm: Callable, top_p_renorm: Callable) -> None:
    """What accepts drafts where the target draws, and cuts its distributions.

    The names are None in SGLang on a CPU. A hook would go wherever a None is: the modules that use them get them.
    """
    from sglang.kernels.ops.sampling import renorm
    from sglang.kernels.ops.speculative import verify_sampling
    from sglang.srt.speculative import eagle_utils

    for module in (verify_sampling, eagle_utils):
        module.tree_speculative_sampling_target_only = verify
    for module in (renorm, eagle_utils):
        module.top_k_renorm_prob, module.top_p_renorm_prob = top_k_renorm, top_p_renorm


def penalize_with(penalize: Callable) -> None:
    """penalize(verify_input, requests, logits) in place of what SGLang adds to logits, before drafts are accepted.

    It does so where requests ask for it: eagle_sample gets a copy of the batch's SamplingBatchInfo for this step, with
    sums for each request that all its drafts share.
    """
    hooks.around("sglang.srt.speculative.eagle_utils.eagle_sample", _penalized(penalize))


def _penalized(penalize: Callable) -> Callable:
    def sample(original, verify_input, batch, logits_output, *arguments, **named):
        info = batch.sampling_info
        if info.acc_additive_penalties is not None or info.acc_scaling_penalties is not None:
            info.acc_additive_penalties = info.acc_scaling_penalties = None
            penalize(verify_input, batch.reqs, logits_output.next_token_logits)
        return original(verify_input, batch, logits_output, *arguments, **named)

    return sample


def move_accepted_with(hook: Callable) -> None:
    """hook(original, pool, tgt_loc, src_loc) around what moves accepted tokens in a pool, by torch and not by triton.

    SGLang compiles a kernel of triton for it when it makes a pool.
    """
    hooks.replace(f"{POOLS}.MHATokenToKVPool._init_kv_copy_and_warmup", _move_natively)
    for pool in ("MHATokenToKVPool", "MLATokenToKVPool"):
        hooks.around(f"{POOLS}.{pool}.move_kv_cache", hook)


def _move_natively(pool) -> None:
    pool._kv_copy_config, pool.use_native_move_kv_cache = None, True


def select_drafts_uncompiled() -> None:
    """Choose drafts uncompiled, as SGLang does on an NPU: torch.compile takes 10 s at the first request."""
    from sglang.srt.speculative.spec_utils import _select_top_k_tokens_later

    hooks.leave_uncompiled(_select_top_k_tokens_later)


def attend_drafts_with(decode: Callable, extend: Callable) -> None:
    """decode(factory), extend(factory) -> the attention backends of draft steps, and of a draft that reads a prompt."""
    hooks.replace(f"{DRAFT_BACKENDS}.create_decode_backend", decode)
    hooks.replace(f"{DRAFT_BACKENDS}.create_draft_extend_backend", extend)


def keep_whole_states() -> None:
    """Give the convolution's state behind each draft memory of its own.

    SGLang's kernels for CUDA let those behind two drafts share what is in both.
    """
    hooks.replace(f"{POOLS}.conv_window_dedup_enabled", lambda *_: False)


def look_up_with(hook: Callable, reconstruct: Callable) -> None:
    """hook(original, worker, batch) around what looks up n-grams -> tokens [B * n], masks [B * n * n].

    reconstruct makes trees of the masks. It comes in a module that stands in for SGLang's, which cannot be imported
    without sgl_kernel: nothing may have imported SGLang's worker before. The masks stay small: without a column of each
    token before the drafts.
    """
    module = ModuleType(f"{KERNELS}.reconstruct_tree", look_up_with.__doc__)
    module.reconstruct_indices_from_tree_mask_func = reconstruct
    sys.modules[module.__name__] = module
    from sglang.srt.speculative import ngram_worker

    ngram_worker.USE_FULL_MASK = False
    hooks.around("sglang.srt.speculative.ngram_worker.NGRAMWorker._prepare_draft_tokens", hook)


def widen_slot_rows_with(hook: Callable) -> None:
    """hook(original) -> places that a request's row of SGLang's table of slots has beside those of the context."""
    hooks.around("sglang.srt.mem_cache.allocation_sizing.get_req_to_token_extra_context_len", hook)


def mask_drafts_only() -> None:
    """Make masks of a tree's tokens alone, without a column of each token before them."""
    from sglang.kernels.ops.speculative.spec_tree import TreeMaskMode

    hooks.replace("sglang.srt.speculative.eagle_utils.default_tree_mask_mode", lambda: TreeMaskMode.QLEN_ONLY)

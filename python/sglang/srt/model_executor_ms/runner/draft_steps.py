"""The attention backends of a draft model: one for each of the steps in which it makes chains of drafts."""

import torch

from sglang.srt.model_executor_ms.runner.attention_backend import MindSporeAttnBackend
from sglang.srt.model_executor_ms.runner.spec_trees import DraftStep
from sglang.srt.speculative.eagle_utils import per_step_draft_out_cache_loc


class DraftSteps:
    """What SGLang's EagleDraftWorker takes for the attention backend of its draft steps, all prepared at once."""

    needs_cpu_seq_lens = True  # lengths are read from the host mirrors, never from the device

    def __init__(self, model_runner, topk: int, num_steps: int):
        """topk: branches of each request. The last of num_steps drafts is made without a step of its own."""
        self.topk, self.num_steps = topk, num_steps
        self.attn_backends = [MindSporeAttnBackend(model_runner) for _ in range(num_steps - 1)]

    def init_forward_metadata(self, forward_batch):
        """Prepare decode steps of one token a branch, each one place after the one before."""
        slots = per_step_draft_out_cache_loc(
            forward_batch.out_cache_loc, forward_batch.batch_size, self.topk, self.num_steps
        )
        for place, backend in enumerate(self.attn_backends):
            backend.init_forward_metadata(self._decode_step(forward_batch, slots[: place + 1]))

    def _decode_step(self, forward_batch, slots: torch.Tensor) -> DraftStep:
        """slots [drafts, B * topk]: where the branches have their drafts so far, the new ones last.

        As SGLang has it, a branch is a place: its new token may go on from another branch, whose drafts it does not
        see. Drafts are only guesses.
        """
        lengths, rows = forward_batch.seq_lens_cpu + len(slots), forward_batch.req_pool_indices
        if self.topk == 1:
            return DraftStep(lengths, rows, slots[-1], None)
        lengths, rows = (of.repeat_interleave(self.topk) for of in (lengths, rows))
        return DraftStep(lengths, rows, slots[-1], slots.T.numpy())


def decode_backend(factory) -> DraftSteps | None:
    """In the place of SGLang's DraftBackendFactory.create_decode_backend; None: there is no step but the first."""
    if factory.speculative_num_steps <= 1:
        return None
    return DraftSteps(factory.draft_model_runner, factory.topk, factory.speculative_num_steps)


def extend_backend(factory) -> MindSporeAttnBackend:
    """In the place of its create_draft_extend_backend: prompts, and what was accepted."""
    return MindSporeAttnBackend(factory.draft_model_runner)

"""SGLang's ForwardBatch, of attention's replicas, and its LogitsProcessor."""

from collections.abc import Callable

import torch

from sglang.srt.model_executor_ms.seams import hooks


def prepare_batches_unpadded() -> None:
    """Pad no batch of attention's replicas: our graphs take as many rows of each replica as it has."""
    batch = "sglang.srt.model_executor.forward_batch_info.ForwardBatch"
    hooks.replace(f"{batch}.prepare_mlp_sync_batch", _prepare_unpadded)


def _prepare_unpadded(forward_batch, _model_runner) -> None:
    """Say what LogitsProcessor wants to know of a batch's part in the tokens of all replicas."""
    from sglang.srt.layers.dp_attention import DpPaddingMode, set_dp_buffer_len_from_batch, set_is_extend_in_batch

    forward_batch._original_batch_size = forward_batch.batch_size
    forward_batch.dp_padding_mode = DpPaddingMode.SUM_LEN
    forward_batch.global_dp_buffer_len = sum(forward_batch.global_num_tokens_cpu)
    forward_batch.global_num_tokens_padded_cpu = forward_batch.global_num_tokens_cpu
    set_dp_buffer_len_from_batch(forward_batch)
    set_is_extend_in_batch(forward_batch.is_extend_in_batch)


def spread_input_embeds() -> None:
    """Make ForwardBatch.input_embeds [T, hidden_size], with NaN in the rows of tokens that bring no embeddings.

    SGLang puts the rows of requests that do behind each other, and does not say whose they are. Rows in the place of
    single tokens (`replace_embeds`) become some of them: SGLang would ask the model for the embeddings of all tokens.
    """
    target = "sglang.srt.model_executor.forward_batch_info.ForwardBatch._maybe_init_non_generation_fields"
    hooks.before(target, _spread_input_embeds)


def _spread_input_embeds(forward_batch, batch) -> None:
    given, replaced = batch.input_embeds, forward_batch.replace_embeds
    if given is None and replaced is None:
        return
    width = (replaced if given is None else given).shape[1]
    spread, mine = torch.full((sum(batch.extend_lens), width), float("nan")), []
    for request, count in zip(batch.reqs, batch.extend_lens, strict=True):
        mine += [request.input_embeds is not None] * count
    if given is not None:
        spread[mine] = given.to(spread)
    if replaced is not None:
        spread[forward_batch.replace_positions] = replaced.to(spread)
    forward_batch.input_embeds, forward_batch.replace_embeds = spread, None


def has_media(forward_batch) -> bool:
    """Whether requests of a batch show something that tokens of this step may be of."""
    mode = forward_batch.forward_mode
    return not (mode.is_decode_or_idle() or mode.is_target_verify()) and forward_batch.contains_mm_inputs()


def note_lora_slots(forward_batch, slots, dp_slots=None) -> None:
    """Keep the slot of each request's adapter, numpy [B] int32, with a ForwardBatch, for `lora_slots`.

    dp_slots: of each token of all attention DP ranks, for `dp_lora_slots`.
    """
    forward_batch.lora_slots, forward_batch.dp_lora_slots = slots, dp_slots


def lora_slots(forward_batch):
    """What `note_lora_slots` kept; None where no request can have an adapter."""
    return getattr(forward_batch, "lora_slots", None)


def dp_lora_slots(forward_batch):
    """What `note_lora_slots` kept of all attention DP ranks; None where there is one, or no adapter."""
    return getattr(forward_batch, "dp_lora_slots", None)


def fill_token_types() -> None:
    """Give token types to each request of a batch of which some have them.

    SGLang puts those that there are behind each other, whatever requests they are of.
    """
    target = "sglang.srt.model_executor.forward_batch_info.ForwardBatch._maybe_init_non_generation_fields"
    hooks.before(target, _fill_token_types)


def _fill_token_types(_forward_batch, batch) -> None:
    if any(request.token_type_ids is not None for request in batch.reqs):
        for request in batch.reqs:
            if request.token_type_ids is None:
                request.token_type_ids = [0] * len(request.origin_input_ids)


def copy_tokens_on_cpu() -> None:
    """Copy tokens of attention's replicas without triton, as SGLang does where its own CPU engine is asked for."""
    from sglang.srt.layers.dp_attention import memcpy_cpu

    hooks.replace("sglang.srt.layers.dp_attention.memcpy_func", memcpy_cpu)


def scale_penalties_uncompiled() -> None:
    """Apply repetition penalties as SGLang does on an NPU: torch.compile takes 10 s at the first that is asked for."""
    from sglang.srt.sampling.penaltylib.repetition_penalty import apply_scaling_penalties

    hooks.leave_uncompiled(apply_scaling_penalties)


def leave_cap_to_head(processor) -> None:
    """Keep a LogitsProcessor from capping logits, which the head has capped: it would with a GPU's kernel."""
    processor.final_logit_softcapping = None


def gather_logits_with(processor, gather: Callable) -> None:
    """Let a LogitsProcessor put the logits [T, part] of ranks side by side with gather -> [T, vocab_size]."""
    if processor.use_attn_tp_group:
        processor._gather_attn_tp_logits = gather
    else:
        processor._logits_gatherer = gather


def hash_seeds_with(murmur_hash32: Callable) -> None:
    """The hash by which the sampler draws with --enable-deterministic-inference: SGLang's wants sgl_kernel on a CPU."""
    hooks.replace("sglang.kernels.ops.sampling.murmur_hash.murmur_hash32", murmur_hash32)

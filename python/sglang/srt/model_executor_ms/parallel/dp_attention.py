"""Replicas of attention (--attn-dp-size): their batches, which SGLang would pad for a GPU, and their sleep."""

from sglang.srt.layers.dp_attention import DpPaddingMode, set_dp_buffer_len_from_batch, set_is_extend_in_batch
from sglang.srt.runtime_context import get_parallel

IDLE = 10  # milliseconds for which an idle replica looks at nothing but its own requests


def skip_dp_padding(forward_batch, _model_runner) -> None:
    """Say what SGLang's LogitsProcessor wants to know of a batch's part in all replicas' tokens, and pad nothing.

    In the place of ForwardBatch.prepare_mlp_sync_batch. Our graphs take as many rows of each replica as it has.
    """
    forward_batch._original_batch_size = forward_batch.batch_size
    forward_batch.dp_padding_mode = DpPaddingMode.SUM_LEN
    forward_batch.global_dp_buffer_len = sum(forward_batch.global_num_tokens_cpu)
    forward_batch.global_num_tokens_padded_cpu = forward_batch.global_num_tokens_cpu
    set_dp_buffer_len_from_batch(forward_batch)
    set_is_extend_in_batch(forward_batch.is_extend_in_batch)


def sleep_briefly(original, sleeper) -> None:
    """Around IdleSleeper.maybe_sleep: replicas step together, and one that slept would keep the others waiting."""
    if get_parallel().attn_dp_size == 1:
        original(sleeper)
    else:
        sleeper.poller.poll(IDLE)

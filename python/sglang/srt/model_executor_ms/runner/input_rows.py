"""Rows that requests bring in the place of tokens' own embeddings: `input_embeds`, `positional_embed_overrides`."""

from sglang.srt.model_executor_ms.seams import batches
from sglang.srt.runtime_context import get_device, get_spec


def take_input_embeds(network, generates: bool) -> None:
    """Let steps of a model begin with rows too. The graph of such steps is made for the first request with some."""
    if not generates or get_device().device != "cpu" or get_spec().speculative_algorithm:
        return
    batches.spread_input_embeds()
    if network.config.stage.first and not network.model.takes_media:
        network.model.take_media(0)


def put_input_embeds(forward_batch, rows, mask) -> None:
    """Put those of a ForwardBatch, as `spread_input_embeds` has them, into rows [T, hidden_size] and mask [T]."""
    if forward_batch.input_embeds is not None:
        brought = ~forward_batch.input_embeds[:, 0].isnan()
        rows[brought] = forward_batch.input_embeds[brought].to(rows)
        mask[brought] = 1

"""Which tokens end an answer: SGLang forbids them with min_new_tokens, as indices of the logits."""

import logging

logger = logging.getLogger(__name__)


def of_vocabulary(tokens, vocab_size: int, source: str) -> set[int]:
    """Those of `tokens` that logits of `vocab_size` columns have. The others are never generated, and end nothing."""
    kept = {token for token in tokens or () if isinstance(token, int) and 0 <= token < vocab_size}
    if left_out := sorted(set(tokens or ()) - kept, key=str):
        logger.warning("%s: %s is left out, since the model has %d tokens", source, left_out, vocab_size)
    return kept

"""Pools the hidden states of embedding, classification and reward models, with SGLang's Pooler."""

import torch

from sglang.srt.layers.pooler import EmbeddingPoolerOutput, Pooler, PoolingType, score_and_pool
from sglang.srt.model_executor_ms.runner import bridge


class LastTokenPooling(torch.nn.Module):
    """Takes the last token of each request -> a normalized embedding, or the scores of the model's head."""

    def __init__(self, network):
        super().__init__()
        self.scores = getattr(network, "scores", None)
        self.pooler = Pooler(PoolingType.LAST, normalize=self.scores is None)

    def forward(self, hidden_states: torch.Tensor, forward_batch, input_ids: torch.Tensor) -> EmbeddingPoolerOutput:
        """hidden_states [T, hidden_size] -> embeddings [B, hidden_size or fewer], or scores [B, classes]."""
        hidden_states = hidden_states.float()
        if self.scores is None:
            return self.pooler(hidden_states, forward_batch)
        return score_and_pool(self._score, self.pooler, hidden_states, forward_batch, input_ids)

    def _score(self, pooled: torch.Tensor) -> torch.Tensor:
        return bridge.to_torch(self.scores(bridge.to_mindspore(pooled.contiguous())))

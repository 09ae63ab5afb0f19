"""What follows the hidden states of a model that does not generate: SGLang's Pooler, and the model's own scores."""

import torch

from sglang.srt.layers.pooler import EmbeddingPoolerOutput, Pooler, PoolingType, score_and_pool
from sglang.srt.model_executor_ms.runner import bridge


class LastTokenPooling(torch.nn.Module):
    """The last token's hidden state of each request: normalized, an embedding; or what the model's head makes of it."""

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

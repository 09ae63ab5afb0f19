"""The head as SGLang's LogitsProcessor wants it, computed by our operators in float32."""

import torch

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms import bridge


class LMHead:
    """Takes the place of SGLang's ParallelLMHead; the weight is the model's own, not a copy."""

    def __init__(self, parameter):
        """parameter: [vocab_size (padded), hidden_size]."""
        self.parameter = parameter
        self.weight = bridge.to_torch(parameter)  # LogitsProcessor looks at its dtype
        self.quant_method = self  # the LogitsProcessor calls its `apply` instead of multiplying by `weight`

    def apply(self, _lm_head, hidden_states: torch.Tensor, bias=None) -> torch.Tensor:
        """hidden_states [T, hidden_size] -> float32 logits [T, vocab_size (padded)]."""
        assert bias is None, "no model of ours has a biased head"
        return bridge.to_torch(ops.logits(bridge.to_mindspore(hidden_states.contiguous()), self.parameter))

"""The head as SGLang's LogitsProcessor wants it: logits in float32."""

import torch

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.runner import bridge
from sglang.srt.model_executor_ms.seams import batches
from sglang.srt.runtime_context import get_parallel


class LMHead:
    """Takes the place of SGLang's ParallelLMHead; the weight is the model's own, not a copy. Our operators multiply.

    It scales and caps the logits too: on a CPU without SGLang's own engine, LogitsProcessor caps with a GPU's kernel.
    """

    def __init__(self, network, scale: float = 1.0, soft_cap: float | None = None):
        """network: a CausalLM. soft_cap: logits -> cap * tanh(logits / cap), once scaled."""
        self.network, self.parameter, self.scale, self.soft_cap = network, network.head(), scale, soft_cap
        self.matrix = network.head_layer().matrix
        self.dtype = getattr(torch, str(self.matrix.dtype).lower())  # of the rows that it multiplies
        self.lora = None  # what adapters add, where there are any
        self.quant_method = self  # the LogitsProcessor calls its `apply` instead of multiplying by `weight`
        self.bind()

    def bind(self) -> None:
        """Take the weight where it is now: called whenever weights were loaded, and when graphs have run."""
        self.weight = bridge.to_torch(self.parameter)
        bias = self.network.head_bias()
        self.bias = None if bias is None else bridge.to_torch(bias)
        self.host_logits = self.network.head_layer().host_logits()

    def take_adapters(self, adapters) -> None:
        """Add what they add to logits from now on: a lora_head.HeadLoRA."""
        self.lora = adapters

    def multiply(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """hidden_states [T, hidden_size] times the weight -> float32 [T, vocab_size (padded)]."""
        rows, columns = self.matrix.shape
        if not len(hidden_states):  # of an idle replica of attention; an empty tensor has no memory to share
            return hidden_states.new_empty((0, rows), dtype=torch.float32)
        hidden_states = hidden_states.contiguous()
        fits = hidden_states.dtype == self.dtype and hidden_states.shape[1] == columns
        if self.host_logits is None or not fits:  # ops.logits says what does not fit
            return bridge.to_torch(self.network.logits(bridge.to_mindspore(hidden_states)))
        logits = torch.empty((len(hidden_states), rows), dtype=torch.float32)
        self.host_logits(hidden_states.data_ptr(), len(hidden_states), logits.data_ptr())
        return logits

    def apply(self, _lm_head, hidden_states: torch.Tensor, bias=None) -> torch.Tensor:
        """hidden_states [T, hidden_size] -> float32 logits [T, vocab_size (padded)]."""
        assert bias is None, "a biased head has its own"
        logits = self.multiply(hidden_states)
        if self.bias is not None:
            logits.add_(self.bias)
        if self.lora is not None:
            self.lora.add(logits, hidden_states)
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.soft_cap:
            logits.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
        return logits


def gather_logits(processor, shard: Shard) -> None:
    """Let a LogitsProcessor put the ranks' logits side by side with the operator table's gather, if it has one.

    shard: of the head. SGLang's own goes through sockets on a CPU, and copies what comes out of them once more; within
    a replica of attention it calls an operator that is for GPUs only, and knows of no padding, which its group's does.
    """
    if not processor.do_tensor_parallel_all_gather:
        return
    gather = ops.column_gather(shard.group)
    if gather is None and not processor.use_attn_tp_group:
        return

    def gathered(logits: torch.Tensor) -> torch.Tensor:
        if not len(logits):
            return logits.new_empty((0, shard.size * logits.shape[1]))
        if gather is None:
            return get_parallel().attn_tp_group.all_gather(logits)
        return bridge.to_torch(gather(bridge.to_mindspore(logits.contiguous())))

    batches.gather_logits_with(processor, gathered)


class TorchLMHead(LMHead):
    """Lets torch multiply, on its own stream: beside the sampler nothing has to wait for MindSpore."""

    weight = bias = None

    def bind(self) -> None:
        if getattr(self.parameter, "on_device", False):  # once it is loaded: before, torch would keep the host's memory
            super().bind()

    def multiply(self, hidden_states):
        return torch.nn.functional.linear(hidden_states.to(self.weight.dtype), self.weight).float()

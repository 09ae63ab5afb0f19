"""The model on an NPU: a card taken beside torch, torch's communicators, and logits that torch computes."""

import torch

from sglang.srt.model_executor_ms.npu import communication, start
from sglang.srt.model_executor_ms.runner.causal_lm import MindSporeForCausalLM
from sglang.srt.model_executor_ms.runner.lm_head import TorchLMHead


def join_on_npus(names: dict[str, range], coordinator) -> None:
    """As groups.join_on_cpus."""
    communication.join(names, coordinator, torch.distributed.distributed_c10d._get_default_store())


class NpuForCausalLM(MindSporeForCausalLM):
    """What is different of MindSporeForCausalLM."""

    join = staticmethod(join_on_npus)
    head_class = TorchLMHead

    def fuses_allreduce(self, environment):
        """The kernel of product, all-reduce and norm adds up in no fixed order."""
        return super().fuses_allreduce(environment) and not start.deterministic()

    def take_device(self, config, pp_layer_partition, allreduce_fusion):
        start.take_card(config, pp_layer_partition, allreduce_fusion)
        if start.deterministic():
            start.compute_deterministically()

    def pin_threads(self, processors):
        """What computes is the card."""

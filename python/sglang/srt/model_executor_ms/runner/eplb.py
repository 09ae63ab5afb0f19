"""Where experts are (SGLang's EPLB), as the model sees it, and what the model tells SGLang of how often each is chosen.

SGLang decides: ExpertLocationMetadata at the start, EPLBManager while it serves, from what its recorder has counted.
Its updater moves the weights between ranks; ours are MindSpore's, in the same memory, where captured graphs read them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sglang.srt.eplb.expert_distribution import get_global_expert_distribution_recorder
from sglang.srt.eplb.expert_location import ModelConfigForExpertLocation, get_global_expert_location_metadata
from sglang.srt.eplb.expert_location_updater import ExpertLocationUpdater
from sglang.srt.layers_ms import Experts, ops
from sglang.srt.model_executor_ms.parallel.expert_parallel import uses_eplb
from sglang.srt.model_executor_ms.runner import bridge, device
from sglang.srt.model_executor_ms.seams import parallel
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.registry import model_class
from sglang.srt.runtime_context import get_exec


def model_config_for_expert_location(hf_config) -> ModelConfigForExpertLocation | None:
    """What SGLang wants to know of a model's experts; None where it has none, or no flag asks for EPLB."""
    kind = model_class(hf_config.architectures)
    if not uses_eplb(get_exec().moe) or not kind.config_class.has_experts:
        return None
    config = kind.config_class.read(kind.decoder_config(hf_config.to_dict()), runtime=Runtime())
    return ModelConfigForExpertLocation(config.num_hidden_layers, config.num_experts, config.routing.groups)


def physical_to_logical_map() -> tuple[tuple[int, ...], ...]:
    """Of each layer, the logical expert of each physical one; () if they are the same."""
    metadata = get_global_expert_location_metadata()
    return () if metadata is None else tuple(map(tuple, metadata.physical_to_logical_map_cpu.tolist()))


def eplb_layers(network) -> dict[int, Experts]:
    """The experts of each layer of this rank that are mapped to physical ones."""
    layers = zip(network.config.layer_range, network.model.layers, strict=True)
    cells = ((layer_id, cell) for layer_id, layer in layers for _, cell in layer.cells_and_names())
    return {
        layer_id: cell
        for layer_id, cell in cells
        if isinstance(cell, Experts) and cell.logical_to_physical_map is not None
    }


@contextmanager
def movable_weights(experts: Experts) -> Iterator[list[torch.Tensor]]:
    """What SGLang's updater moves meanwhile: tensors whose first axis is this rank's physical experts."""
    plain = experts.plain()
    moved = list(map(bridge.to_torch, plain.values()))
    # What is a copy is made in MindSpore's stream, overwritten in torch's, and read in MindSpore's.
    device.synchronize(moved[0].device.type)
    yield moved
    torch.get_device_module(moved[0].device).synchronize()
    experts.put(plain)


class ExpertCounter:
    """Gives SGLang's recorder, after each pass, how many tokens went to each physical expert of each layer.

    All of these numbers stay on the device, in the order of torch's current stream.
    """

    def __init__(self, network):
        recorded = get_exec().moe.expert_distribution_recorder_mode is not None
        self.layers = eplb_layers(network) if recorded else {}
        self.counts, self.wanted = {}, []

    def bind(self) -> None:
        """The model has run: what its layers count is where it stays."""
        self.counts = {layer_id: bridge.to_torch(experts.expert_counts) for layer_id, experts in self.layers.items()}

    def begin_pass(self) -> None:
        """A forward pass is about to run."""
        recorder = get_global_expert_distribution_recorder()
        buffers = ((recorder.get_current_pass_count_buffer(layer), counts) for layer, counts in self.counts.items())
        self.wanted = [(buffer, counts) for buffer, counts in buffers if buffer is not None]  # None: it does not record
        for _, counts in self.wanted:
            counts.zero_()

    def end_pass(self) -> None:
        """It has run."""
        for buffer, counts in self.wanted:
            buffer.add_(counts)


class Updater(ExpertLocationUpdater):
    """SGLang's, which moves weights to where experts are to be; then our tokens are sent there.

    Of each layer it is given its Experts, which know what to move. adapters: a MindSporeLoRAManager, or None.
    """

    def __init__(self, adapters=None):
        super().__init__()
        self.adapters = adapters

    def update(self, routed_experts_weights_of_layer, new_expert_location_metadata, update_layer_ids, **where):
        missing = {}
        for layer_id in update_layer_ids:  # one after the other, since a layer's tensors may be copies
            experts = routed_experts_weights_of_layer[layer_id]
            with movable_weights(experts) as moved:
                missing |= super().update({layer_id: moved}, new_expert_location_metadata, [layer_id], **where)
            experts.set_physical_experts(physical_to_logical_map()[layer_id])
            ops.renew(experts.logical_to_physical_map)
            if self.adapters is not None:
                self.adapters.follow_experts(experts)
        return missing


def prepare(model_runner) -> None:
    """Let SGLang's manager and recorder work with a MindSpore model. Once, after the model was loaded."""
    parallel.set_expert_updater(model_runner, Updater(model_runner.lora_manager))
    parallel.record_without_gpu(get_global_expert_distribution_recorder())

"""Room for adapters in a network that is not compiled yet."""

from collections.abc import Callable, Sequence

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.embedding import VocabParallelEmbedding
from sglang.srt.layers_ms.linear import Linear
from sglang.srt.layers_ms.lora import (
    DP_LORA_SLOTS,
    LORA_SLOTS,
    EmbeddingLoRA,
    LoRA,
    LoRAPart,
    lora_parts,
    vocabulary_part,
)
from sglang.srt.layers_ms.lora_experts import ExpertsLoRA, expert_parts
from sglang.srt.layers_ms.mla import KVBProj
from sglang.srt.layers_ms.moe import Experts
from sglang.srt.layers_ms.quantization.base import LINEAR
from sglang.srt.model_loader_ms.names import TensorNames

DECODER = "model.layers."  # what paths of its layers begin with


def attach_embedding(network: nn.Cell, names: TensorNames, wanted, max_loras: int, rank: int) -> list[EmbeddingLoRA]:
    """Give the embedding room for adapters, if this stage has one and it is wanted; as `attach`."""
    for path, layer in list(network.cells_and_names()):
        if isinstance(layer, VocabParallelEmbedding):
            of_head = vocabulary_part(path, layer.matrix, names)
            vocab_size, width = of_head.whole
            part = of_head._replace(whole=(width, vocab_size), columns=of_head.rows[0], rows=(slice(0, width),))
            if wanted((part,)):
                layer.lora = EmbeddingLoRA(
                    part, layer.matrix.shape[0], layer.first, layer.matrix.dtype, max_loras, rank
                )
                return [layer.lora]
    return []


def attach(
    network: nn.Cell, names: TensorNames, wanted: Callable[[Sequence[LoRAPart]], bool], max_loras: int, rank: int
) -> list[LoRA]:
    """Give the decoder's layers that are wanted room for adapters, before the network is compiled.

    Routers and gates have none. names: what the checkpoint calls the network's tensors. What the table has no operators
    for has no room either, nor have experts to which rows are dispatched.
    """
    found, gathered = [], _gathered(network)
    network.optional_fields = (*network.optional_fields, LORA_SLOTS, *([DP_LORA_SLOTS] if gathered else []))
    can = ops.capabilities()
    for path, layer in list(network.cells_and_names()):
        if not path.startswith(DECODER):
            continue
        latent = can.latent_lora and isinstance(layer, KVBProj) and layer.takes_adapters
        multiplies = layer.kind == LINEAR if isinstance(layer, Linear) else latent
        made = []
        if multiplies:
            made = _linear(path, layer, layer.matrices().values(), names, wanted, (max_loras, rank))
        elif can.experts_lora and isinstance(layer, Experts) and not layer.dispatch:
            made = _experts(path, layer, names, wanted, (max_loras, rank))
        for one in made if path.startswith(gathered) else ():
            one.slots = DP_LORA_SLOTS
        found += made
    return found


def _gathered(network: nn.Cell) -> tuple[str, ...]:
    """What paths of layers begin with that are given the tokens of all attention DP ranks."""
    cells = ((path, getattr(cell, "dp_gather_scatter", None)) for path, cell in network.cells_and_names())
    return tuple(f"{path}." for path, around in cells if around is not None and around.attn_dp_size > 1)


def _linear(path, layer, matrices, names, wanted, room) -> list[LoRA]:
    whole, *others = matrices
    parts = lora_parts(path, whole._replace(slices=[one for each in (whole, *others) for one in each.slices]), names)
    if not wanted(parts):
        return []
    layer.lora = LoRA(parts, whole.dtype, *room)
    return [layer.lora]


def _experts(path, layer, names, wanted, room) -> list[LoRA]:
    def described(name):
        return lambda: expert_parts(path, layer.matrices()[name], names)

    stacks = described("gate_up"), described("down")
    if not any(wanted(known) for _, known in (stack() for stack in stacks)):
        return []
    layer.gate_up_lora, layer.down_lora = (ExpertsLoRA(stack, layer.dtype, *room) for stack in stacks)
    return [layer.gate_up_lora, layer.down_lora]

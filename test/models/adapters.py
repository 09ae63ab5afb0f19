"""Low-rank adapters of small models, made by PEFT, and what PEFT's model computes with them."""

import copy
import warnings
from pathlib import Path
from unittest import mock

import torch
from models.tiny import hugging_face

from sglang.srt.layers_ms.lora_attach import attach
from sglang.srt.model_executor_ms.runner.lora import MindSporeLoRAManager, MindSporeLoRAMemoryPool
from sglang.srt.model_loader_ms import lora
from sglang.srt.model_loader_ms.loader import Wanted

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LATENT = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj", "gate_proj", "up_proj", "down_proj"]
PACKED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def adapted(model, folder: Path, seed: int = 0, scale: float = 0.4, **config):
    """PEFT's model with random factors, float32, whose adapter is saved in `folder`. config: of LoraConfig."""
    from peft import LoraConfig, get_peft_model  # seconds, which ranks that only read adapters need not spend
    from peft.tuners.lora import LoraLayer

    # PEFT adds experts, which transformers has in one parameter, where shared ones have the same names.
    experts = mock.patch("peft.utils.transformers_weight_conversion._convert_peft_config_moe")
    with warnings.catch_warnings(), experts:
        warnings.simplefilter("ignore")  # that modules of some names were not found
        found = get_peft_model(copy.deepcopy(model), LoraConfig(**config)).eval()
    generator = torch.Generator().manual_seed(seed)
    for module in found.modules():
        if isinstance(module, LoraLayer):
            of_ids = (*module.lora_embedding_A.values(), *module.lora_embedding_B.values())
            for weight in (*module.lora_A.parameters(), *module.lora_B.parameters(), *of_ids):
                weight.data = torch.randn(weight.shape, generator=generator) * scale / min(weight.shape[1], 300) ** 0.5
    found.save_pretrained(folder)
    return found


def adapter_of(variant: str, folder: Path, seed: int = 0, scale: float = 0.4, **config):
    """As `adapted`, of a variant of tiny.TINY."""
    return adapted(hugging_face(variant), folder, seed, scale, **config)


@torch.no_grad()
def logits_of(model, ids):
    """float32 [tokens, vocab_size]"""
    return model(torch.as_tensor(ids)[None]).logits[0].numpy()


MAX_LORAS, MAX_RANK = 3, 8
BESIDE = "adapters"  # a folder in that of a checkpoint, with a folder for each adapter


def load(folder: Path) -> lora.Adapter:
    return lora.adapter(lora.read_config(folder), lora.read_tensors(folder))


def with_room(network, rank: int = MAX_RANK, max_loras: int = MAX_LORAS) -> list:
    """A network that is not compiled yet gets room for adapters in all linear layers -> LoRA cells."""
    return attach(network, Wanted(**network.checkpoint()).tensor_names(), lambda parts: True, max_loras, rank)


def fill(layers, slot: int, adapter: lora.Adapter, rank: int = MAX_RANK) -> None:
    """Put an adapter into a slot of the layers."""
    lora.check_fits(adapter, lora.room_of(layers), rank)
    put(layers, slot, adapter)


def put(layers, slot: int, adapter: lora.Adapter) -> None:
    """The same of layers that may be some of the model's only."""
    for layer in layers:
        lora.put(layer, slot, adapter)
        layer.renew()


def with_adapters(network, folder: Path) -> MindSporeLoRAManager:
    """Give a network the adapters beside its checkpoint, if there are any: in slots 0, 1, ...

    -> what knows of them when experts move.
    """
    manager = object.__new__(MindSporeLoRAManager)
    manager.memory_pool = object.__new__(MindSporeLoRAMemoryPool)
    manager.memory_pool.kind, manager.memory_pool.written = "cpu", {}
    found = sorted(Path(folder, BESIDE).glob("*"))
    layers = with_room(network) if found else []
    for slot, one in enumerate(found):
        manager.memory_pool.written[slot] = adapter = load(one)
        put(layers, slot, adapter)
    return manager

"""Drafts that a checkpoint carries itself: the layer behind its last one, of DeepSeek V3 (MTP), GLM-4.5 and 4.7-Flash.

References: DeepSeek-AI, 2024 (DeepSeek-V3), section 2.2, and the checkpoints of all, as SGLang serves them.
"""

import dataclasses

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.drafts import HalvedLinear
from sglang.srt.models_ms.decoder import rms_norm
from sglang.srt.models_ms.deepseek_v3 import DeepseekV3Config, DeepseekV3Layer
from sglang.srt.models_ms.eagle import DraftDecoder, DraftForCausalLM
from sglang.srt.models_ms.glm4_moe import Glm4MoeConfig, Glm4MoeLayer
from sglang.srt.models_ms.glm4_moe_lite import Glm4MoeLiteConfig


class SharedHead(nn.Cell):
    """The norm before the head, which is the target's."""

    def __init__(self, config):
        super().__init__()
        self.norm = rms_norm(config)


class Entry(nn.Cell):
    """[norm(embedding) | norm(hidden state)] -> what the layer begins with; and what ends it."""

    def __init__(self, config):
        super().__init__()
        size = config.hidden_size
        self.enorm, self.hnorm, self.shared_head = rms_norm(config), rms_norm(config), SharedHead(config)
        self.eh_proj = HalvedLinear(size, [("eh_proj", size, slice(0, size))], False, config.dtype)

    def construct(self, embedded, hidden_states):
        return self.eh_proj((self.enorm.plain(embedded), self.hnorm.plain(hidden_states)))


class NextNDecoder(DraftDecoder):
    def __init__(self, config, layer_class):
        """config: of the target; the layer is the one behind its last."""
        super().__init__([layer_class(config, config.num_hidden_layers)])
        self.layers[0].self_attn.layer_id = 0  # of the draft's own cache
        self.entry = Entry(config)

    def construct(self, step):
        embedded, hidden_states = self.begin(step)
        x, residual = self.layers[0](self.entry(embedded, hidden_states), None, step)
        return (ops.without_valid_rows(self.entry.shared_head.norm(x, residual)[0]),)


class NextNForCausalLM(DraftForCausalLM):
    layer_class = None
    keeps_weights = False  # they come with the target's

    def _decoder(self, config):
        return NextNDecoder(config, self.layer_class)

    def _name_tensors(self, config):
        behind = f"model.layers.{config.num_hidden_layers}"
        self.layer_renames = {"model.layers.0": behind, "model.entry": behind}
        self.other_stages = [f"model.layers.{layer}" for layer in range(config.num_hidden_layers)]
        self.other_stages += ["model.embed_tokens", "model.norm", "lm_head"]
        shared = (r"\.embed_tokens\.weight$", r"\.shared_head\.head\.weight$")
        self.ignored_tensors = tuple(behind.replace(".", r"\.") + name for name in shared)
        self.config = dataclasses.replace(config, num_hidden_layers=1)


class DeepseekV3ForCausalLMNextN(NextNForCausalLM):
    config_class, layer_class = DeepseekV3Config, DeepseekV3Layer


class Glm4MoeForCausalLMNextN(NextNForCausalLM):
    config_class, layer_class = Glm4MoeConfig, Glm4MoeLayer


class Glm4MoeLiteForCausalLMNextN(NextNForCausalLM):
    config_class, layer_class = Glm4MoeLiteConfig, DeepseekV3Layer

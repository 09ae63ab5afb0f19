"""Drafts that checkpoints of Qwen carry beside the model, as `mtp`: a layer with attention. Qwen3-Next, 3.5, MoE.

References: Qwen3-Next's and Qwen3.5's checkpoints, as SGLang serves them.
"""

import dataclasses

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.drafts import HalvedLinear
from sglang.srt.models_ms.decoder import rms_norm
from sglang.srt.models_ms.eagle import DraftDecoder, DraftForCausalLM
from sglang.srt.models_ms.gemma import gemma_norm
from sglang.srt.models_ms.qwen3_5 import Qwen3_5Config, Qwen3_5Layer, Qwen3_5MoeConfig, Qwen3_5MoeLayer
from sglang.srt.models_ms.qwen3_moe import Qwen3MoeConfig, Qwen3MoeLayer
from sglang.srt.models_ms.qwen3_next import Qwen3NextConfig, Qwen3NextLayer

LAYER = {"num_nextn_predict_layers": "one layer drafts"}
OF_TARGET = {"mtp_use_dedicated_embeddings": False}  # the embedding is the target's


class Qwen3NextMTPConfig(Qwen3NextConfig):
    ignored = LAYER


class Qwen3_5MTPConfig(Qwen3_5Config):
    ignored, expected = LAYER, OF_TARGET


class Qwen3_5MoeMTPConfig(Qwen3_5MoeConfig):
    ignored, expected = LAYER, OF_TARGET


class Qwen3MoeMTPConfig(Qwen3MoeConfig):
    ignored = LAYER


class Entry(nn.Cell):
    """[norm(embedding) | norm(hidden state)] -> what the layer begins with."""

    def __init__(self, config, norm):
        super().__init__()
        size = config.hidden_size
        self.pre_fc_norm_embedding, self.pre_fc_norm_hidden = norm(config), norm(config)
        self.fc = HalvedLinear(size, [("fc", size, slice(0, size))], False, config.dtype)

    def construct(self, embedded, hidden_states):
        return self.fc((self.pre_fc_norm_embedding.plain(embedded), self.pre_fc_norm_hidden.plain(hidden_states)))


class MTPDecoder(DraftDecoder):
    def __init__(self, config, layer_class, norm):
        super().__init__([layer_class(config, 0)])
        self.entry, self.norm = Entry(config, norm), norm(config)

    def construct(self, step):
        embedded, hidden_states = self.begin(step)
        x, residual = self.layers[0](self.entry(embedded, hidden_states), None, step)
        return (ops.without_valid_rows(self.norm(x, residual)[0]),)


class MTPForCausalLM(DraftForCausalLM):
    layer_class, norm = None, staticmethod(gemma_norm)
    keeps_weights = False  # they come with the target's
    ignored_tensors = (r"^(?!mtp\.).*",)  # the target's
    optional_prefix = ""

    @classmethod
    def read_config(cls, hf_config, runtime):
        """Of the one layer, which has attention, and experts where the target's layers have them."""
        config = super().read_config(hf_config, runtime)
        all_experts = dict(mlp_only_layers=(), decoder_sparse_step=1) if config.has_experts else {}
        return dataclasses.replace(config, num_hidden_layers=1, layer_types=("full_attention",), **all_experts)

    def _decoder(self, config):
        return MTPDecoder(config, self.layer_class, self.norm)

    def _name_tensors(self, config):
        self.layer_renames = {"model.layers.0": "mtp.layers.0", "model.entry": "mtp", "model.norm": "mtp.norm"}
        self.other_stages = []


class Qwen3NextForCausalLMMTP(MTPForCausalLM):
    config_class, layer_class = Qwen3NextMTPConfig, Qwen3NextLayer


class Qwen3MoeForCausalLMMTP(MTPForCausalLM):
    config_class, layer_class, norm = Qwen3MoeMTPConfig, Qwen3MoeLayer, staticmethod(rms_norm)


class Qwen3_5ForCausalLMMTP(MTPForCausalLM):
    """SGLang has this one name, dense or with experts; its dense configs name experts too."""

    config_class = Qwen3_5MTPConfig

    @classmethod
    def read_config(cls, hf_config, runtime):
        if hf_config["model_type"] == "qwen3_5_moe_text":
            return Qwen3_5MoeForCausalLMMTP.read_config(hf_config, runtime)
        return super().read_config(hf_config, runtime)

    def _decoder(self, config):
        return MTPDecoder(config, Qwen3_5MoeLayer if config.has_experts else Qwen3_5Layer, self.norm)


class Qwen3_5MoeForCausalLMMTP(MTPForCausalLM):
    config_class, layer_class = Qwen3_5MoeMTPConfig, Qwen3_5MoeLayer

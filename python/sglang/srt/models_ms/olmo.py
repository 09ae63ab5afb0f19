"""OLMo: Llama's decoder with LayerNorms that have no weights, and clipped queries, keys and values.

Reference: transformers/models/olmo/modeling_olmo.py.
"""

import numpy as np
from mindspore import Tensor, nn

from sglang.srt.layers_ms import Attention, GatedMLP, ops
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.dbrx import Clip
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.llama import LlamaConfig


class UnitNorm(nn.Cell):
    """LayerNorm without weight and bias, behind RMSNorm's interface."""

    def __init__(self, config):
        super().__init__()
        self.ones, self.eps = Tensor(np.ones(config.hidden_size, np.float32), config.dtype), config.rms_norm_eps

    def construct(self, x, residual=None):
        total = x if residual is None else ops.add(x, residual, 1.0)
        return ops.layer_norm(total, self.ones, None, self.eps), total


class OlmoConfig(LlamaConfig):
    rms_norm_eps: float = 1e-5
    clip_qkv: float | None = key("clip_qkv", None)


class OlmoLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias, clip = config.attention_bias, None if config.clip_qkv is None else Clip(config.clip_qkv)
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm=clip)
        super().__init__(config, attention, GatedMLP(config), UnitNorm)


class OlmoForCausalLM(CausalLM):
    config_class = OlmoConfig
    layer_class = OlmoLayer
    norm = staticmethod(UnitNorm)

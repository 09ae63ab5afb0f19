"""Granite SWA: Granite with windows, sinks, and a rotary base of each layer, 0: none; dense, or experts.

References: transformers/models/granite_swa/modeling_granite_swa.py, granitemoe_swa/modeling_granitemoe_swa.py.
"""

import dataclasses

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.layers_ms.expert_layouts import fused, granites
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, ScaledLayer
from sglang.srt.models_ms.granite import GraniteConfig
from sglang.srt.models_ms.granite_moe import NAMES, NAMES_NOW, GraniteMoeConfig, GraniteMoeForCausalLM
from sglang.srt.models_ms.moe_config import sparse_moe_block
from sglang.srt.models_ms.windows import sliding_windows


class GraniteSWAConfig(GraniteConfig):
    layer_rope_theta: tuple = key("layer_rope_theta", (), convert=tuple)

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: layer % 4)

    def rope_of(self, layer_id: int):
        """The rotary embedding of a layer, or None."""
        theta = self.layer_rope_theta[layer_id] if self.layer_rope_theta else self.rope.rope_theta
        return dataclasses.replace(self.rope, rope_theta=float(theta)) if theta else None


def attention(config, layer_id):
    bias, scale, window = config.attention_bias, config.attention_multiplier, config.windows[layer_id]
    biases = dict(qkv_bias=bias, out_bias=bias)
    rope = config.rope_of(layer_id)
    return Attention(config, layer_id, **biases, scale=scale, window=window, sinks="sinks", rope=rope)


class GraniteSWALayer(ScaledLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, attention(config, layer_id), GatedMLP(config, bias=config.mlp_bias))


class GraniteSWAForCausalLM(CausalLM):
    config_class = GraniteSWAConfig
    layer_class = GraniteSWALayer


class GraniteMoeSWAConfig(GraniteMoeConfig, GraniteSWAConfig):
    """Of Granite's experts, with windows."""


class GraniteMoeSWALayer(ScaledLayer):
    def __init__(self, config, layer_id):
        block = sparse_moe_block(config, layouts=lambda sizes: (fused(sizes), *granites(sizes)), fused_gate_up=True)
        super().__init__(config, attention(config, layer_id), block)


class GraniteMoeSWAForCausalLM(GraniteMoeForCausalLM):
    config_class = GraniteMoeSWAConfig
    layer_class = GraniteMoeSWALayer
    tensor_names = NAMES_NOW
    other_tensor_names = (NAMES,)

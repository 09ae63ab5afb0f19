"""Mistral and Ministral: Llama's decoder, no biases; a sliding window in all layers, or in those of layer_types.

References: transformers/models/mistral/modeling_mistral.py, transformers/models/ministral/modeling_ministral.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig, computed
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.windows import sliding_windows


class MistralConfig(DecoderConfig):
    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: True)


class MistralLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, Attention(config, layer_id, window=config.windows[layer_id]), GatedMLP(config))


class MistralForCausalLM(CausalLM):
    config_class = MistralConfig
    layer_class = MistralLayer


class MinistralForCausalLM(MistralForCausalLM):
    """Ministral. Its configs always have layer_types."""

"""SmolLM3: Llama's decoder without a rotary embedding in every fourth layer, which may have a window.

Reference: transformers/models/smollm3/modeling_smollm3.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.llama import LlamaConfig
from sglang.srt.models_ms.windows import sliding_windows


def every_layer_but_some(config) -> tuple[int, ...]:
    """1 for each layer but those that no_rope_layer_interval leaves out."""
    return tuple(int((layer + 1) % config.no_rope_layer_interval > 0) for layer in range(config.num_hidden_layers))


class SmolLM3Config(LlamaConfig):
    tie_word_embeddings: bool = key("tie_word_embeddings", True)
    no_rope_layer_interval: int = key("no_rope_layer_interval", 4)
    rotated_layers: tuple = key("no_rope_layers", every_layer_but_some, convert=tuple)  # 1: the layer has a rotary

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: not self.rotated_layers[layer], bool(self.use_sliding_window))

    def problems(self):
        yield from super().problems()
        if len(self.rotated_layers) < self.num_hidden_layers:
            yield f"no_rope_layers says it of {len(self.rotated_layers)} of {self.num_hidden_layers} layers"


class SmolLM3Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias, window = config.attention_bias, config.windows[layer_id]
        rope = config.rope if config.rotated_layers[layer_id] else None
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, window=window, rope=rope)
        super().__init__(config, attention, GatedMLP(config, bias=config.mlp_bias))


class SmolLM3ForCausalLM(CausalLM):
    config_class = SmolLM3Config
    layer_class = SmolLM3Layer

"""Qwen2 and Qwen2.5: pre-norm decoder with biases on queries, keys and values only.

Reference: transformers/models/qwen2/modeling_qwen2.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.windows import sliding_windows


def qwen_windows(config):
    """A window in the layers from max_window_layers on, if use_sliding_window says so."""
    first = config.max_window_layers
    return sliding_windows(config, lambda layer: layer >= first, used=bool(config.use_sliding_window))


class Qwen2Config(DecoderConfig):
    chunk_size: int = key("dual_chunk_attention_config.chunk_size", 0)
    local_size: int = key("dual_chunk_attention_config.local_size", 0)
    chunk_trained: int = key("dual_chunk_attention_config.original_max_position_embeddings", 0)
    ignored = {"dual_chunk_attention_config.sparse_attention_enabled": "in long contexts, which are refused"}

    @computed
    def windows(self):
        return qwen_windows(self)

    def problems(self):
        """Dual chunk attention is not supported: it rotates keys of earlier chunks differently, and scales scores."""
        yield from super().problems()
        if self.chunk_size:
            length = min(self.chunk_size - self.local_size, self.chunk_trained or self.chunk_size)
            yield from self.limit_context(length, "dual chunk attention (dual_chunk_attention_config) is")


class Qwen2Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, qkv_bias=True, window=config.windows[layer_id])
        super().__init__(config, attention, GatedMLP(config))


class Qwen2ForCausalLM(CausalLM):
    config_class = Qwen2Config
    layer_class = Qwen2Layer

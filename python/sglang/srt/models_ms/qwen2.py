"""Qwen2 and Qwen2.5: pre-norm decoder with biases on queries, keys and values only.

Reference: transformers/models/qwen2/modeling_qwen2.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


def qwen_windows(hf):
    """A window in the layers from max_window_layers on, if use_sliding_window says so."""
    first = hf.get("max_window_layers", 28)
    return hf.windows(lambda layer: layer >= first, used=hf.get("use_sliding_window", False))


def refuse_chunks(hf, runtime):
    """Dual chunk attention turns keys of earlier chunks otherwise, and multiplies scores beyond its training length."""
    chunks = hf.part("dual_chunk_attention_config")
    size, local = chunks.get("chunk_size", 0), chunks.get("local_size", 0)
    trained = chunks.get("original_max_position_embeddings", 0)
    chunks.get("sparse_attention_enabled", None)  # in long contexts, too
    if size:
        length = min(size - local, trained or size)
        hf.refuse_beyond(length, runtime.max_positions, "dual chunk attention (dual_chunk_attention_config) is")


class Qwen2Config(DecoderConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        refuse_chunks(hf, runtime)
        return super().read(hf, runtime, windows=qwen_windows(hf), **special)


class Qwen2Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, qkv_bias=True, window=config.windows[layer_id])
        super().__init__(config, attention, GatedMLP(config))


class Qwen2ForCausalLM(CausalLM):
    config_class = Qwen2Config
    layer_class = Qwen2Layer

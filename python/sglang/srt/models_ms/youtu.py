"""Youtu-LLM: DeepSeek V3's attention and plain MLPs.

Reference: transformers/models/youtu/modeling_youtu.py.
"""

from sglang.srt.layers_ms import GatedMLP, MLAAttention
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mla_config import MLAConfig


class YoutuConfig(MLAConfig):
    rope_interleave: bool = key("rope_interleave", True)
    tie_word_embeddings: bool = key("tie_word_embeddings", True)
    expected = {"mlp_bias": False}
    ignored = {"embedding_initializer_range": "training"}


class YoutuLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, MLAAttention(config, layer_id), GatedMLP(config))


class YoutuForCausalLM(CausalLM):
    config_class = YoutuConfig
    layer_class = YoutuLayer

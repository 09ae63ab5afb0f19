"""MPT: ALiBi, LayerNorm without a bias, fused attention, and an MLP without a gate.

Reference: transformers/models/mpt/modeling_mpt.py.
"""

import dataclasses

from sglang.srt.layers_ms import MLP, Attention, concatenated
from sglang.srt.layers_ms.attention import alibi_slopes
from sglang.srt.models_ms.config import DecoderConfig, computed, key
from sglang.srt.models_ms.dbrx import Clip
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer, layer_norm

OF_TRAINING = ("embedding_fraction", "init_config", "init_device", "verbose")


class MptConfig(DecoderConfig):
    hidden_size: int = key("d_model")
    num_hidden_layers: int = key("n_layers")
    num_attention_heads: int = key("n_heads")
    max_position_embeddings: int = key("max_seq_len")  # of training; nothing bounds it
    intermediate_size: int = key("expansion_ratio", 4)  # how often hidden_size
    hidden_act: str = "gelu"
    rms_norm_eps: float = key("layer_norm_epsilon", 1e-5)
    tie_word_embeddings: bool = key("tie_word_embeddings", True)
    clip_qkv: float | None = key("attn_config.clip_qkv", None)
    expected = {
        "no_bias": True,
        "logit_scale": None,
        "norm_type": ("low_precision_layernorm", "layernorm"),
        "attn_config.alibi": True,
        "attn_config.alibi_bias_max": 8,
        "attn_config.attn_type": "multihead_attention",
        "attn_config.attn_uses_sequence_id": False,
        "attn_config.prefix_lm": False,
        "attn_config.qk_ln": False,
        "attn_config.softmax_scale": None,
    }
    ignored = {
        **dict.fromkeys(OF_TRAINING, "training"),
        "attn_impl": "how published code computes",
        "learned_pos_emb": "of models without ALiBi, which are refused",
        "attn_config.id2label": "of any class of transformers",
    }

    @computed
    def rope(self):
        return None


class MptLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        clip = None if config.clip_qkv is None else Clip(config.clip_qkv)
        slopes = alibi_slopes(config.num_attention_heads)
        attention = Attention(config, layer_id, fused_qkv=concatenated, qk_norm=clip, alibi=slopes)
        sized = dataclasses.replace(config, intermediate_size=config.intermediate_size * config.hidden_size)
        super().__init__(config, attention, MLP(sized), layer_norm)


class MptForCausalLM(CausalLM):
    config_class = MptConfig
    layer_class = MptLayer
    norm = staticmethod(layer_norm)
    tensor_names = {
        "model.embed_tokens": "transformer.wte",
        "model.layers": "transformer.blocks",
        "model.norm": "transformer.norm_f",
        "input_layernorm": "norm_1",
        "post_attention_layernorm": "norm_2",
        "self_attn.qkv_proj": "attn.Wqkv",
        "self_attn.o_proj": "attn.out_proj",
        "mlp": "ffn",
    }

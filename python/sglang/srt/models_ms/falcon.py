"""Falcon, the first generation (7B, 40B, 180B, 11B): fused attention and a plain MLP, mostly beside each other.

Falcon 3 is Llama's decoder. Reference: transformers/models/falcon/modeling_falcon.py.
"""

import dataclasses

from sglang.srt.layers_ms import MLP, Attention, concatenated, interleaved_by_group
from sglang.srt.layers_ms.mlp import UNGATED
from sglang.srt.models_ms.bloom import NAMES
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, ParallelLayer, PreNormLayer
from sglang.srt.models_ms.gpt_neox import BesideNormedLayer
from sglang.srt.models_ms.stablelm import biased_layer_norm


class FalconConfig(DecoderConfig):
    num_key_value_heads: int = key("num_kv_heads", lambda config: config.num_attention_heads)
    intermediate_size: int = key("ffn_hidden_size", lambda config: 4 * config.hidden_size)
    hidden_act: str = key("activation", "gelu", accepted=UNGATED)
    rms_norm_eps: float = key("layer_norm_epsilon", 1e-5)
    tie_word_embeddings: bool = key("tie_word_embeddings", True)
    max_position_embeddings: int = key("max_position_embeddings", 2048)
    bias: bool = key("bias", False)
    by_group: bool = key("new_decoder_architecture", False)
    multi_query: bool = key("multi_query", True)
    parallel_attn: bool = key("parallel_attn", True)
    norms: int = key("num_ln_in_parallel_attn", lambda config: 2 if config.by_group else 1)
    expected = {"alibi": False, "apply_residual_connection_post_layernorm": False}


def falcon_layer(config, layer_id):
    one_head = config.multi_query and not config.by_group
    sized = dataclasses.replace(config, num_key_value_heads=1) if one_head else config
    fused, bias = concatenated if one_head else interleaved_by_group, config.bias
    attention = Attention(sized, layer_id, qkv_bias=bias, out_bias=bias, fused_qkv=fused)
    kind = PreNormLayer
    if config.parallel_attn or config.by_group:
        kind = BesideNormedLayer if config.by_group and config.norms == 2 else ParallelLayer
    return kind(config, attention, MLP(config, bias), biased_layer_norm)


class FalconForCausalLM(CausalLM):
    config_class = FalconConfig
    layer_class = staticmethod(falcon_layer)
    norm = staticmethod(biased_layer_norm)
    tensor_names = NAMES
    other_tensor_names = (NAMES | {"input_layernorm": "ln_attn", "post_attention_layernorm": "ln_mlp"},)

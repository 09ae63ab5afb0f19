"""GPT-BigCode (StarCoder, SantaCoder): GPT-2 with one key/value head for all queries.

Reference: transformers/models/gpt_bigcode/modeling_gpt_bigcode.py.
"""

from sglang.srt.layers_ms import MLP, Attention, concatenated, interleaved_by_group
from sglang.srt.layers_ms.mlp import UNGATED
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import PreNormLayer
from sglang.srt.models_ms.gpt2 import GPT2Config, GPT2LMHeadModel
from sglang.srt.models_ms.stablelm import biased_layer_norm

ALLOCATED = ("inference_runner", "max_batch_size", "pad_key_length", "pre_allocate_kv_cache", "validate_runner_input")


class GPTBigCodeConfig(GPT2Config):
    hidden_act: str = key("activation_function", "gelu_pytorch_tanh", accepted=UNGATED)
    multi_query: bool = key("multi_query", True)
    num_key_value_heads: int = key(
        "num_key_value_heads", lambda config: 1 if config.multi_query else config.num_attention_heads
    )
    ignored = {
        "attention_softmax_in_fp32": "scores are float32",
        "scale_attention_softmax_in_fp32": "scores are float32",
        **dict.fromkeys(ALLOCATED, "how published code computes"),
    }


class GPTBigCodeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        fused = concatenated if config.multi_query else interleaved_by_group
        attention = Attention(config, layer_id, qkv_bias=True, out_bias=True, fused_qkv=fused)
        super().__init__(config, attention, MLP(config, bias=True), biased_layer_norm)


class GPTBigCodeForCausalLM(GPT2LMHeadModel):
    config_class = GPTBigCodeConfig
    layer_class = GPTBigCodeLayer

"""Mistral Small 4 and Large 3: DeepSeek V3's decoder with softmax scores, whose queries grow with positions.

References: transformers/models/mistral4/modeling_mistral4.py; of Large 3's config and names SGLang's
mistral_large_3.py, which reads Mistral's own files, params.json and consolidated.safetensors.
"""

import dataclasses

from sglang.srt.layers_ms import MLAAttention
from sglang.srt.layers_ms.expert_layouts import MIXTRAL, separate
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.deepseek_v3 import DeepseekV3Config
from sglang.srt.models_ms.ministral3 import ScaledQueriesConfig
from sglang.srt.models_ms.moe_config import mlp
from sglang.srt.models_ms.multimodal import TextAlone
from sglang.srt.models_ms.rope_config import read_rope


class Mistral4Config(DeepseekV3Config, ScaledQueriesConfig):
    scoring = "softmax"
    expected = {"scoring_func": "softmax"}
    of_queries = (*ScaledQueriesConfig.of_queries, "partial_rotary_factor")  # of a head, all that is rotated of it


class Mistral4Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = MLAAttention(config, layer_id, query_factors=config.query_factors)
        super().__init__(config, attention, mlp(config, layer_id, layouts=separate(*MIXTRAL)))


class Mistral4ForCausalLM(CausalLM):
    config_class = Mistral4Config
    layer_class = Mistral4Layer


class MistralLarge3Config(Mistral4Config):
    """As SGLang makes it of params.json."""

    beta: float = key("llama_4_scaling.beta")
    grows_after: int = key("llama_4_scaling.original_max_position_embeddings")
    ignored = {
        "routing_method_type": "of a kernel",
        "moe": "how the ranks of its training had experts",
        "max_seq_len": "SGLang reads it for the length of the context",
    }

    @computed
    def rope(self):
        given = {
            name: value for name, value in self.rope_parameters.items() if name not in ("apply_yarn_scaling", "type")
        }
        if given.get("rope_type") == "deepseek_yarn":
            given["rope_type"] = "yarn"
            scaled = self.rope_parameters.get("apply_yarn_scaling", True)
            given |= {"mscale": given["mscale_all_dim"]} if scaled else {"mscale_all_dim": 0, "attention_factor": 1.0}
        return read_rope(dataclasses.replace(self, rope_parameters=given))


def mlp_names(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{name}_proj": f"{theirs}.{own}" for name, own in (("gate", "w1"), ("up", "w3"), ("down", "w2"))}


NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.layers": "layers",
    "model.norm": "norm",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{name}_proj": f"attention.w{name}" for name in ("q", "o")},
    **{f"self_attn.{name}_proj": f"attention.w{name}" for name in ("q_a", "q_b", "kv_b")},
    "self_attn.kv_a_proj_with_mqa": "attention.wkv_a_with_mqa",
    **{f"self_attn.{name}_layernorm": f"attention.{name}_norm" for name in ("q_a", "kv_a")},
    **mlp_names("mlp", "feed_forward"),
    **mlp_names("mlp.shared_experts", "shared_experts"),
    "mlp.gate": "gate",
    "mlp.experts": "experts",
}


class MistralLarge3ForCausalLM(Mistral4ForCausalLM):
    config_class = MistralLarge3Config
    tensor_names = NAMES
    tensor_endings = {".qscale_weight": ".weight_scale", ".qscale_act": ".input_scale"}


class PixtralForConditionalGeneration(TextAlone):
    """The same with a tower, whose rotary embedding Mistral's files have in another order than transformers'."""

    decoders = ("deepseek_v3",)
    own_decoders = {"deepseek_v3": "MistralLarge3ForCausalLM"}
    towers = ("vision_encoder", "vision_language_adapter", "patch_merger", "pre_mm_projector_norm")

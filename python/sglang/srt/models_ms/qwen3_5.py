"""Qwen3.5, text: Qwen3-Next's layers with projections of their own for each part, dense or with experts.

Rotary positions of three axes are one and the same for text. References:
transformers/models/qwen3_5/modeling_qwen3_5.py, transformers/models/qwen3_5_moe/modeling_qwen3_5_moe.py.
"""

from sglang.srt.layers_ms import GatedMLP, separate_projections
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import PreNormLayer
from sglang.srt.models_ms.gemma import gemma_norm
from sglang.srt.models_ms.multimodal import TextAlone
from sglang.srt.models_ms.qwen3_next import DeltaConfig, DeltaForCausalLM, Qwen3NextConfig, Qwen3NextLayer, mixer

OF_IMAGES = ("mrope_section", "mrope_interleaved")  # how rotary positions of images are mixed
IGNORED = dict.fromkeys(
    ("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings"), "layers that predict further tokens are left out"
)


def of_text(rope: dict) -> dict:
    return {name: value for name, value in rope.items() if name not in OF_IMAGES}


class Qwen3_5Config(DeltaConfig):
    rope_parameters: dict = key("rope_parameters", {}, aliases=("rope_scaling",), convert=of_text)
    ignored = {
        **IGNORED,
        **dict.fromkeys(
            (
                *("decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size", "norm_topk_prob", "num_experts"),
                *("num_experts_per_tok", "output_router_logits", "router_aux_loss_coef"),
                "shared_expert_intermediate_size",
            ),
            "SGLang's defaults for models with experts, which this one has not",
        ),
    }


class Qwen3_5Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, mixer(config, layer_id, separate_projections), GatedMLP(config), gemma_norm)


class Qwen3_5ForCausalLM(DeltaForCausalLM):
    config_class = Qwen3_5Config
    layer_class = Qwen3_5Layer


class Qwen3_5MoeConfig(Qwen3NextConfig):
    rope_parameters: dict = key("rope_parameters", {}, aliases=("rope_scaling",), convert=of_text)
    ignored = IGNORED


class Qwen3_5MoeLayer(Qwen3NextLayer):
    projections = staticmethod(separate_projections)


class Qwen3_5MoeForCausalLM(DeltaForCausalLM):
    config_class = Qwen3_5MoeConfig
    layer_class = Qwen3_5MoeLayer


class Qwen3_5ForConditionalGeneration(TextAlone):
    """As checkpoints of both kinds are published. The tower is not computed yet."""

    decoders = ("qwen3_5_text",)
    towers = ("visual",)
    tensor_names = {**DeltaForCausalLM.tensor_names, "model": "model.language_model", "visual": "model.visual"}


class Qwen3_5MoeForConditionalGeneration(Qwen3_5ForConditionalGeneration):
    decoders = ("qwen3_5_moe_text",)

"""InternVL 2, 2.5, 3 and 3.5 as OpenGVLab publishes them: other keys and other names of the same model.

Reference: modeling_internvl_chat.py of OpenGVLab/InternVL3-8B; transformers/models/internvl/modeling_internvl.py.
"""

from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.internvl import InternVLForConditionalGeneration
from sglang.srt.models_ms.multimodal import IMAGE, VIDEO, TowerConfig
from sglang.srt.models_ms.vision.intern import InternChatVisionConfig


class InternVLChatConfig(TowerConfig):
    downsample_ratio: float = key("downsample_ratio", 0.5)
    projector_hidden_act = "gelu"
    expected = {"force_image_size": 448, "pad2square": False, "ps_version": "v2", "select_layer": -1}
    ignored = {
        "hidden_size": "the decoder's config reads it",
        "llm_config": "the decoder's config reads it",
        "tie_word_embeddings": "the decoder's config reads it",
        "vision_config": "the tower's config reads it",
        "template": "SGLang and the tokenizer have templates of chats",
        **dict.fromkeys(("use_backbone_lora", "use_llm_lora"), "training"),
        **dict.fromkeys(
            ("dynamic_image_size", "max_dynamic_patch", "min_dynamic_patch", "use_thumbnail"),
            "SGLang's processor makes tiles, 12 at most and a small one of the whole image",
        ),
    }


class InternVLChatModel(InternVLForConditionalGeneration):
    modalities = (IMAGE, VIDEO)
    text_key = "llm_config"
    towers = ("vision_tower", *(f"multi_modal_projector.{name}" for name in ("layer_norm", "linear_1", "linear_2")))
    decoders = ("qwen2", "qwen3", "internlm2", "llama", "qwen3_moe")
    own_config_class, vision_config_class = InternVLChatConfig, InternChatVisionConfig
    tensor_names = {
        "model": "language_model.model",
        "lm_head": "language_model.lm_head",
        "multi_modal_projector.layer_norm": "mlp1.0",
        "multi_modal_projector.linear_1": "mlp1.1",
        "multi_modal_projector.linear_2": "mlp1.3",
        "vision_tower": "vision_model",
        "patch_embeddings.projection": "patch_embedding",
        "cls_token": "class_embedding",
        "position_embeddings": "position_embedding",
        "encoder.layer": "encoder.layers",
        "attention.qkv_proj": "attn.qkv",
        "attention.q_norm": "attn.q_norm",
        "attention.k_norm": "attn.k_norm",
        "attention.projection_layer": "attn.proj",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "lambda_1": "ls1",
        "lambda_2": "ls2",
    }

    @classmethod
    def names_on(cls, decoder):
        """Of InternLM 2 the decoder has other names too."""
        names = decoder.tensor_names
        outer = {one: f"language_model.{two}" for one, two in names.items() if one.startswith(("model.", "lm_head"))}
        return {**outer, **cls.tensor_names, **names, **outer}

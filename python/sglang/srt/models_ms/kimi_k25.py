"""Kimi K2.5 and K2.6, their text: DeepSeek V3's decoder under the names of a model that sees.

Reference: SGLang's kimi_k25.py, whose config is DeepSeek V3's.
"""

from sglang.srt.models_ms.multimodal import TextAlone


class KimiK25ForConditionalGeneration(TextAlone):
    decoders = ("deepseek_v3", "kimi_k2")
    own_decoders = {"kimi_k2": "DeepseekV3ForCausalLM"}
    towers = ("vision_tower", "mm_projector")
    tensor_names = {"model": "language_model.model", "lm_head": "language_model.lm_head"}

"""Gemma 3 of 4B and more: the decoder alone. SGLang serves its text by default.

Reference: transformers/models/gemma3/modeling_gemma3.py.
"""

from sglang.srt.models_ms.multimodal import Multimodal


class Gemma3ForConditionalGeneration(Multimodal):
    """Its image tokens see the whole image, which no table's attention computes yet."""

    modalities = ()
    decoders = ("gemma3_text",)
    towers = ("vision_tower", "multi_modal_projector")
    tensor_names = {"model": "language_model.model", "lm_head": "language_model.lm_head"}

"""LLaVA-NeXT-Video: LLaVA 1.6, of which images are served. Its videos are rows of frames, averaged: not computed here.

Reference: transformers/models/llava_next_video/modeling_llava_next_video.py.
"""

from sglang.srt.models_ms.llava_next import LlavaNextConfig, LlavaNextForConditionalGeneration


class LlavaNextVideoConfig(LlavaNextConfig):
    ignored = dict.fromkeys(
        ("spatial_pool_mode", "spatial_pool_stride", "video_seq_length", "video_token_index"), "no videos are taken"
    )


class LlavaNextVideoForConditionalGeneration(LlavaNextForConditionalGeneration):
    own_config_class = LlavaNextVideoConfig

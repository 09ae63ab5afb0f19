"""LLaVA-NeXT-Video: LLaVA 1.6 with videos, of whose frames every four neighboring patches are averaged.

Reference: transformers/models/llava_next_video/modeling_llava_next_video.py.
"""

import numpy as np

from sglang.srt.layers_ms.vision import mean_rows
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.llava_next import LlavaNextConfig, LlavaNextForConditionalGeneration
from sglang.srt.models_ms.multimodal import IMAGE, VIDEO
from sglang.srt.models_ms.vision import grids


class LlavaNextVideoConfig(LlavaNextConfig):
    pool_mode: str = key("spatial_pool_mode", "average", accepted=("average",))
    pool_stride: int = key("spatial_pool_stride", 2, accepted=(2,))
    ignored = dict.fromkeys(("video_seq_length", "video_token_index"), "SGLang's processor reads it")


class LlavaNextVideoForConditionalGeneration(LlavaNextForConditionalGeneration):
    modalities = (IMAGE, VIDEO)
    own_config_class = LlavaNextVideoConfig

    def vision_inputs(self, feature, modality, known):
        if modality != VIDEO:
            return super().vision_inputs(feature, modality, known)
        made, side = (
            self.features.inputs(feature, known),
            self.vision_config.image_size // self.vision_config.patch_size,
        )
        firsts = np.arange(len(feature)) * side**2  # of each frame
        squares = grids.squares(side, side, self.own.pool_stride) + firsts[:, None, None]
        corners = np.ascontiguousarray(squares.reshape(-1, self.own.pool_stride**2).T, np.int32)
        return made._replace(indices=(*made.indices, *corners))

    def video(self, patches, *indices):
        corners = self.own.pool_stride**2
        pooled = mean_rows(self.features.rows(patches, *indices[:-corners]), indices[-corners:])
        return self.multi_modal_projector(pooled)

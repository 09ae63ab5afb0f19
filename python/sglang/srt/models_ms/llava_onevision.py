"""LLaVA-OneVision: SigLIP's patches of images in tiles, made fewer where an image has many, and of videos' frames.

Reference: transformers/models/llava_onevision/modeling_llava_onevision.py.
"""

import numpy as np

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.vision import mixed_rows
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.llava import LlavaForConditionalGeneration
from sglang.srt.models_ms.llava_next import LlavaNextConfig, LlavaNextForConditionalGeneration
from sglang.srt.models_ms.multimodal import IMAGE, VIDEO
from sglang.srt.models_ms.vision import anyres


class LlavaOnevisionConfig(LlavaNextConfig):
    vision_feature_layer: int = key("vision_feature_layer", -1)
    select: str = key("vision_feature_select_strategy", "full", accepted=("full",))
    most_tiles: int = key("vision_aspect_ratio", 9, convert=anyres.most_tiles)
    ignored = {"video_token_index": "SGLang's processor reads it"}


class LlavaOnevisionForConditionalGeneration(LlavaNextForConditionalGeneration):
    modalities = (IMAGE, VIDEO)
    decoders = ("qwen2",)
    own_config_class = LlavaOnevisionConfig
    tower_kinds = ("siglip_vision_model",)

    def vision_inputs(self, feature, modality, known):
        tile, possible = self.vision_config.image_size, self.own.pinpoints
        side, images = self.vision_config.side, feature.reshape(-1, *feature.shape[-3:])
        if modality == VIDEO:
            taps = anyres.halved(len(images), side)
        elif len(images) > 1:  # one image alone is cut into tiles
            (size,) = known["image_sizes"].reshape(-1, 2).tolist()
            images = images[: anyres.tiles(size, possible, tile)]
            taps = anyres.resized(size, possible, tile, side, self.own.most_tiles)
        else:
            taps = anyres.untiled(side)
        made = self.features.inputs(images, known)
        line_ends = np.where(taps[0] == anyres.NEWLINE, 0, -1).astype(np.int32)
        return made._replace(indices=(*made.indices, line_ends, *taps))

    def vision(self, patches, *indices):
        line_ends, *taps = indices[self.features.indices :]
        x = LlavaForConditionalGeneration.vision(self, patches, *indices[: self.features.indices])
        return ops.add(mixed_rows(x, list(zip(taps[::2], taps[1::2], strict=True))), self.image_newline(line_ends), 1.0)

"""LLaVA 1.6 (LLaVA-NeXT): LLaVA with images cut into tiles, whose lines end with a learned row.

Reference: transformers/models/llava_next/modeling_llava_next.py.
"""

import numpy as np

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.vision import Table
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.llava import LlavaConfig, LlavaForConditionalGeneration
from sglang.srt.models_ms.vision import anyres


class LlavaNextConfig(LlavaConfig):
    select: str = key("vision_feature_select_strategy", "default", accepted=("default",))
    pinpoints: tuple = key("image_grid_pinpoints", convert=lambda sizes: tuple(map(tuple, sizes)))
    expected = {"use_image_newline_parameter": True}


class LlavaNextForConditionalGeneration(LlavaForConditionalGeneration):
    towers = ("vision_tower", "multi_modal_projector", "image_newline")
    own_config_class = LlavaNextConfig
    tower_kinds = ("clip_vision_model",)

    def make_towers(self, hf_config, runtime):
        super().make_towers(hf_config, runtime)
        self.add_newline()

    def add_newline(self) -> None:
        """The row that ends lines."""
        width = self.config.hidden_size
        self.image_newline = Table(1, width, self.config.dtype, "../image_newline", (width,))

    def vision_inputs(self, feature, modality, known):
        tile, possible = self.vision_config.image_size, self.own.pinpoints
        (size,) = known["image_sizes"].reshape(-1, 2).tolist()
        images = feature.reshape(-1, *feature.shape[-3:])[: anyres.tiles(size, possible, tile)]
        made = self.features.inputs(images, known)
        packed = anyres.rows(size, possible, tile, tile // self.vision_config.patch_size)
        line_ends = np.where(packed == anyres.NEWLINE, 0, -1).astype(np.int32)
        return made._replace(indices=(*made.indices, packed, line_ends))

    def vision(self, patches, *indices):
        *indices, packed, line_ends = indices
        x = super().vision(patches, *indices)
        return ops.add(ops.take_rows(x, packed), self.image_newline(line_ends), 1.0)

"""InternVL 2.5 and 3, under transformers' name: tiles of images, squares of four patches as one row.

Reference: transformers/models/internvl/modeling_internvl.py.
"""

import numpy as np
from mindspore import nn

from sglang.srt.layers_ms import LayerNorm, ops
from sglang.srt.layers_ms.vision import linear
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.llava import LlavaConfig
from sglang.srt.models_ms.multimodal import OF_MODULES, Multimodal, VisionInputs
from sglang.srt.models_ms.vision import grids
from sglang.srt.models_ms.vision.intern import InternVisionConfig, InternVisionTower
from sglang.srt.models_ms.vision.patches import even_bounds, patches_of

EPS = 1e-5  # of the projector's norm


class InternVLConfig(LlavaConfig):
    vision_feature_layer: int = key("vision_feature_layer", -1, accepted=(-1,))
    select: str = key("vision_feature_select_strategy", "default", accepted=("default",))
    downsample_ratio: float = key("downsample_ratio", 0.5)


class InternVLProjector(nn.Cell):
    def __init__(self, config, width, hidden_size):
        super().__init__()
        self.kind = config.projector_hidden_act
        self.layer_norm = LayerNorm(width, EPS, config.dtype)
        self.linear_1 = linear(width, hidden_size, True, config.dtype)
        self.linear_2 = linear(hidden_size, hidden_size, True, config.dtype)

    def construct(self, x):
        return self.linear_2(ops.activate(self.linear_1(self.layer_norm.plain(x)), self.kind))


class InternVLForConditionalGeneration(Multimodal):
    decoders = ("qwen2", "llama", "qwen3")
    own_config_class, vision_config_class = InternVLConfig, InternVisionConfig
    towers = ("vision_tower", "multi_modal_projector")
    tensor_names = {"model": "language_model.model", "lm_head": "language_model.lm_head"}
    other_tensor_names = (OF_MODULES,)

    def make_towers(self, hf_config, runtime):
        read = self.own_config_class.read(self.own_config(hf_config), runtime=runtime)
        self.vision_config = self.vision_config_class.read(hf_config["vision_config"], runtime=runtime)
        self.merge = int(1 / read.downsample_ratio)
        self.width = self.vision_config.hidden_size * self.merge**2
        self.vision_tower = InternVisionTower(self.vision_config)
        self.multi_modal_projector = InternVLProjector(read, self.width, self.config.hidden_size)

    def vision_inputs(self, feature, modality, known):
        tiles = feature.reshape(-1, *feature.shape[-3:])
        side, count = self.vision_config.image_size // self.vision_config.patch_size, len(tiles)
        rows = side * side + 1
        places = np.tile(np.arange(rows, dtype=np.int32), count)
        patch_rows = np.where(places == 0, -1, places - 1 + np.repeat(np.arange(count), rows) * (rows - 1))
        class_rows = np.where(places == 0, 0, -1)
        squares = grids.squares(side, side, self.merge).ravel() + 1
        squares = (squares + rows * np.arange(count)[:, None]).ravel()
        patches = np.concatenate([patches_of(tile, self.vision_config.patch_size) for tile in tiles])
        indices = [array.astype(np.int32) for array in (patch_rows, places, class_rows)]
        return VisionInputs(patches, (*indices, even_bounds(count, rows), squares.astype(np.int32)))

    def vision(self, patches, patch_rows, places, class_rows, bounds, squares):
        x = self.vision_tower(patches, patch_rows, places, class_rows, bounds)
        return self.multi_modal_projector(ops.take_rows(x, squares).reshape(-1, self.width))

"""Mistral Small 3.1, Ministral 3: Pixtral's patches, squares of them merged, in the place of image tokens.

Reference: transformers/models/mistral3/modeling_mistral3.py.
"""

import numpy as np
from mindspore import nn

from sglang.srt.layers_ms import RMSNorm, ops
from sglang.srt.layers_ms.vision import linear
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.llava import LlavaConfig
from sglang.srt.models_ms.multimodal import OF_MODULES, Multimodal
from sglang.srt.models_ms.vision import grids
from sglang.srt.models_ms.vision.features import features_of


class Mistral3Config(LlavaConfig):
    vision_feature_layer: int = key("vision_feature_layer", -1)
    select: str = key("vision_feature_select_strategy", "full", convert=lambda _: "full")  # there is no class token
    projector_bias: bool = key("multimodal_projector_bias", False)
    spatial_merge_size: int = key("spatial_merge_size", 2)


class PatchMerger(nn.Cell):
    """Squares of patches [T, squares * hidden] as one row of hidden values each; a matrix for channel after channel."""

    def __init__(self, hidden, size, dtype):
        super().__init__()
        self.merging_layer = linear(hidden * size, hidden, False, dtype)

    def construct(self, x, order):
        return self.merging_layer(ops.take_columns(x, order))


class Mistral3Projector(nn.Cell):
    def __init__(self, config, tower, hidden_size, eps):
        super().__init__()
        self.kind, self.width = config.projector_hidden_act, tower.hidden_size * config.spatial_merge_size**2
        self.norm = RMSNorm(tower.hidden_size, eps, config.dtype)
        self.patch_merger = PatchMerger(tower.hidden_size, config.spatial_merge_size**2, config.dtype)
        self.linear_1 = linear(tower.hidden_size, hidden_size, config.projector_bias, config.dtype)
        self.linear_2 = linear(hidden_size, hidden_size, config.projector_bias, config.dtype)

    def construct(self, x, squares, order):
        x = ops.take_rows(self.norm.plain(x), squares).reshape(-1, self.width)
        x = self.patch_merger(x, order)
        return self.linear_2(ops.activate(self.linear_1(x), self.kind))


class Mistral3ForConditionalGeneration(Multimodal):
    decoders = ("mistral", "ministral3")
    towers = ("vision_tower", "multi_modal_projector")
    tensor_names = {"model": "language_model.model", "lm_head": "language_model.lm_head"}
    other_tensor_names = (OF_MODULES,)

    def make_towers(self, hf_config, runtime):
        read = Mistral3Config.read(self.own_config(hf_config), runtime=runtime)
        self.merge = read.spatial_merge_size
        self.features = features_of(hf_config["vision_config"], read, runtime, ("pixtral",))
        self.vision_config, self.vision_tower = self.features.config, self.features.tower
        sizes = (self.config.hidden_size, self.config.rms_norm_eps)
        self.multi_modal_projector = Mistral3Projector(read, self.vision_config, *sizes)

    def vision_inputs(self, feature, modality, known):
        made, merge, squares, first = self.features.inputs(feature, known), self.merge, [], 0
        for height, width in known["image_sizes"].reshape(-1, 2):
            rows, columns = int(height) // self.vision_config.patch_size, int(width) // self.vision_config.patch_size
            squares.append(grids.squares(rows, columns, merge).ravel() + first)
            first += rows * columns
        order = np.arange(merge**2 * self.vision_config.hidden_size, dtype=np.int32).reshape(merge**2, -1).T.ravel()
        indices = (np.concatenate(squares).astype(np.int32), np.ascontiguousarray(order))
        return made._replace(indices=(*made.indices, *indices))

    def vision(self, patches, cos, sin, bounds, squares, order):
        return self.multi_modal_projector(self.features.rows(patches, cos, sin, bounds), squares, order)

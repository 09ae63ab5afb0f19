"""Qwen2-VL and Qwen2.5-VL: images of any size and frames of videos, by a tower that merges squares of four patches.

References: transformers/models/qwen2_vl/modeling_qwen2_vl.py, transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py.
"""

import numpy as np

from sglang.srt.models_ms.multimodal import IMAGE, VIDEO, Multimodal, VisionInputs
from sglang.srt.models_ms.vision import grids
from sglang.srt.models_ms.vision.qwen import Qwen2_5VisionConfig, Qwen2VisionConfig, QwenVisionTower

OF_TRANSFORMERS = {"model": "model.language_model", "visual": "model.visual", "attn.qkv_proj": "attn.qkv"}


class Qwen2VLForConditionalGeneration(Multimodal):
    modalities = (IMAGE, VIDEO)
    decoders = ("qwen2_vl_text",)
    towers = ("visual",)
    vision_config_class = Qwen2VisionConfig
    tensor_names = {"attn.qkv_proj": "attn.qkv"}
    other_tensor_names = (OF_TRANSFORMERS,)

    def make_towers(self, hf_config, runtime):
        self.vision_config = self.vision_config_class.read(hf_config["vision_config"], runtime=runtime)
        self.visual = QwenVisionTower(self.vision_config)

    def vision_inputs(self, feature, modality, known):
        config, merge = self.vision_config, self.vision_config.spatial_merge_size
        squares, lengths, frames, turns, first = [], [], [], [], 0
        for grid in known[f"{modality}_grid_thw"].reshape(-1, 3):
            order, sizes = grids.windows(grid, merge, config.window_size // merge // config.patch_size)
            squares.append(order + first)
            lengths.append(sizes * merge**2)
            frames.append(np.full(grid[0], grid[1] * grid[2]))
            turns.append(grids.angles(*grids.positions(grid, merge), config.head_dim, config.theta))
            first += len(order)
        squares = np.concatenate(squares)
        patches = (squares[:, None] * merge**2 + np.arange(merge**2)).ravel()
        turn = np.concatenate(turns)[patches]
        segments = [grids.bounds(np.concatenate(sizes)) for sizes in (frames, lengths)]
        indices = (np.cos(turn).astype(np.float32), np.sin(turn).astype(np.float32), *segments)
        back = np.argsort(squares).astype(np.int32)
        return VisionInputs(np.ascontiguousarray(feature[patches], np.float32), (*indices, back))

    def vision(self, patches, cos, sin, frames, windows, order):
        return self.visual(patches, cos, sin, frames, windows, order)


class Qwen2_5_VLForConditionalGeneration(Qwen2VLForConditionalGeneration):
    decoders = ("qwen2_5_vl_text",)
    vision_config_class = Qwen2_5VisionConfig

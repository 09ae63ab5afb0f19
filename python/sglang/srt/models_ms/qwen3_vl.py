"""Qwen3-VL: rows of several of the tower's layers, which are added after the decoder's first ones (deepstack).

References: transformers/models/qwen3_vl/modeling_qwen3_vl.py,
transformers/models/qwen3_vl_moe/modeling_qwen3_vl_moe.py.
"""

import numpy as np

from sglang.srt.models_ms.multimodal import IMAGE, VIDEO, Multimodal, VisionInputs
from sglang.srt.models_ms.vision import grids
from sglang.srt.models_ms.vision.qwen3 import Qwen3VisionConfig, Qwen3VisionTower


class Qwen3VLForConditionalGeneration(Multimodal):
    modalities = (IMAGE, VIDEO)
    decoders = ("qwen3_vl_text",)
    towers = ("visual",)
    tensor_names = {"model": "model.language_model", "visual": "model.visual", "attn.qkv_proj": "attn.qkv"}

    def make_towers(self, hf_config, runtime):
        self.vision_config = Qwen3VisionConfig.read(hf_config["vision_config"], runtime=runtime)
        self.visual = Qwen3VisionTower(self.vision_config)
        self.deepstack = len(self.vision_config.deepstack_layers)

    def vision_inputs(self, feature, modality, known):
        config, merge = self.vision_config, self.vision_config.spatial_merge_size
        images = known[f"{modality}_grid_thw"].reshape(-1, 3)
        turn = [grids.angles(*grids.positions(one, merge), config.head_dim, config.theta) for one in images]
        turn = np.concatenate(turn)
        frames = np.concatenate([np.full(one[0], one[1] * one[2]) for one in images])
        indices = (np.cos(turn).astype(np.float32), np.sin(turn).astype(np.float32), grids.bounds(frames))
        learned = np.concatenate([grids.interpolated(self.visual.pos_embed.table, one, merge) for one in images])
        return VisionInputs(np.ascontiguousarray(feature, np.float32), indices, learned)

    def vision(self, patches, positions, cos, sin, frames):
        return self.visual(patches, positions, cos, sin, frames)


class Qwen3VLMoeForConditionalGeneration(Qwen3VLForConditionalGeneration):
    decoders = ("qwen3_vl_moe_text",)

    @classmethod
    def decoder_config(cls, hf_config):
        """Weights of a token's experts add up to one, which config.json need not say."""
        return super().decoder_config(hf_config) | {"norm_topk_prob": True}

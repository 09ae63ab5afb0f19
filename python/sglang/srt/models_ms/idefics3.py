"""Idefics3 and SmolVLM: tiles of images, squares of whose patches become one row each.

References: transformers/models/idefics3/modeling_idefics3.py, transformers/models/smolvlm/modeling_smolvlm.py.
"""

import numpy as np
from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.vision import linear
from sglang.srt.models_ms.config import UnsupportedConfig, key
from sglang.srt.models_ms.llava import ROLES
from sglang.srt.models_ms.multimodal import Multimodal, TowerConfig, VisionInputs
from sglang.srt.models_ms.vision import grids
from sglang.srt.models_ms.vision.patches import even_bounds, patches_of
from sglang.srt.models_ms.vision.siglip import SiglipVisionConfig, SiglipVisionTower

# Of the text_config of published checkpoints: what says once more what is beside it, or is of a part that none has.
NOT_OF_THE_DECODER = ("perceiver_config", "pixel_shuffle_factor")


class Idefics3Config(TowerConfig):
    scale_factor: int = key("scale_factor", 2)
    ignored = ROLES


class Idefics3VisionConfig(SiglipVisionConfig):
    hidden_size: int = key("hidden_size", 1152)
    num_attention_heads: int = key("num_attention_heads", 16)
    patch_size: int = key("patch_size", 32)
    ignored = dict.fromkeys(("size", "max_image_size"), "the processor reads it")


class Idefics3Projection(nn.Cell):
    def __init__(self, width, hidden_size, dtype):
        super().__init__()
        self.proj = linear(width, hidden_size, False, dtype)

    def construct(self, x):
        return self.proj(x)


class Idefics3Connector(nn.Cell):
    """Squares of patches as one row each, through one matrix."""

    def __init__(self, tower, scale_factor, hidden_size):
        super().__init__()
        self.width = tower.hidden_size * scale_factor**2
        self.modality_projection = Idefics3Projection(self.width, hidden_size, tower.dtype)

    def construct(self, x, squares):
        return self.modality_projection(ops.take_rows(x, squares).reshape(-1, self.width))


class Idefics3ForConditionalGeneration(Multimodal):
    decoders = ("llama",)
    towers = ("vision_model", "connector")
    tensor_names = {
        "model": "model.text_model",
        "vision_model": "model.vision_model",
        "connector": "model.connector",
    }

    @classmethod
    def decoder_config(cls, hf_config):
        read = super().decoder_config(hf_config)
        return {name: value for name, value in read.items() if name not in NOT_OF_THE_DECODER}

    def make_towers(self, hf_config, runtime):
        read = Idefics3Config.read(self.own_config(hf_config), runtime=runtime)
        self.vision_config = Idefics3VisionConfig.read(hf_config["vision_config"], runtime=runtime)
        self.merge = read.scale_factor
        if self.vision_config.side % self.merge:
            raise UnsupportedConfig(
                f"scale_factor = {self.merge} does not divide {self.vision_config.side} patches of a tile's side"
            )
        self.vision_model = SiglipVisionTower(self.vision_config)
        self.connector = Idefics3Connector(self.vision_config, self.merge, self.config.hidden_size)

    def vision_inputs(self, feature, modality, known):
        tiles, size = feature.reshape(-1, *feature.shape[-3:]), self.vision_config.patch_size
        rows, columns = tiles.shape[-2] // size, tiles.shape[-1] // size
        count, length = len(tiles), rows * columns
        patches = np.concatenate([patches_of(tile, size) for tile in tiles])
        places = np.tile(grids.stretched(rows, columns, self.vision_config.side), count)
        squares = grids.squares(rows, columns, self.merge).ravel() + length * np.arange(count)[:, None]
        return VisionInputs(patches, (places, even_bounds(count, length), squares.ravel().astype(np.int32)))

    def vision(self, patches, places, bounds, squares):
        return self.connector(self.vision_model(patches, places, bounds), squares)


class SmolVLMForConditionalGeneration(Idefics3ForConditionalGeneration):
    """Idefics3 under another name."""

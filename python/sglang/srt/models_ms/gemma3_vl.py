"""Gemma 3 of 4B and more: SigLIP's patches, squares of them averaged; tokens of an image see all of it.

Reference: transformers/models/gemma3/modeling_gemma3.py.
"""

import numpy as np
from mindspore import nn

from sglang.srt.layers_ms import RMSNorm
from sglang.srt.layers_ms.vision import mean_rows, transposed_linear
from sglang.srt.models_ms.config import UnsupportedConfig, key
from sglang.srt.models_ms.gemma3 import Gemma3Layer
from sglang.srt.models_ms.llava import ROLES
from sglang.srt.models_ms.multimodal import OF_MODULES, Multimodal, TowerConfig
from sglang.srt.models_ms.vision import grids
from sglang.srt.models_ms.vision.siglip import SiglipVisionConfig, SiglipVisionTower, inputs_of_squares


class Gemma3VisionConfig(TowerConfig):
    mm_tokens_per_image: int = key("mm_tokens_per_image", 256)
    ignored = ROLES | dict.fromkeys(("boi_token_index", "eoi_token_index"), "SGLang's processor reads it")

    def merge(self, side: int) -> int:
        """How many patches each way become one token, of an image of side x side."""
        tokens = int(self.mm_tokens_per_image**0.5)
        if tokens**2 != self.mm_tokens_per_image or not 0 < tokens <= side or side % tokens:
            raise UnsupportedConfig(
                f"mm_tokens_per_image = {self.mm_tokens_per_image} does not divide {side} x {side} patches into squares"
            )
        return side // tokens


class Gemma3Projector(nn.Cell):
    """The mean of the rows of each square, normalized, through one matrix."""

    def __init__(self, tower, hidden_size):
        super().__init__()
        self.mm_soft_emb_norm = RMSNorm(tower.hidden_size, tower.layer_norm_eps, tower.dtype, offset=1.0)
        sizes = (tower.hidden_size, hidden_size)
        self.mm_input_projection = transposed_linear("../mm_input_projection_weight", *sizes, tower.dtype)

    def construct(self, x, places):
        """x [P, hidden_size of the tower]; of each place in a square, its row in every square."""
        return self.mm_input_projection(self.mm_soft_emb_norm.plain(mean_rows(x, places)))


class Gemma3SeeingLayer(Gemma3Layer):
    def __init__(self, config, layer_id):
        super().__init__(config, layer_id, whole_images=config.runtime.towers)


class Gemma3ForConditionalGeneration(Multimodal):
    decoders = ("gemma3_text",)
    layer_class = Gemma3SeeingLayer
    towers = ("vision_tower", "multi_modal_projector")
    whole_images = True
    tensor_names = {
        "model": "language_model.model",
        "lm_head": "language_model.lm_head",
        "vision_tower": "vision_tower.vision_model",
    }
    # As transformers 5 saves them.
    other_tensor_names = ({"model": "language_model.model", "lm_head": "language_model.lm_head"}, OF_MODULES)

    def make_towers(self, hf_config, runtime):
        read = Gemma3VisionConfig.read(self.own_config(hf_config), runtime=runtime)
        self.vision_config = SiglipVisionConfig.read(hf_config["vision_config"], runtime=runtime)
        self.merge = read.merge(self.vision_config.side)
        chunk, tokens = runtime.max_prefill_tokens, read.mm_tokens_per_image
        if 0 < chunk < tokens:
            raise UnsupportedConfig(
                f"an image of {tokens} tokens is computed in one chunk: --chunked-prefill-size {chunk} is too small"
            )
        self.vision_tower = SiglipVisionTower(self.vision_config)
        self.multi_modal_projector = Gemma3Projector(self.vision_config, self.config.hidden_size)

    def vision_inputs(self, feature, modality, known):
        made, side = inputs_of_squares(feature, self.vision_config), self.vision_config.side
        firsts = np.arange(0, len(made.patches), side * side)  # of each image
        squares = grids.squares(side, side, self.merge) + firsts[:, None, None]
        corners = np.ascontiguousarray(squares.reshape(-1, self.merge**2).T, np.int32)
        return made._replace(indices=(*made.indices, *corners))

    def vision(self, patches, places, bounds, *corners):
        return self.multi_modal_projector(self.vision_tower(patches, places, bounds), corners)

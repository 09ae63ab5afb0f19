"""LLaVA 1.5: CLIP's patches, through a projector of two matrices, in the place of image tokens.

Reference: transformers/models/llava/modeling_llava.py.
"""

import numpy as np
from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.linear import Linear
from sglang.srt.layers_ms.vision import ACTIVATIONS, linear
from sglang.srt.models_ms.config import UnsupportedConfig, key
from sglang.srt.models_ms.multimodal import Multimodal, TowerConfig, VisionInputs
from sglang.srt.models_ms.vision.clip import CLIPVisionConfig, CLIPVisionTower
from sglang.srt.models_ms.vision.patches import even_bounds, patches_of

ROLES = {
    "text_config": "the decoder's config reads it",
    "vision_config": "the tower's config reads it",
    "image_token_index": "SGLang's processor reads it",
    "image_token_id": "SGLang's processor reads it",
    "image_seq_length": "the processor reads it",
    "tie_word_embeddings": "the decoder's config reads it",
}


class LlavaConfig(TowerConfig):
    projector_hidden_act: str = key("projector_hidden_act", "gelu", accepted=ACTIVATIONS)
    vision_feature_layer: int = key("vision_feature_layer", -2)
    select: str = key("vision_feature_select_strategy", "default", accepted=("default", "full"))
    projector_bias: bool = key("multimodal_projector_bias", True)
    ignored = ROLES

    def tower_layers(self, layers: int) -> int:
        """How many of a tower's layers are computed; UnsupportedConfig where the config names none of them."""
        wanted = self.vision_feature_layer
        found = layers + 1 + wanted if isinstance(wanted, int) and wanted < 0 else wanted
        if not isinstance(found, int) or not 0 < found <= layers:
            raise UnsupportedConfig(
                f"vision_feature_layer = {wanted!r} is not supported for a tower of {layers} layers"
            )
        return found


class LlavaProjector(nn.Cell):
    """linear_2(act(linear_1(x)))"""

    def __init__(self, config, in_features, hidden_size):
        super().__init__()
        self.kind, bias, dtype = config.projector_hidden_act, config.projector_bias, config.dtype
        self.linear_1: Linear = linear(in_features, hidden_size, bias, dtype)
        self.linear_2: Linear = linear(hidden_size, hidden_size, bias, dtype)

    def construct(self, x):
        return self.linear_2(ops.activate(self.linear_1(x), self.kind))


class LlavaForConditionalGeneration(Multimodal):
    decoders = ("llama", "mistral", "qwen2")
    towers = ("vision_tower", "multi_modal_projector")
    tensor_names = {
        "model": "language_model.model",
        "lm_head": "language_model.lm_head",
        "vision_tower": "vision_tower.vision_model",
    }
    # As transformers 5 saves them.
    other_tensor_names = ({"model": "language_model.model", "lm_head": "language_model.lm_head"},)

    own_config_class = LlavaConfig

    def make_towers(self, hf_config, runtime):
        self.own = read = self.own_config_class.read(self.own_config(hf_config), runtime=runtime)
        self.vision_config = CLIPVisionConfig.read(_of_clip(hf_config["vision_config"]), runtime=runtime)
        self.keeps_class_token = read.select == "full"
        layers = read.tower_layers(self.vision_config.num_hidden_layers)
        self.vision_tower = CLIPVisionTower(self.vision_config, layers)
        self.multi_modal_projector = LlavaProjector(read, self.vision_config.hidden_size, self.config.hidden_size)

    def vision_inputs(self, feature, modality, known):
        images = feature.reshape(-1, *feature.shape[-3:])
        patches, count = [patches_of(image, self.vision_config.patch_size) for image in images], len(images)
        rows = self.vision_config.patches + 1
        with_class = np.zeros((count, rows, patches[0].shape[1]), np.float32)
        with_class[:, 1:] = patches
        places = np.tile(np.arange(rows, dtype=np.int32), count)
        class_rows = np.where(places == 0, 0, -1).astype(np.int32)
        kept = np.flatnonzero(places >= (0 if self.keeps_class_token else 1)).astype(np.int32)
        indices = (places, class_rows, even_bounds(count, rows), kept)
        return VisionInputs(with_class.reshape(count * rows, -1), indices)

    def vision(self, patches, places, class_rows, bounds, kept):
        x = self.vision_tower(patches, places, class_rows, bounds)
        return self.multi_modal_projector(ops.take_rows(x, kept))


def _of_clip(vision_config: dict) -> dict:
    kind = vision_config.get("model_type")
    if kind != "clip_vision_model":
        raise UnsupportedConfig(f"vision_config.model_type = {kind!r} is not supported, only 'clip_vision_model'")
    return vision_config

"""LLaVA 1.5: a tower's patches, through a projector of two matrices, in the place of image tokens.

With Pixtral's tower it is Pixtral, as transformers names it. Reference: transformers/models/llava/modeling_llava.py.
"""

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.linear import Linear
from sglang.srt.layers_ms.vision import ACTIVATIONS, linear
from sglang.srt.models_ms.config import UnsupportedConfig, key
from sglang.srt.models_ms.multimodal import OF_MODULES, Multimodal, TowerConfig
from sglang.srt.models_ms.vision.features import features_of

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
    other_tensor_names = ({"model": "language_model.model", "lm_head": "language_model.lm_head"}, OF_MODULES)

    own_config_class, projector_class = LlavaConfig, LlavaProjector
    tower_kinds = ("clip_vision_model", "siglip_vision_model", "pixtral")

    def make_towers(self, hf_config, runtime):
        self.own = self.read_own(hf_config, runtime)
        self.features = features_of(hf_config["vision_config"], self.own, runtime, self.tower_kinds)
        self.vision_config, self.vision_tower = self.features.config, self.features.tower
        sizes = (self.vision_config.hidden_size, self.config.hidden_size)
        self.multi_modal_projector = self.projector_class(self.own, *sizes)

    def read_own(self, hf_config, runtime) -> LlavaConfig:
        """What of config.json is neither the decoder's nor the tower's."""
        return self.own_config_class.read(self.own_config(hf_config), runtime=runtime)

    def vision_inputs(self, feature, modality, known):
        return self.features.inputs(feature, known)

    def vision(self, patches, *indices):
        return self.multi_modal_projector(self.features.rows(patches, *indices))

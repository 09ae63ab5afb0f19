"""What LLaVA's models take of a tower, by its model_type: of which layer, and which rows."""

from collections.abc import Mapping

import numpy as np

from sglang.srt.layers_ms import ops
from sglang.srt.models_ms.config import UnsupportedConfig
from sglang.srt.models_ms.multimodal import VisionInputs
from sglang.srt.models_ms.vision import grids
from sglang.srt.models_ms.vision.clip import CLIPVisionConfig, CLIPVisionTower
from sglang.srt.models_ms.vision.patches import even_bounds, patches_of
from sglang.srt.models_ms.vision.pixtral import PixtralVisionConfig, PixtralVisionTower
from sglang.srt.models_ms.vision.siglip import SiglipVisionConfig, SiglipVisionTower, inputs_of_squares


class Features:
    """A tower, and how images become its inputs. own: the LlavaConfig."""

    config_class = tower_class = None
    indices = 0  # how many arrays `inputs` makes beside patches

    def __init__(self, vision_config: Mapping, own, runtime):
        self.config = self.config_class.read(vision_config, runtime=runtime)
        self.tower = self.tower_class(self.config, own.tower_layers(self.config.num_hidden_layers))

    def inputs(self, feature: np.ndarray, known: Mapping[str, np.ndarray]) -> VisionInputs:
        """As Multimodal.vision_inputs."""
        raise NotImplementedError

    def rows(self, patches, *indices):
        """What the projector is given."""
        return self.tower(patches, *indices)


class ClipFeatures(Features):
    """Squares of one size; the row of the class token is left out."""

    config_class, tower_class, indices = CLIPVisionConfig, CLIPVisionTower, 4

    def __init__(self, vision_config, own, runtime):
        super().__init__(vision_config, own, runtime)
        self.keeps_class_token = own.select == "full"

    def inputs(self, feature, known):
        images = feature.reshape(-1, *feature.shape[-3:])
        patches, count = [patches_of(image, self.config.patch_size) for image in images], len(images)
        rows = self.config.patches + 1
        with_class = np.zeros((count, rows, patches[0].shape[1]), np.float32)
        with_class[:, 1:] = patches
        places = np.tile(np.arange(rows, dtype=np.int32), count)
        class_rows = np.where(places == 0, 0, -1).astype(np.int32)
        kept = np.flatnonzero(places >= (0 if self.keeps_class_token else 1)).astype(np.int32)
        indices = (places, class_rows, even_bounds(count, rows), kept)
        return VisionInputs(with_class.reshape(count * rows, -1), indices)

    def rows(self, patches, *indices):
        *indices, kept = indices
        return ops.take_rows(self.tower(patches, *indices), kept)


class SiglipFeatures(Features):
    """Squares of one size, of which every row counts."""

    config_class, tower_class, indices = SiglipVisionConfig, SiglipVisionTower, 2

    def __init__(self, vision_config, own, runtime):
        _check_full(own, "siglip_vision_model")
        super().__init__(vision_config, own, runtime)

    def inputs(self, feature, known):
        return inputs_of_squares(feature, self.config)


class PixtralFeatures(Features):
    """Images of any size."""

    config_class, tower_class, indices = PixtralVisionConfig, PixtralVisionTower, 3

    def __init__(self, vision_config, own, runtime):
        _check_full(own, "pixtral")
        super().__init__(vision_config, own, runtime)

    def inputs(self, feature, known):
        config, patches, turns, lengths = self.config, [], [], []
        images = zip(feature, known["image_sizes"].reshape(-1, 2), strict=True)
        for image, (height, width) in images:  # beyond its size an image is padding
            patches.append(patches_of(image[:, :height, :width], config.patch_size))
            places = np.indices((int(height) // config.patch_size, int(width) // config.patch_size)).reshape(2, -1)
            turns.append(grids.angles_in_turns(*places, config.head_dim, config.theta))
            lengths.append(places.shape[1])
        turn = np.concatenate(turns)
        tables = (np.cos(turn).astype(np.float32), np.sin(turn).astype(np.float32))
        return VisionInputs(np.concatenate(patches), (*tables, grids.bounds(np.array(lengths))))


def _check_full(own, kind: str) -> None:
    if own.select != "full":
        raise UnsupportedConfig(
            f"vision_feature_select_strategy = {own.select!r} is not supported for {kind}, which has no class token, "
            "only 'full'"
        )


KINDS = {"clip_vision_model": ClipFeatures, "pixtral": PixtralFeatures, "siglip_vision_model": SiglipFeatures}


def features_of(vision_config: Mapping, own, runtime, kinds=tuple(KINDS)) -> Features:
    """By model_type, one of `kinds`."""
    kind = vision_config.get("model_type")
    if kind not in kinds:
        raise UnsupportedConfig(f"vision_config.model_type = {kind!r} is not supported, only {list(kinds)}")
    return KINDS[kind](vision_config, own, runtime)

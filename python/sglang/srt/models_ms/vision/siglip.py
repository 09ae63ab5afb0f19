"""SigLIP's vision transformer: learned positions, a bias of patches, no class token, a norm behind the layers.

References: transformers/models/siglip/modeling_siglip.py, transformers/models/idefics3/modeling_idefics3.py.
"""

import numpy as np
from mindspore import nn

from sglang.srt.layers_ms import LayerNorm, ops
from sglang.srt.layers_ms.vision import ACTIVATIONS, PatchEmbedding, Table
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.multimodal import VisionInputs
from sglang.srt.models_ms.vision.clip import CLIPEncoder, CLIPVisionConfig
from sglang.srt.models_ms.vision.patches import even_bounds, patches_of


class SiglipVisionConfig(CLIPVisionConfig):
    patch_size: int = key("patch_size", 16)
    layer_norm_eps: float = key("layer_norm_eps", 1e-6)
    hidden_act: str = key("hidden_act", "gelu_pytorch_tanh", accepted=ACTIVATIONS)
    ignored = {"vision_use_head": "of a head that compares images with texts"}


def inputs_of_squares(feature: np.ndarray, config: SiglipVisionConfig) -> VisionInputs:
    """Images [..., channels, image_size, image_size] -> what SiglipVisionTower computes of them."""
    images = feature.reshape(-1, *feature.shape[-3:])
    patches = np.concatenate([patches_of(image, config.patch_size) for image in images])
    places = np.tile(np.arange(config.patches, dtype=np.int32), len(images))
    return VisionInputs(patches, (places, even_bounds(len(images), config.patches)))


class SiglipEmbeddings(nn.Cell):
    def __init__(self, config):
        super().__init__()
        kernel = (config.num_channels, config.patch_size, config.patch_size)
        self.patch_embedding = PatchEmbedding(kernel, config.hidden_size, True, config.dtype)
        self.position_embedding = Table(config.patches, config.hidden_size, config.dtype)

    def construct(self, patches, places):
        return ops.add(self.patch_embedding(patches), self.position_embedding(places), 1.0)


class SiglipVisionTower(nn.Cell):
    """layers: how many of them are computed; the norm follows where they are all."""

    def __init__(self, config, layers: int | None = None):
        super().__init__()
        self.embeddings = SiglipEmbeddings(config)
        self.encoder = CLIPEncoder(config, config.num_hidden_layers if layers is None else layers)
        self.post_layernorm = None
        if layers is None:
            self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps, config.dtype)

    def construct(self, patches, places, bounds):
        """patches [P, n], places [P] of their images, bounds [S + 1] of images -> [P, hidden_size]."""
        x = self.encoder(self.embeddings(patches, places), bounds)
        return x if self.post_layernorm is None else self.post_layernorm.plain(x)

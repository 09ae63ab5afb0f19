"""CLIP's vision transformer: a class token before the patches of an image, learned positions.

Reference: transformers/models/clip/modeling_clip.py.
"""

from mindspore import nn

from sglang.srt.layers_ms import LayerNorm, ops
from sglang.srt.layers_ms.vision import ACTIVATIONS, PatchEmbedding, Table, VisionAttention, VisionMLP
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.multimodal import TowerConfig


class CLIPVisionConfig(TowerConfig):
    hidden_size: int = key("hidden_size", 768)
    intermediate_size: int = key("intermediate_size", 3072)
    num_hidden_layers: int = key("num_hidden_layers", 12)
    num_attention_heads: int = key("num_attention_heads", 12)
    image_size: int = key("image_size", 224)
    patch_size: int = key("patch_size", 32)
    num_channels: int = key("num_channels", 3)
    layer_norm_eps: float = key("layer_norm_eps", 1e-5)
    hidden_act: str = key("hidden_act", "quick_gelu", accepted=ACTIVATIONS)
    ignored = {
        "initializer_factor": "training",
        "projection_dim": "of a head that compares images with texts",
        "logit_scale_init_value": "training",
        "vocab_size": "of CLIP's text model",
    }

    @property
    def side(self) -> int:
        """Patches of an image, in height and in width."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Of an image, the class token not counted."""
        return self.side**2


class CLIPEmbeddings(nn.Cell):
    def __init__(self, config):
        super().__init__()
        kernel, hidden, dtype = (config.num_channels,) + (config.patch_size,) * 2, config.hidden_size, config.dtype
        self.patch_embedding = PatchEmbedding(kernel, hidden, False, dtype)
        self.class_embedding = Table(1, hidden, dtype, "../class_embedding", (hidden,))
        self.position_embedding = Table(config.patches + 1, hidden, dtype)

    def construct(self, patches, places, class_rows):
        x = ops.add(self.patch_embedding(patches), self.position_embedding(places), 1.0)
        return ops.add(x, self.class_embedding(class_rows), 1.0)


class CLIPLayer(nn.Cell):
    def __init__(self, config):
        super().__init__()
        self.self_attn, self.mlp = VisionAttention(config), VisionMLP(config)
        self.layer_norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps, config.dtype)
        self.layer_norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps, config.dtype)

    def construct(self, x, bounds):
        x = ops.add(x, self.self_attn(self.layer_norm1.plain(x), bounds), 1.0)
        return ops.add(x, self.mlp(self.layer_norm2.plain(x)), 1.0)


class CLIPEncoder(nn.Cell):
    def __init__(self, config, layers):
        super().__init__()
        self.layers = nn.CellList([CLIPLayer(config) for _ in range(layers)])

    def construct(self, x, bounds):
        for layer in self.layers:
            x = layer(x, bounds)
        return x


class CLIPVisionTower(nn.Cell):
    """layers: how many of them are computed; what follows them is not."""

    def __init__(self, config, layers: int):
        super().__init__()
        self.embeddings = CLIPEmbeddings(config)
        self.pre_layrnorm = LayerNorm(config.hidden_size, config.layer_norm_eps, config.dtype)
        self.encoder = CLIPEncoder(config, layers)

    def construct(self, patches, places, class_rows, bounds):
        """patches [P, n], of zeros for class tokens; places [P] of their images; class_rows [P], 0 or -1: no token."""
        return self.encoder(self.pre_layrnorm.plain(self.embeddings(patches, places, class_rows)), bounds)

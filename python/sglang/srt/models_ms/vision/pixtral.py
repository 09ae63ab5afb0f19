"""Pixtral's vision transformer: images of any size, rotary positions, no class token.

Reference: transformers/models/pixtral/modeling_pixtral.py.
"""

from mindspore import nn

from sglang.srt.layers_ms import RMSNorm, ops
from sglang.srt.layers_ms.vision import GATED, GatedVisionMLP, PatchEmbedding, VisionAttention
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.multimodal import TowerConfig

EPS = 1e-5  # of all norms


class PixtralVisionConfig(TowerConfig):
    hidden_size: int = key("hidden_size", 1024)
    intermediate_size: int = key("intermediate_size", 4096)
    num_hidden_layers: int = key("num_hidden_layers", 24)
    num_attention_heads: int = key("num_attention_heads", 16)
    num_channels: int = key("num_channels", 3)
    patch_size: int = key("patch_size", 16)
    hidden_act: str = key("hidden_act", "gelu", accepted=GATED)
    theta: float = key("rope_parameters.rope_theta", 10000.0, aliases=("rope_theta",))
    expected = dict.fromkeys(("rope_parameters.rope_type", "rope_parameters.type"), ("axial", "default"))
    ignored = {
        "image_size": "the processor reads it",
        "head_dim": "hidden_size / num_attention_heads",
    }

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def norm(self):
        return RMSNorm(self.hidden_size, EPS, self.dtype)


class PixtralLayer(nn.Cell):
    def __init__(self, config):
        super().__init__()
        self.attention = VisionAttention(config, bias=False, out="o_proj")
        self.feed_forward = GatedVisionMLP(config, bias=False)
        self.attention_norm, self.ffn_norm = config.norm(), config.norm()

    def construct(self, x, bounds, cos, sin):
        x = ops.add(x, self.attention(self.attention_norm.plain(x), bounds, cos, sin), 1.0)
        return ops.add(x, self.feed_forward(self.ffn_norm.plain(x)), 1.0)


class PixtralTransformer(nn.Cell):
    def __init__(self, config, layers):
        super().__init__()
        self.layers = nn.CellList([PixtralLayer(config) for _ in range(layers)])

    def construct(self, x, bounds, cos, sin):
        for layer in self.layers:
            x = layer(x, bounds, cos, sin)
        return x


class PixtralVisionTower(nn.Cell):
    """layers: how many of them are computed."""

    def __init__(self, config, layers: int):
        super().__init__()
        kernel = (config.num_channels, config.patch_size, config.patch_size)
        self.patch_conv = PatchEmbedding(kernel, config.hidden_size, False, config.dtype)
        self.ln_pre, self.transformer = config.norm(), PixtralTransformer(config, layers)

    def construct(self, patches, cos, sin, bounds):
        """patches [P, n], cos and sin [P, D / 2], bounds of images -> [P, hidden_size]."""
        return self.transformer(self.ln_pre.plain(self.patch_conv(patches)), bounds, cos, sin)

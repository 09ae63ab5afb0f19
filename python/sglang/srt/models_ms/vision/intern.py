"""InternVL's vision transformer: a class token, learned positions, layers whose results are scaled.

References: transformers/models/internvl/modeling_internvl.py; modeling_intern_vit.py of OpenGVLab/InternVL3-8B.
"""

from mindspore import nn

from sglang.srt.layers_ms import LayerNorm, RMSNorm, concatenated, ops
from sglang.srt.layers_ms.norm import RowNorm
from sglang.srt.layers_ms.vision import (
    ACTIVATIONS,
    PatchEmbedding,
    Table,
    VisionAttention,
    VisionMLP,
    scale_outputs,
)
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.multimodal import TowerConfig

NORMS = {"layer_norm": LayerNorm, "rms_norm": RMSNorm}


def _side(size) -> int:
    """Of a square whose two sides a config may give."""
    return size[0] if isinstance(size, (list, tuple)) else size


class InternVisionConfig(TowerConfig):
    hidden_size: int = key("hidden_size", 1024)
    intermediate_size: int = key("intermediate_size", 4096)
    num_hidden_layers: int = key("num_hidden_layers", 24)
    num_attention_heads: int = key("num_attention_heads", 16)
    num_channels: int = key("num_channels", 3)
    image_size: int = key("image_size", 448, convert=_side)
    patch_size: int = key("patch_size", 14, convert=_side)
    layer_norm_eps: float = key("layer_norm_eps", 1e-6)
    hidden_act: str = key("hidden_act", "gelu", accepted=ACTIVATIONS)
    attention_bias: bool = key("attention_bias", False)
    norm_type: str = key("norm_type", "layer_norm", accepted=NORMS)
    use_mean_pooling: bool = key("use_mean_pooling", True)
    qk_norm: bool = key("use_qk_norm", False)  # over all heads of a row together
    fused_qkv = None  # as QKVParallelLinear's
    expected = {"use_mask_token": (False, True), "use_absolute_position_embeddings": True}
    ignored = {
        "layer_scale_init_value": "training",
        "projection_dropout": "training",
        "use_mask_token": "training",
    }

    @property
    def patches(self) -> int:
        """Of an image, the class token not counted."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_key_value_heads(self) -> int:
        return self.num_attention_heads

    @property
    def rms_norm_eps(self) -> float:
        """Of queries and keys."""
        return self.layer_norm_eps

    def norm(self):
        return NORMS[self.norm_type](self.hidden_size, self.layer_norm_eps, self.dtype)


class InternChatVisionConfig(InternVisionConfig):
    """As it was first published."""

    # SGLang's processor makes tiles of this size.
    image_size: int = key("image_size", 448, accepted=(448,), convert=_side)
    attention_bias: bool = key("qkv_bias", False)
    norm_type: str = key("norm_type", "rms_norm", accepted=NORMS)
    qk_norm: bool = key("qk_normalization", True)
    fused_qkv = staticmethod(concatenated)
    ignored = dict.fromkeys(("drop_path_rate", "initializer_factor"), "training")


class InternPatches(nn.Cell):
    def __init__(self, config):
        super().__init__()
        kernel = (config.num_channels, config.patch_size, config.patch_size)
        self.projection = PatchEmbedding(kernel, config.hidden_size, True, config.dtype)

    def construct(self, patches):
        return self.projection(patches)


class InternEmbeddings(nn.Cell):
    def __init__(self, config):
        super().__init__()
        hidden, rows = config.hidden_size, config.patches + 1
        self.patch_embeddings = InternPatches(config)
        self.cls_token = Table(1, hidden, config.dtype, "../cls_token", (1, 1, hidden))
        self.position_embeddings = Table(rows, hidden, config.dtype, "../position_embeddings", (1, rows, hidden))

    def construct(self, patches, patch_rows, places, class_rows):
        x = ops.take_rows(self.patch_embeddings(patches), patch_rows)
        x = ops.add(x, self.position_embeddings(places), 1.0)
        return ops.add(x, self.cls_token(class_rows), 1.0)


class InternVisionLayer(nn.Cell):
    """Factors of columns, lambda_1 and lambda_2, become part of the matrices before them."""

    def __init__(self, config):
        super().__init__()
        norm = RowNorm(config) if config.qk_norm else None
        form = dict(bias=config.attention_bias, out_bias=True, fused_qkv=config.fused_qkv, norm=norm)
        self.attention = VisionAttention(config, out="projection_layer", **form)
        self.mlp = VisionMLP(config)
        self.layernorm_before, self.layernorm_after = config.norm(), config.norm()
        hidden, dtype = config.hidden_size, config.dtype
        self.lambda_1 = Table(1, hidden, dtype, "../lambda_1", (hidden,))
        self.lambda_2 = Table(1, hidden, dtype, "../lambda_2", (hidden,))

    def process_weights_after_loading(self):
        """Before the matrices are packed: a cell comes before those in it."""
        scale_outputs(self.attention.projection_layer, self.lambda_1)
        scale_outputs(self.mlp.fc2, self.lambda_2)

    def construct(self, x, bounds):
        x = ops.add(x, self.attention(self.layernorm_before.plain(x), bounds), 1.0)
        return ops.add(x, self.mlp(self.layernorm_after.plain(x)), 1.0)


class InternEncoder(nn.Cell):
    def __init__(self, config, layers):
        super().__init__()
        self.layer = nn.CellList([InternVisionLayer(config) for _ in range(layers)])

    def construct(self, x, bounds):
        for layer in self.layer:
            x = layer(x, bounds)
        return x


class InternVisionTower(nn.Cell):
    def __init__(self, config):
        super().__init__()
        self.embeddings = InternEmbeddings(config)
        self.encoder = InternEncoder(config, config.num_hidden_layers)
        last = None if config.use_mean_pooling else LayerNorm(config.hidden_size, config.layer_norm_eps, config.dtype)
        self.layernorm = last

    def construct(self, patches, patch_rows, places, class_rows, bounds):
        """patches [P, n]; patch_rows [T], -1: a class token; places [T] of their images; class_rows [T], 0 or -1."""
        x = self.encoder(self.embeddings(patches, patch_rows, places, class_rows), bounds)
        return x if self.layernorm is None else self.layernorm.plain(x)

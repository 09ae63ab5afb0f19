"""The vision transformers of Qwen2-VL and Qwen2.5-VL: images of any size, rotary positions, patches merged by four.

References: transformers/models/qwen2_vl/modeling_qwen2_vl.py, transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py.
"""

from mindspore import nn

from sglang.srt.layers_ms import LayerNorm, RMSNorm, concatenated, ops
from sglang.srt.layers_ms.vision import ACTIVATIONS, GatedVisionMLP, PatchEmbedding, VisionAttention, VisionMLP, linear
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.multimodal import TowerConfig

EPS = 1e-6  # of all norms


class QwenVisionConfig(TowerConfig):
    depth: int = key("depth")
    num_attention_heads: int = key("num_heads")
    in_channels: int = key("in_channels", 3, aliases=("in_chans",))
    patch_size: int = key("patch_size", 14, aliases=("spatial_patch_size",))
    temporal_patch_size: int = key("temporal_patch_size", 2)
    spatial_merge_size: int = key("spatial_merge_size", 2)
    theta: float = key("rope_parameters.rope_theta", 10000.0)
    expected = dict.fromkeys(("rope_parameters.rope_type", "rope_parameters.type"), ("axial", "default"))
    layer_norm = False  # whether norms subtract a mean
    window_size = 0  # pixels; 0: every layer sees the whole image
    full_layers = None  # those that see the whole image where there are windows

    @property
    def kernel(self) -> tuple[int, ...]:
        return (self.in_channels, self.temporal_patch_size, self.patch_size, self.patch_size)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def norm(self):
        kind = LayerNorm if self.layer_norm else RMSNorm
        return kind(self.hidden_size, EPS, self.dtype)


class Qwen2VisionConfig(QwenVisionConfig):
    hidden_size: int = key("embed_dim")
    out_hidden_size: int = key("hidden_size")
    hidden_act: str = key("hidden_act", "quick_gelu", accepted=ACTIVATIONS)
    mlp_ratio: float = key("mlp_ratio", 4)
    layer_norm = True

    @property
    def intermediate_size(self) -> int:
        return int(self.hidden_size * self.mlp_ratio)

    def mlp(self):
        return VisionMLP(self)


class Qwen2_5VisionConfig(QwenVisionConfig):
    hidden_size: int = key("hidden_size")
    intermediate_size: int = key("intermediate_size")
    out_hidden_size: int = key("out_hidden_size")
    window_size: int = key("window_size")
    full_layers: tuple = key("fullatt_block_indexes", convert=tuple)
    hidden_act: str = key("hidden_act", "silu", accepted=("silu",))
    ignored = {"tokens_per_second": "SGLang's processor makes positions"}

    def mlp(self):
        return GatedVisionMLP(self)


class QwenPatchEmbedding(nn.Cell):
    def __init__(self, config):
        super().__init__()
        self.proj = PatchEmbedding(config.kernel, config.hidden_size, False, config.dtype)

    def construct(self, patches):
        return self.proj(patches)


class QwenVisionBlock(nn.Cell):
    def __init__(self, config):
        super().__init__()
        self.norm1, self.norm2, self.mlp = config.norm(), config.norm(), config.mlp()
        self.attn = VisionAttention(config, out="proj", fused_qkv=concatenated)

    def construct(self, x, bounds, cos, sin):
        x = ops.add(x, self.attn(self.norm1.plain(x), bounds, cos, sin), 1.0)
        return ops.add(x, self.mlp(self.norm2.plain(x)), 1.0)


class QwenPatchMerger(nn.Cell):
    """Neighboring rows, of a square of patches, as one -> [P / 4, out_hidden_size]."""

    def __init__(self, config):
        super().__init__()
        self.width = config.hidden_size * config.spatial_merge_size**2
        self.ln_q = config.norm()
        first = linear(self.width, self.width, True, config.dtype)
        self.mlp = nn.CellList([first, nn.Identity(), linear(self.width, config.out_hidden_size, True, config.dtype)])

    def construct(self, x):
        x = self.mlp[0](self.ln_q.plain(x).reshape(-1, self.width))
        return self.mlp[2](ops.activate(x, "gelu"))


class QwenVisionTower(nn.Cell):
    def __init__(self, config):
        super().__init__()
        self.patch_embed = QwenPatchEmbedding(config)
        self.blocks = nn.CellList([QwenVisionBlock(config) for _ in range(config.depth)])
        self.merger = QwenPatchMerger(config)
        self.full_layers = range(config.depth) if config.full_layers is None else config.full_layers

    def construct(self, patches, cos, sin, frames, windows, order):
        """patches [P, n] window by window; cos and sin [P, D / 2]; where frames and windows begin; order [P / 4]: where
        each merged row of the image lies among those of windows."""
        x = self.patch_embed(patches)
        for index, block in enumerate(self.blocks):
            x = block(x, frames if index in self.full_layers else windows, cos, sin)
        return ops.take_rows(self.merger(x), order)

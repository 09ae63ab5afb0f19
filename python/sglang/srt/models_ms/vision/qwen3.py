"""The vision transformer of Qwen3-VL: learned positions beside rotary ones, and rows of some layers for the decoder.

Reference: transformers/models/qwen3_vl/modeling_qwen3_vl.py.
"""

from mindspore import nn

from sglang.srt.layers_ms import LayerNorm, ops
from sglang.srt.layers_ms.vision import ACTIVATIONS, HostTable, PatchEmbedding, VisionMLP, linear
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.vision.qwen import EPS, QwenVisionBlock, QwenVisionConfig


class Qwen3VisionConfig(QwenVisionConfig):
    hidden_size: int = key("hidden_size")
    intermediate_size: int = key("intermediate_size")
    out_hidden_size: int = key("out_hidden_size")
    hidden_act: str = key("hidden_act", "gelu_pytorch_tanh", accepted=ACTIVATIONS)
    num_position_embeddings: int = key("num_position_embeddings")
    deepstack_layers: tuple = key("deepstack_visual_indexes", (), convert=tuple)
    layer_norm = True

    def mlp(self):
        return VisionMLP(self, ("linear_fc1", "linear_fc2"))


class Qwen3PatchEmbedding(nn.Cell):
    def __init__(self, config):
        super().__init__()
        self.proj = PatchEmbedding(config.kernel, config.hidden_size, True, config.dtype)

    def construct(self, patches):
        return self.proj(patches)


class Qwen3PatchMerger(nn.Cell):
    """Squares of patches as one row; merged_norm: whether they are normalized as such, or each patch before."""

    def __init__(self, config, merged_norm: bool):
        super().__init__()
        self.width, self.merged_norm = config.hidden_size * config.spatial_merge_size**2, merged_norm
        self.norm = LayerNorm(self.width if merged_norm else config.hidden_size, EPS, config.dtype)
        self.linear_fc1 = linear(self.width, self.width, True, config.dtype)
        self.linear_fc2 = linear(self.width, config.out_hidden_size, True, config.dtype)

    def construct(self, x):
        x = self.norm.plain(x.reshape(-1, self.width) if self.merged_norm else x).reshape(-1, self.width)
        return self.linear_fc2(ops.activate(self.linear_fc1(x), "gelu"))


class Qwen3VisionTower(nn.Cell):
    def __init__(self, config):
        super().__init__()
        self.patch_embed, self.pos_embed = (
            Qwen3PatchEmbedding(config),
            HostTable(config.num_position_embeddings, config.hidden_size, config.dtype),
        )
        self.blocks = nn.CellList([QwenVisionBlock(config) for _ in range(config.depth)])
        self.merger = Qwen3PatchMerger(config, False)
        self.deepstack_layers = config.deepstack_layers
        self.deepstack_merger_list = nn.CellList([Qwen3PatchMerger(config, True) for _ in config.deepstack_layers])

    def construct(self, patches, positions, cos, sin, frames):
        """patches [P, n], positions [P, hidden_size], cos and sin [P, D / 2], where frames begin ->
        [P / 4, out_hidden_size * (1 + deepstack)]."""
        x, deep = ops.add(self.patch_embed(patches), positions, 1.0), []
        for index, block in enumerate(self.blocks):
            x = block(x, frames, cos, sin)
            if index in self.deepstack_layers:
                deep.append(self.deepstack_merger_list[len(deep)](x))
        found = self.merger(x)
        for rows in deep:
            found = ops.concat_columns(found, rows)
        return found

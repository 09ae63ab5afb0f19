"""The blocks models are made of: they hold parameters and call operators.

This room imports layers_ms.ops, model_loader_ms.weight_slice and distributed_ms.
"""

from sglang.srt.layers_ms.attention import Attention
from sglang.srt.layers_ms.delta_net import DeltaHeads, GatedDeltaNet, packed_projections, separate_projections
from sglang.srt.layers_ms.dp_gather_scatter import DPGatherScatter
from sglang.srt.layers_ms.embedding import LMHead, ReplicatedEmbedding, VocabParallelEmbedding
from sglang.srt.layers_ms.kimi_delta import KimiDeltaAttention
from sglang.srt.layers_ms.linear import (
    ColumnParallelLinear,
    Linear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
    concatenated,
    interleaved_by_group,
)
from sglang.srt.layers_ms.mamba2 import Mamba2, Mamba2Sizes
from sglang.srt.layers_ms.mla import MLAAttention
from sglang.srt.layers_ms.mlp import MLP, XIELU, GatedMLP
from sglang.srt.layers_ms.moe import Experts, LatentMoeBlock, Router, Routing, SparseMoeBlock
from sglang.srt.layers_ms.norm import HeadNorms, LayerNorm, RMSNorm, RowNorm
from sglang.srt.layers_ms.short_conv import ShortConv

__all__ = [
    "Attention",
    "ColumnParallelLinear",
    "DPGatherScatter",
    "DeltaHeads",
    "Experts",
    "GatedDeltaNet",
    "GatedMLP",
    "HeadNorms",
    "KimiDeltaAttention",
    "LMHead",
    "LatentMoeBlock",
    "MLP",
    "MLAAttention",
    "Mamba2",
    "Mamba2Sizes",
    "LayerNorm",
    "Linear",
    "SparseMoeBlock",
    "QKVParallelLinear",
    "RMSNorm",
    "ReplicatedEmbedding",
    "Router",
    "Routing",
    "RowNorm",
    "RowParallelLinear",
    "ShortConv",
    "VocabParallelEmbedding",
    "interleaved_by_group",
    "MergedColumnParallelLinear",
    "XIELU",
    "concatenated",
    "packed_projections",
    "separate_projections",
]

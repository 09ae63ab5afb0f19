"""The blocks models are made of: they hold parameters and call operators.

This room imports layers_ms.ops, model_loader_ms.pieces and distributed_ms.
"""

from sglang.srt.layers_ms.attention import Attention
from sglang.srt.layers_ms.embedding import LMHead, VocabEmbedding
from sglang.srt.layers_ms.exchange import Exchange
from sglang.srt.layers_ms.linear import ColumnLinear, Linear, QKVLinear, RowLinear, grouped, merged_linear, stacked
from sglang.srt.layers_ms.mla import LatentAttention
from sglang.srt.layers_ms.mlp import GatedMLP
from sglang.srt.layers_ms.moe import Experts, MixtureOfExperts, Router, Routing
from sglang.srt.layers_ms.norm import HeadNorms, LayerNorm, RMSNorm, RowNorm

__all__ = [
    "Attention",
    "ColumnLinear",
    "Exchange",
    "Experts",
    "GatedMLP",
    "HeadNorms",
    "LMHead",
    "LatentAttention",
    "LayerNorm",
    "Linear",
    "MixtureOfExperts",
    "QKVLinear",
    "RMSNorm",
    "Router",
    "Routing",
    "RowNorm",
    "RowLinear",
    "VocabEmbedding",
    "grouped",
    "merged_linear",
    "stacked",
]

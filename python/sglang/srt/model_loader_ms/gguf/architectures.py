"""llama.cpp's architectures: what their tensors are called in Hugging Face's checkpoints, and how they were changed.

Reference: llama.cpp's converter, and its names in gguf.constants.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from sglang.srt.model_loader_ms.gguf.block_types import PLAIN
from sglang.srt.model_loader_ms.gguf.header import GGUFError, Header, TensorInfo
from sglang.srt.model_loader_ms.gguf.tensors import (
    BlockValues,
    Change,
    Tensor,
    join_keys_and_values,
    tensor,
    unpermuted,
)

_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
_GEMMA_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# Tensors that are the config's (config.py), or can be computed from it.
_OF_CONFIG = re.compile(r"^(?:rope_freqs|rope_factors_(?:long|short)|blk\.\d+\.attn_rot_embd)\.weight$")
_IN_LAYER = re.compile(r"^blk\.(\d+)\.([^.]+)\.(weight|bias)$")
_NO_LAYER = re.compile(r"^([^.]+)\.(weight|bias)$")


@dataclass(frozen=True)
class Architecture:
    """names: of layers' tensors, beside those that all have. permuted: whether rows of q and k are.

    norms_plus_one: whether those of norms are stored so. exact: tensors with suffixes of their own, {} is the layer.
    """

    names: dict[str, str] = field(default_factory=dict)
    permuted: bool = False
    norms_plus_one: bool = False
    exact: dict[str, str] = field(default_factory=dict)
    rearrange: Callable[[dict], None] = lambda tensors: None  # what else differs, of the tensors by their names


def _one_row(tensors: dict[str, Tensor]) -> None:
    """The gate of the shared expert is a vector in the file."""
    for name, one in tensors.items():
        if name.endswith("mlp.shared_expert_gate.weight") and len(one.shape) == 1:
            tensors[name] = one._replace(shape=(1, *one.shape), data=one.data.view(1, -1))


def _norm_each_head(tensors: dict[str, Tensor]) -> None:
    """Norms of heads are one tensor in the file, and one a head elsewhere."""
    for name in [name for name in tensors if re.search(r"self_attn\.[qk]_norm\.weight$", name)]:
        one = tensors.pop(name)
        for head in range(one.shape[0]):
            place = name.replace("_norm.weight", f"_layernorm.norms.{head}.weight")
            tensors[place] = one._replace(shape=one.shape[1:], data=one.data[head])


MIXTRAL = Architecture(
    {name: place.replace("mlp.", "block_sparse_moe.") for name, place in _EXPERTS.items()}, permuted=True
)
ARCHITECTURES = {
    "llama": Architecture(permuted=True),
    "qwen2": Architecture(),
    "qwen2moe": Architecture(
        _EXPERTS
        | {
            "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
            "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
            "ffn_up_shexp": "mlp.shared_expert.up_proj",
            "ffn_down_shexp": "mlp.shared_expert.down_proj",
        },
        rearrange=_one_row,
    ),
    "qwen3": Architecture(),
    "qwen3moe": Architecture(_EXPERTS),
    "gemma": Architecture(norms_plus_one=True),
    "gemma2": Architecture(_GEMMA_NORMS, norms_plus_one=True),
    "gemma3": Architecture(_GEMMA_NORMS, norms_plus_one=True),
    "phi3": Architecture({"ffn_up": "mlp.gate_up_proj"}),
    "stablelm": Architecture(rearrange=_norm_each_head),
    "gpt-oss": Architecture(
        _EXPERTS | {"ffn_gate_inp": "mlp.router", "post_attention_norm": "post_attention_layernorm"},
        exact={"attn_sinks.weight": "self_attn.sinks"},
    ),
    "deepseek2": Architecture(
        _EXPERTS
        | {
            "attn_q_a": "self_attn.q_a_proj",
            "attn_q_a_norm": "self_attn.q_a_layernorm",
            "attn_q_b": "self_attn.q_b_proj",
            "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
            "attn_kv_a_norm": "self_attn.kv_a_layernorm",
            "attn_kv_b": "self_attn.kv_b_proj",
            "attn_k_b": "self_attn.k_b_proj",
            "attn_v_b": "self_attn.v_b_proj",
            "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
            "ffn_up_shexp": "mlp.shared_experts.up_proj",
            "ffn_down_shexp": "mlp.shared_experts.down_proj",
        },
        exact={"exp_probs_b.bias": "mlp.gate.e_score_correction_bias"},
        rearrange=join_keys_and_values,
    ),
}


def architecture_of(metadata: dict) -> str:
    """The name of a file's architecture; GGUFError where its tensors are not known."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise GGUFError(f"general.architecture is {name!r}; served are {', '.join(ARCHITECTURES)}")
    return name


def tensors_of(headers: list[Header]) -> dict[str, Tensor]:
    """All tensors of a model's files by the names of Hugging Face's checkpoint. GGUFError."""
    metadata = headers[0].metadata
    name = architecture_of(metadata)
    architecture = ARCHITECTURES[name]
    if name == "llama" and metadata.get("llama.expert_count"):
        architecture = MIXTRAL
    heads = _heads(metadata, name)
    found = {}
    for header in headers:
        for info in header.tensors.values():
            if _OF_CONFIG.match(info.name):
                continue
            place = _place(info.name, architecture)
            if place in found:
                raise GGUFError(f"{info.name} is in more than one of {', '.join(one.path.name for one in headers)}")
            found[place] = tensor(header, info, _change(info, architecture, heads))
    architecture.rearrange(found)
    return found


def _heads(metadata: dict, name: str) -> dict[str, int]:
    """How many heads the rows of a permuted tensor are of."""
    query = metadata.get(f"{name}.attention.head_count", 1)
    return {"attn_q": query, "attn_k": metadata.get(f"{name}.attention.head_count_kv", query)}


def _place(name: str, architecture: Architecture) -> str:
    """Hugging Face's name; the file's own where that is not known, which the loader reports."""
    if layer := _IN_LAYER.match(name):
        number, leaf, suffix = layer.groups()
        if exact := architecture.exact.get(f"{leaf}.{suffix}"):
            return f"model.layers.{number}.{exact}"
        place = architecture.names.get(leaf) or _LAYER.get(leaf)
        return f"model.layers.{number}.{place}.{suffix}" if place else name
    whole = _NO_LAYER.match(name)
    return f"{_WHOLE[whole[1]]}.{whole[2]}" if whole and whole[1] in _WHOLE else name


def _change(info: TensorInfo, architecture: Architecture, heads: dict[str, int]) -> Change:
    leaf = info.name.split(".")[-2] if "." in info.name else ""
    if architecture.permuted and leaf in heads:
        try:
            return Change(order=unpermuted(info.shape[0], heads[leaf]))
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise GGUFError(f"{info.name} is {list(info.shape)}, and has {heads[leaf]!r} heads: {error}") from error
    if architecture.norms_plus_one and leaf.endswith("_norm"):
        return Change(added=-1.0)
    return Change()


def block_types(headers: list[Header]) -> dict[str, int]:
    """Type -> how many tensors have it, of those that are in blocks."""
    counted: dict[str, int] = {}
    for header in headers:
        for info in header.tensors.values():
            if info.type.name not in PLAIN:
                counted[info.type.name] = counted.get(info.type.name, 0) + 1
    return counted


def types_of(headers: list[Header]) -> dict[str, str]:
    """Layer, by its name in Hugging Face's checkpoint -> the type of its matrix, of those that are in blocks."""
    found = {}
    for name, one in tensors_of(headers).items():
        held = one.data
        if isinstance(held, BlockValues) and held.type.name not in PLAIN and len(one.shape) > 1:
            found[name.removesuffix(".weight")] = held.type.name
    return found

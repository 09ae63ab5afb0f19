"""Models as data: small random checkpoints of every variant that published checkpoints have.

No value is left at its default and no size divides another by accident, so that a value that is hard-coded or dropped
somewhere shows in the logits.
"""

import copy
import functools
import json
import math
from pathlib import Path

import torch
import transformers
from models import reference_models, step3p5
from models.variants import COMMON, blocks, experts, layouts, mla, newer, older, rope, states, windows
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from sglang.srt.model_executor_ms.seams.arguments import read_step_by_sglangs_class

LLAMA, MISTRAL, QWEN2, QWEN3 = (
    dict(COMMON, model_type="llama"),
    dict(COMMON, model_type="mistral", sliding_window=None, head_dim=14),
    dict(COMMON, model_type="qwen2"),
    dict(COMMON, model_type="qwen3", head_dim=18),
)
BUFFERS = ("e_score_correction_bias", "expert_bias", "layer_scalar")  # of routers, and of Gemma 4's layers


def mimo_config(written: dict) -> dict:
    changes = dict(num_nextn_predict_layers=1, attention_bias=True)
    return experts.published(written, "mimo", "MiMoForCausalLM", **changes)


def mimo_tensors(tensors: dict) -> dict:
    return tensors | {"model.mtp_layers.0.input_proj.weight": torch.ones(60, 120)}


YARN = rope("yarn", factor=5.0, original_max_position_embeddings=40, beta_fast=6.0, beta_slow=0.5)
TINY = {
    "llama": dict(LLAMA),
    "llama-mha": dict(LLAMA, num_key_value_heads=6),
    "llama-mqa": dict(LLAMA, num_key_value_heads=1),
    "llama-bias": dict(LLAMA, attention_bias=True),
    "llama-mlp-bias": dict(LLAMA, mlp_bias=True),
    "llama-gelu": dict(LLAMA, hidden_act="gelu"),
    "llama-gelu-tanh": dict(LLAMA, hidden_act="gelu_pytorch_tanh"),
    "llama-head-dim": dict(LLAMA, head_dim=24),
    "llama-tied": dict(LLAMA, tie_word_embeddings=True),
    "llama-linear": dict(LLAMA, **rope("linear", factor=3.0)),
    "llama-dynamic": dict(LLAMA, **rope("dynamic", factor=3.0), max_position_embeddings=32),
    "llama3": dict(
        LLAMA,
        **rope("llama3", factor=6.0, low_freq_factor=1.3, high_freq_factor=3.5, original_max_position_embeddings=32),
    ),
    "llama-yarn": dict(LLAMA, **YARN),
    "mistral": dict(MISTRAL),
    "mistral-mha": dict(MISTRAL, num_key_value_heads=6),
    "qwen2": dict(QWEN2),
    "mimo": dict(QWEN2),  # as its makers write it
    "qwen2-tied": dict(QWEN2, tie_word_embeddings=True),
    "qwen2-yarn": dict(QWEN2, **YARN),
    "qwen3": dict(QWEN3),
    "qwen3-tied": dict(QWEN3, tie_word_embeddings=True),
    "qwen3-yarn": dict(QWEN3, **YARN),
    "qwen3-bias": dict(QWEN3, attention_bias=True),
    **experts.VARIANTS,
    **blocks.VARIANTS,
    **mla.VARIANTS,
    **windows.VARIANTS,
    **layouts.VARIANTS,
    **states.VARIANTS,
    **newer.VARIANTS,
    **older.VARIANTS,
}
# What makers publish of a variant's config.json, where transformers writes it in another way.
PUBLISHED_CONFIGS = {**experts.PUBLISHED_CONFIGS, **mla.PUBLISHED_CONFIGS, **windows.PUBLISHED_CONFIGS}
PUBLISHED_CONFIGS |= {**states.PUBLISHED_CONFIGS, **newer.PUBLISHED_CONFIGS, **older.PUBLISHED_CONFIGS}
PUBLISHED_CONFIGS["mimo"] = mimo_config
PUBLISHED_TENSORS = {"mimo": mimo_tensors, **experts.PUBLISHED_TENSORS, **states.PUBLISHED_TENSORS}
PUBLISHED_TENSORS |= {**windows.PUBLISHED_TENSORS, **mla.PUBLISHED_TENSORS, **newer.PUBLISHED_TENSORS}
ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3"]  # the plain variant of each
# One of each kind, for which `make test` does what `make test-all` does for all: norms of queries and keys; biases;
# ALiBi; packed projections; a parallel residual; windows and soft caps; sinks; experts; latent attention; states.
KINDS = ["qwen3", "qwen2", "baichuan-13b", "chatglm", "cohere-qk-norm", "gemma2", "gpt_oss", "qwen3_moe", "deepseek_v3"]
KINDS += ["qwen3_5"]
# What the reference table computes as a graph, which takes it seconds a model; of the others it runs the operators one
# by one. test/ops compiles each of them, and the CPU's table compiles every variant.
COMPILED = KINDS
PLAIN = [*ARCHITECTURES, *blocks.PLAIN, *experts.PLAIN, *mla.PLAIN, *layouts.PLAIN, *windows.PLAIN, *states.PLAIN]
PLAIN += newer.PLAIN + older.PLAIN


def described(name: str) -> dict:
    """The config of a variant; llama@32: of llama with heads of 32 values, llama@h96: with a hidden_size of 96.

    For tables that compute only heads of such sizes. deepseek_v3@16, gemma4-shared@16: with several sizes, all
    multiples of 16. llama@ranks: of sizes that four ranks can divide; llama@ranks16: the same with heads of 16 values.
    """
    variant, _, size = name.partition("@")
    if not size:
        return TINY[variant]
    if size.startswith("ranks"):
        heads = size.removeprefix("ranks")
        return divisible(TINY[variant]) | ({"head_dim": int(heads)} if heads else {})
    if "kv_lora_rank" in TINY[variant]:
        unit = int(size)
        sizes = dict(kv_lora_rank=5 * unit, qk_nope_head_dim=3 * unit, qk_rope_head_dim=unit, v_head_dim=2 * unit)
        return TINY[variant] | sizes
    if "global_head_dim" in TINY[variant]:
        return TINY[variant] | dict(head_dim=int(size), global_head_dim=2 * int(size))
    if not size.startswith("h"):
        return TINY[variant] | {"head_dim": int(size)}
    return _of_width(TINY[variant], int(size.removeprefix("h")))


def _of_width(config: dict, width: int) -> dict:
    named = next((name for name in ("d_model", "n_embd") if name in config), "hidden_size")
    sizes = {named: width}
    for key in {"kv_channels", "head_dim"} & config.keys():
        sizes[key] = width // config["num_attention_heads"]
    if "rotary_dim" in config:
        sizes["rotary_dim"] = 16
    if "mamba_expand" in config:
        sizes["mamba_d_head"] = width * config["mamba_expand"] // config["mamba_n_heads"]
    return config | sizes


def divisible(config: dict) -> dict:
    """With sizes that four ranks can divide, and experts that two can; two key/value heads stay."""
    sizes = dict(num_attention_heads=8, n_heads=8, hidden_size=96, d_model=96, kv_channels=12)
    sizes |= dict(num_experts=8, num_local_experts=8, n_routed_experts=8, moe_num_experts=8)
    sizes |= dict(moe_intermediate_size=36, ffn_hidden_size=36)
    sizes |= dict(shared_expert_intermediate_size=52, shared_intermediate_size=52)
    sizes |= dict(linear_num_key_heads=4, linear_num_value_heads=8, mamba_n_heads=8, mamba_d_head=24, mamba_d_ssm=192)
    sizes |= dict(mamba_num_heads=8, moe_shared_expert_intermediate_size=52, n_head=8, n_embd=96)
    found = {key: sizes.get(key, value) for key, value in config.items()}
    if "intermediate_size" in config:
        found["intermediate_size"] = config["intermediate_size"] // 4 * 4
    if "num_key_value_heads" in config and config["num_key_value_heads"] == config["num_attention_heads"]:
        found["num_key_value_heads"] = 8
    if config.get("head_dim", 0) * config.get("num_attention_heads", 0) == config.get("hidden_size"):
        found["head_dim"] = found["hidden_size"] // found["num_attention_heads"]
    if "linear_attn_config" in config:
        found["linear_attn_config"] = config["linear_attn_config"] | dict(num_heads=8)
    if "ffn_config" in config:
        found["ffn_config"] = divisible(config["ffn_config"])
    return found


def randomize(name: str, parameter: torch.Tensor) -> None:
    """Norms far from one, biases far from zero, and scores so large that attention is no plain average."""
    gain = 1.0 if parameter.ndim == 1 or "embed" in name else 1.5 / math.sqrt(parameter.shape[-1])
    gain = 8.0 if name.endswith("router.scale") else gain  # of experts' scores, which a factor makes small
    parameter.copy_(torch.randn(parameter.shape) * gain)


read_step_by_sglangs_class()
# Of kinds for which transformers chooses none.
CLASSES = {"mistral4": transformers.Mistral4ForCausalLM, "step3p5": step3p5.Step3p5ForCausalLM}


def config_of(described: dict):
    """transformers' config. SGLang has classes of its own for some models, from which transformers makes none."""
    if described["model_type"] in (*states.SGLANGS, "step3p5", "cohere2_moe"):
        model_type = described.pop("model_type")
        return getattr(transformers, CONFIG_MAPPING._mapping[model_type])(**described)
    return AutoConfig.for_model(**described)


@functools.cache
def hugging_face(name: str, dtype: str = "float32"):
    """Hugging Face's model of a variant, computing in float32 with weights rounded to `dtype`."""
    config = config_of(copy.deepcopy(described(name)))  # classes write into rope_parameters
    torch.manual_seed(len(name))
    eager = dict(attn_implementation="eager", experts_implementation="eager")  # grouped products want even sizes
    own = CLASSES.get(described(name)["model_type"])
    made = own._from_config if own else AutoModelForCausalLM.from_config
    model = made(config, dtype=torch.float32, **eager).eval()
    with torch.no_grad():
        buffers = [named for named in model.named_buffers() if named[0].endswith(BUFFERS)]
        for parameter_name, parameter in [*model.named_parameters(), *buffers]:
            randomize(parameter_name, parameter)
            parameter.copy_(parameter.to(getattr(torch, dtype)))
    return model


def save(name: str, folder: Path, dtype: str = "float32") -> Path:
    """Write a variant's checkpoint as transformers does, in `dtype`; returns the folder."""
    if "statement" in described(name):
        return reference_models.save(described(name), folder, dtype)
    model = hugging_face(name, dtype)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    model.float()
    variant = name.partition("@")[0]
    if variant in PUBLISHED_TENSORS:
        tensors = PUBLISHED_TENSORS[variant](load_file(folder / "model.safetensors"))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if variant in PUBLISHED_CONFIGS:
        written = json.loads((folder / "config.json").read_text())
        if variant in mla.LARGE_3:
            mla.as_mistral_writes(folder, variant, written)
        _write_config(folder, PUBLISHED_CONFIGS[variant](written))
    return folder


def _write_config(folder: Path, config: dict) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    if "auto_map" in config:
        reference_models.write_class(config["model_type"], folder)


@torch.no_grad()
def reference_logits(name: str, ids, dtype: str = "float32"):
    """float32 [tokens, vocab_size]: what Hugging Face's model, or the statement of one, says after each of the ids."""
    if "statement" in described(name):
        return reference_models.reference_logits(described(name), ids, dtype)
    model = hugging_face(name, dtype)
    ids, config = torch.as_tensor(ids), model.config
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") in ("dynamic", "longrope"):
        # Its base depends on the length of the batch, ours is always the one of the longest: pad to that.
        longest = int(config.rope_parameters.get("factor", 1) * config.max_position_embeddings)
        padded = torch.nn.functional.pad(ids, (0, longest - len(ids)))
    else:
        padded = ids
    return model(padded[None]).logits[0, : len(ids)].numpy()

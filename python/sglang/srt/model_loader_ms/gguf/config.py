"""config.json and generation_config.json of a model, from the headers of its GGUF files.

What a file leaves to llama.cpp's code, as scales of scores, is what that code has. Sizes are those of the tensors.
"""

from collections.abc import Callable

import numpy as np

from sglang.srt.model_loader_ms.gguf.architectures import architecture_of
from sglang.srt.model_loader_ms.gguf.header import GGUFError, Header
from sglang.srt.model_loader_ms.gguf.tensors import read_vector

_SIGMOID = 2  # llama.cpp's number of a router's scores
# Tokens that end a turn, whatever the file's eos_token_id is: of chat templates that are in use.
_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|call|>",
    "<EOT>",
)
_SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


_NULL = ("q_lora_rank",)  # keys of config.json whose absence would mean a number
# Keys of other architectures' computations -> the values that change nothing.
_NEUTRAL = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "attention.temperature_scale": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "logit_scale": (0.0, 1.0),
    "nextn_predict_layers": (0,),
    "residual_scale": (0.0, 1.0),
    "rope.scale_linear": (0.0, 1.0),
    "router_logit_softcapping": (0.0,),
}


class Keys:
    """A model's metadata, by the names of its architecture, and the shapes of its tensors."""

    def __init__(self, headers: list[Header]):
        self.headers, self.metadata = headers, headers[0].metadata
        self.name = architecture_of(self.metadata)
        self.tensors = {info.name: info for header in headers for info in header.tensors.values()}

    def get(self, name: str, default=None):
        """A value that is one number or word; llama.cpp writes a list where layers differ."""
        value = self.metadata.get(f"{self.name}.{name}", default)
        if isinstance(value, np.ndarray | list):
            if len(value) == 0 or any(one != value[0] for one in value):
                raise GGUFError(f"{self.name}.{name} differs between layers, and it is served only as one value")
            value = value[0].item() if isinstance(value, np.ndarray) else value[0]
        return value

    def __getitem__(self, name: str):
        value = self.get(name)
        if value is None:
            raise GGUFError(f"metadata has no {self.name}.{name}")
        return value

    def number(self, name: str, least: int = 1) -> int:
        value = self[name]
        if not isinstance(value, int) or value < least:
            raise GGUFError(f"{self.name}.{name} is {value!r}, and it must be a whole number from {least} on")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.tensors:
            raise GGUFError(f"there is no tensor {name}")
        return self.tensors[name].shape

    def has(self, ending: str) -> bool:
        """Whether any layer has such a tensor."""
        return any(name.startswith("blk.") and name.endswith(f".{ending}") for name in self.tensors)

    def of_layer(self, ending: str) -> tuple[int, ...]:
        """The shape that a tensor has in the first layer that has it."""
        names = [name for name in self.tensors if name.startswith("blk.") and name.endswith(f".{ending}")]
        if not names:
            raise GGUFError(f"no layer has a tensor {ending}")
        return self.tensors[min(names, key=lambda name: (len(name), name))].shape

    def factors(self, name: str) -> list[float]:
        """The values of a tensor of the rotary embedding."""
        holder = next(header for header in self.headers if name in header.tensors)
        return read_vector(holder, name)


def model_config(headers: list[Header]) -> dict:
    """config.json. GGUFError where the header lacks what it needs."""
    keys = Keys(headers)
    for name, neutral in _NEUTRAL.items():
        if keys.get(name, neutral[0]) not in neutral:
            raise GGUFError(f"{keys.name}.{name} is {keys[name]!r}, which is not computed for this architecture")
    config = _common(keys) | BUILDERS[keys.name](keys)
    _check_rotated(keys, config)
    return {name: value for name, value in config.items() if value is not None or name in _NULL}


def _check_rotated(keys: Keys, config: dict) -> None:
    """Heads are rotated as a whole, or the config says how much of them is."""
    rotated, head_dim = keys.get("rope.dimension_count"), config["head_dim"]
    if rotated is not None and head_dim is not None and rotated != head_dim:
        raise GGUFError(f"{keys.name}.rope.dimension_count is {rotated}, of heads of {head_dim}, which is not computed")


def _common(keys: Keys) -> dict:
    hidden, heads = keys.number("embedding_length"), keys.number("attention.head_count")
    vocabulary, width = keys.shape("token_embd.weight")
    if width != hidden:
        raise GGUFError(f"token_embd.weight has rows of {width}, and {keys.name}.embedding_length is {hidden}")
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": keys.get("feed_forward_length"),
        "num_hidden_layers": keys.number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.get("attention.head_count_kv", heads),
        "head_dim": keys.get("attention.key_length", hidden // heads),
        "hidden_act": "silu",
        "rms_norm_eps": keys.get("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": keys.number("context_length"),
        "rope_parameters": _rope(keys),
        "tie_word_embeddings": "output.weight" not in keys.tensors,
        "dtype": "bfloat16",
        **_token_ids(keys.metadata),
    }


def _token_ids(metadata: dict) -> dict:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {key: metadata.get(f"tokenizer.ggml.{name}_token_id") for key, name in names.items()}


def _rope(keys: Keys, theta: float = 10000.0) -> dict:
    """rope_parameters. Divisors of frequencies that are a tensor become longrope's, of any length."""
    rope = {"rope_theta": keys.get("rope.freq_base", theta), "rope_type": "default"}
    kind = keys.get("rope.scaling.type", "none")
    if "rope_freqs.weight" in keys.tensors:
        divisors = keys.factors("rope_freqs.weight")
        return rope | {
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "attention_factor": 1.0,
            "original_max_position_embeddings": keys.number("context_length"),
        }
    if kind == "linear":
        return rope | {"rope_type": "linear", "factor": keys["rope.scaling.factor"]}
    if kind == "yarn":
        return rope | _yarn(keys)
    if kind not in ("none", "longrope"):
        raise GGUFError(f"{keys.name}.rope.scaling.type is {kind!r}; served are none, linear, yarn and longrope")
    return rope


def _yarn(keys: Keys) -> dict:
    optional = {
        "beta_fast": keys.get("rope.scaling.yarn_beta_fast"),
        "beta_slow": keys.get("rope.scaling.yarn_beta_slow"),
        "attention_factor": keys.get("rope.scaling.yarn_attn_factor"),
    }
    return {
        "rope_type": "yarn",
        "factor": keys["rope.scaling.factor"],
        "original_max_position_embeddings": keys.number("rope.scaling.original_context_length"),
    } | {name: value for name, value in optional.items() if value is not None}


def _llama(keys: Keys) -> dict:
    head_dim = keys.get("attention.key_length") or keys.get("rope.dimension_count")
    own = {"head_dim": head_dim} if head_dim else {}
    if keys.get("expert_count"):
        experts = {"num_local_experts": keys["expert_count"], "num_experts_per_tok": keys["expert_used_count"]}
        return own | experts | {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    biased = {"attention_bias": keys.has("attn_q.bias"), "mlp_bias": keys.has("ffn_gate.bias")}
    return own | biased | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def _qwen2(keys: Keys) -> dict:
    return {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False}


def _qwen3(keys: Keys) -> dict:
    return {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "use_sliding_window": False}


def _experts(keys: Keys) -> dict:
    return {
        "num_experts": keys.number("expert_count"),
        "num_experts_per_tok": keys.number("expert_used_count"),
        "moe_intermediate_size": keys.of_layer("ffn_gate_exps.weight")[1],
        "use_sliding_window": False,
    }


def _qwen2moe(keys: Keys) -> dict:
    return _experts(keys) | {
        "model_type": "qwen2_moe",
        "architectures": ["Qwen2MoeForCausalLM"],
        "shared_expert_intermediate_size": keys.of_layer("ffn_gate_shexp.weight")[0],
        "norm_topk_prob": False,
    }


def _qwen3moe(keys: Keys) -> dict:
    names = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}
    return _experts(keys) | names | {"norm_topk_prob": True}


def _gemma(keys: Keys) -> dict:
    names = {"model_type": "gemma", "architectures": ["GemmaForCausalLM"]}
    return names | {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"}


def _gemma2(keys: Keys) -> dict:
    widest = keys["block_count"] == 46  # 27B, by which llama.cpp knows it
    scalar = keys["embedding_length"] // keys["attention.head_count"] if widest else keys["attention.key_length"]
    return _gemma(keys) | {
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "query_pre_attn_scalar": scalar,
        "attn_logit_softcapping": keys.get("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": keys.get("final_logit_softcapping", 30.0),
        "sliding_window": keys.get("attention.sliding_window", 4096),
    }


def _gemma3(keys: Keys) -> dict:
    widest = keys["block_count"] == 62  # 27B
    scalar = keys["embedding_length"] // keys["attention.head_count"] if widest else keys["attention.key_length"]
    local = {"rope_type": "default", "rope_theta": keys.get("rope.freq_base_swa", 10000.0)}
    return _gemma(keys) | {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "query_pre_attn_scalar": scalar,
        "final_logit_softcapping": keys.get("final_logit_softcapping"),
        "sliding_window": keys.get("attention.sliding_window"),
        "sliding_window_pattern": 6,
        "rope_parameters": {"sliding_attention": local, "full_attention": _rope(keys, 1e6)},
    }


def _phi3(keys: Keys) -> dict:
    hidden, heads = keys.number("embedding_length"), keys.number("attention.head_count")
    head_dim, original = hidden // heads, keys.get("rope.scaling.original_context_length")
    rope = _rope(keys) | {"partial_rotary_factor": keys["rope.dimension_count"] / head_dim}
    if "rope_factors_long.weight" in keys.tensors:
        rope |= {
            "rope_type": "longrope",
            "short_factor": keys.factors("rope_factors_short.weight"),
            "long_factor": keys.factors("rope_factors_long.weight"),
            "original_max_position_embeddings": original,
        }
    return {
        "model_type": "phi3",
        "architectures": ["Phi3ForCausalLM"],
        "head_dim": None,
        "sliding_window": keys.get("attention.sliding_window") or None,
        "original_max_position_embeddings": original,
        "partial_rotary_factor": rope["partial_rotary_factor"],
        "rope_parameters": rope,
    }


def _stablelm(keys: Keys) -> dict:
    head_dim = keys.number("embedding_length") // keys.number("attention.head_count")
    partial = keys["rope.dimension_count"] / head_dim
    return {
        "model_type": "stablelm",
        "architectures": ["StableLmForCausalLM"],
        "head_dim": None,
        "rms_norm_eps": None,
        "layer_norm_eps": keys["attention.layer_norm_epsilon"],
        "use_qkv_bias": keys.has("attn_q.bias"),
        "qk_layernorm": keys.has("attn_q_norm.weight"),
        "use_parallel_residual": not keys.has("ffn_norm.weight"),
        "partial_rotary_factor": partial,
        "rope_parameters": _rope(keys) | {"partial_rotary_factor": partial},
    }


def _gpt_oss(keys: Keys) -> dict:
    rope = _rope(keys, 150000.0)
    return {
        "model_type": "gpt_oss",
        "architectures": ["GptOssForCausalLM"],
        "intermediate_size": keys.of_layer("ffn_gate_exps.weight")[1],
        "num_local_experts": keys.number("expert_count"),
        "num_experts_per_tok": keys.number("expert_used_count"),
        "attention_bias": True,
        "sliding_window": keys.number("attention.sliding_window"),
        "rope_parameters": rope | {"truncate": False} if rope["rope_type"] == "yarn" else rope,
        "swiglu_limit": 7.0,
    }


def _deepseek2(keys: Keys) -> dict:
    rotated, rank = keys.number("rope.dimension_count"), keys.number("attention.kv_lora_rank")
    nope = keys.get("attention.key_length_mla", keys["attention.key_length"]) - rotated
    corrected = keys.has("exp_probs_b.bias") or keys.get("expert_gating_func") == _SIGMOID
    rope = _rope(keys)
    log_multiplier = keys.get("rope.scaling.yarn_log_multiplier")
    if rope["rope_type"] == "yarn" and log_multiplier:
        stretch = round(log_multiplier / 0.1, 6)  # llama.cpp writes a tenth
        rope |= {"mscale": stretch, "mscale_all_dim": stretch}
    return {
        "head_dim": None,
        "num_key_value_heads": keys["attention.head_count"],
        "q_lora_rank": keys.get("attention.q_lora_rank"),
        "kv_lora_rank": rank,
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": nope,
        "v_head_dim": keys.get("attention.value_length_mla", keys["attention.value_length"]),
        "n_routed_experts": keys.number("expert_count"),
        "num_experts_per_tok": keys.number("expert_used_count"),
        "n_shared_experts": keys.get("expert_shared_count", 0),
        "moe_intermediate_size": keys.of_layer("ffn_gate_exps.weight")[1],
        "first_k_dense_replace": keys.get("leading_dense_block_count", 0),
        "routed_scaling_factor": keys.get("expert_weights_scale") or 1.0,
        "rope_parameters": rope,
        **(_deepseek3_routing(keys) if corrected else _deepseek2_routing(keys)),
    }


def _deepseek2_routing(keys: Keys) -> dict:
    names = {"model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"], "norm_topk_prob": False}
    groups = keys.get("expert_group_count", 0)
    if not groups or groups == 1:
        return names | {"topk_method": "greedy"}
    top = keys["expert_group_used_count"]
    return names | {"topk_method": "group_limited_greedy", "n_group": groups, "topk_group": top}


def _deepseek3_routing(keys: Keys) -> dict:
    # Files from before llama.cpp wrote the groups are of V3 and R1, by their 256 experts, or have none.
    usual = (8, 4) if keys["expert_count"] == 256 else (1, 1)
    return {
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
        "norm_topk_prob": bool(keys.get("expert_weights_norm", True)),
        "n_group": keys.get("expert_group_count", usual[0]),
        "topk_group": keys.get("expert_group_used_count", usual[1]),
        "num_nextn_predict_layers": 0,
    }


BUILDERS: dict[str, Callable[[Keys], dict]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen2moe": _qwen2moe,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3moe,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "stablelm": _stablelm,
    "gpt-oss": _gpt_oss,
    "deepseek2": _deepseek2,
}


def generation_config(headers: list[Header]) -> dict:
    """generation_config.json: the tokens that end an answer, and how to sample where the file says so."""
    metadata = headers[0].metadata
    ids = {name: value for name, value in _token_ids(metadata).items() if value is not None}
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    tokens, kinds = metadata.get("tokenizer.ggml.tokens", []), metadata.get("tokenizer.ggml.token_type")
    known = set(_ENDS)
    if "<|return|>" in tokens and "<|call|>" in tokens:
        known.discard("<|end|>")  # of gpt-oss: it ends a message, and another one may follow
    ends += [place for place, token in enumerate(tokens) if token in known and (kinds is None or kinds[place] != 1)]
    ids["eos_token_id"] = sorted({int(one) for one in ends if one is not None})
    sampling = {ours: metadata[theirs] for theirs, ours in _SAMPLING.items() if theirs in metadata}
    return ids | sampling | ({"do_sample": True} if sampling else {})

"""Parts of decoders: names and shapes of the tensors of published checkpoints, by what config.json says."""


def repeated(config: dict, prefix: str, layer, first: int = 0, last: int | None = None) -> dict:
    """layer(number) -> tensors of a layer, under prefix and the number."""
    count = next(config[key] for key in ("num_hidden_layers", "num_layers", "n_layers") if key in config)
    numbers = range(first, count if last is None else last)
    return {f"{prefix}.{number}.{name}": shape for number in numbers for name, shape in layer(number).items()}


def weights(prefix: str = "", **shapes) -> dict:
    return {f"{prefix}{name}.weight": shape for name, shape in shapes.items()}


def sizes(config: dict) -> tuple:
    """-> hidden_size, rows of queries, rows of keys, size of a head."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    return hidden, heads * head, config.get("num_key_value_heads", heads) * head, head


def attention(config: dict, bias: bool | None = None, out_bias: bool | None = None) -> dict:
    hidden, q, kv, _ = sizes(config)
    bias = config.get("attention_bias", False) if bias is None else bias
    found = weights("self_attn.", q_proj=(q, hidden), k_proj=(kv, hidden), v_proj=(kv, hidden), o_proj=(hidden, q))
    biased = dict(q_proj=q, k_proj=kv, v_proj=kv) if bias else {}
    biased |= dict(o_proj=hidden) if (bias if out_bias is None else out_bias) else {}
    return found | {f"self_attn.{name}.bias": (size,) for name, size in biased.items()}


def mlp(config: dict, size: int | None = None, prefix: str = "mlp.") -> dict:
    hidden, size = config["hidden_size"], size or config["intermediate_size"]
    return weights(prefix, gate_proj=(size, hidden), up_proj=(size, hidden), down_proj=(hidden, size))


def norms(config: dict, *names: str) -> dict:
    return {f"{name}.weight": (config["hidden_size"],) for name in names}


PRE = ("input_layernorm", "post_attention_layernorm")
POST = ("post_attention_layernorm", "post_feedforward_layernorm")


def head_norms(config, *names):
    return {f"self_attn.{name}.weight": (sizes(config)[3],) for name in names or ("q_norm", "k_norm")}


def experts(config: dict, count: int, size: int) -> dict:
    found = {"mlp.gate.weight": (count, config["hidden_size"])}
    for i in range(count):
        found |= mlp(config, size, f"mlp.experts.{i}.")
    return found


def corrected(config: dict, number: int) -> dict:
    """The mlp of a layer of DeepSeek, GLM-4.5 and their relatives."""
    if number < config["first_k_dense_replace"]:
        return mlp(config)
    size, count = config["moe_intermediate_size"], config["n_routed_experts"]
    found = experts(config, count, size) | mlp(config, size * config["n_shared_experts"], "mlp.shared_experts.")
    if config.get("scoring_func") == "sigmoid" or config["model_type"] == "glm4_moe":
        found["mlp.gate.e_score_correction_bias"] = (count,)
    return found


def latent(config: dict, value: int) -> dict:
    hidden, heads, rank = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope, low = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["q_lora_rank"]
    rows = heads * (nope + rope)
    found = weights("self_attn.", kv_a_proj_with_mqa=(rank + rope, hidden), kv_a_layernorm=(rank,))
    found |= weights("self_attn.", kv_b_proj=(heads * (nope + value), rank), o_proj=(hidden, heads * value))
    if low is None:
        return found | weights("self_attn.", q_proj=(rows, hidden))
    return found | weights("self_attn.", q_a_proj=(low, hidden), q_a_layernorm=(low,), q_b_proj=(rows, low))


def model(config: dict, layer, tied: bool | None = None) -> dict:
    """Embedding, layers, last norm and head under the usual names."""
    rows = (config["vocab_size"], config["hidden_size"])
    tied = config.get("tie_word_embeddings", False) if tied is None else tied
    found = {"model.embed_tokens.weight": rows, **norms(config, "model.norm")}
    found |= {} if tied else {"lm_head.weight": rows}
    return found | repeated(config, "model.layers", layer)

"""InternLM 3: as Llama, with a switch for the biases of queries, keys and values, and one for all others."""

from models.reference_models import attend, rms_norm, rotate, silu

NORMS = ("input_layernorm", "post_attention_layernorm")


def _matrices(config):
    """name -> (rows, columns, whether it has a bias)"""
    hidden, size, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    return {
        "self_attn.q_proj": (queries, hidden, config["qkv_bias"]),
        "self_attn.k_proj": (keys, hidden, config["qkv_bias"]),
        "self_attn.v_proj": (keys, hidden, config["qkv_bias"]),
        "self_attn.o_proj": (hidden, queries, config["bias"]),
        "mlp.gate_proj": (size, hidden, config["bias"]),
        "mlp.up_proj": (size, hidden, config["bias"]),
        "mlp.down_proj": (hidden, size, config["bias"]),
    }


def shapes(config):
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    found = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        for name, (rows, columns, bias) in _matrices(config).items():
            found[f"model.layers.{layer}.{name}.weight"] = (rows, columns)
            if bias:
                found[f"model.layers.{layer}.{name}.bias"] = (rows,)
        found |= {f"model.layers.{layer}.{name}.weight": (hidden,) for name in NORMS}
    return found | {"lm_head.weight": (vocab, hidden)}


def logits(config, tensors, ids):
    x, eps, length = tensors["model.embed_tokens.weight"][ids], config["rms_norm_eps"], len(ids)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."

        def linear(name, x, prefix=prefix):
            return x @ tensors[f"{prefix}{name}.weight"].T + tensors.get(f"{prefix}{name}.bias", 0)

        normal = rms_norm(x, tensors[f"{prefix}input_layernorm.weight"], eps)
        q, k, v = (
            linear(f"self_attn.{name}_proj", normal).reshape(length, -1, config["head_dim"]) for name in ("q", "k", "v")
        )
        found = attend(rotate(q, config), rotate(k, config), v)
        x = x + linear("self_attn.o_proj", found)
        normal = rms_norm(x, tensors[f"{prefix}post_attention_layernorm.weight"], eps)
        x = x + linear("mlp.down_proj", silu(linear("mlp.gate_proj", normal)) * linear("mlp.up_proj", normal))
    return rms_norm(x, tensors["model.norm.weight"], eps) @ tensors["lm_head.weight"].T

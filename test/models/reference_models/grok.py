"""Grok-1: scores and router bounded by tanh, gelu experts, four norms a layer, scaled embeddings and logits."""

import numpy as np
from models.reference_models import rms_norm, rotate


def shapes(config):
    hidden, vocab, size = config["hidden_size"], config["vocab_size"], config["moe_intermediate_size"]
    dim, heads, kv_heads = config["head_dim"], config["num_attention_heads"], config["num_key_value_heads"]
    found = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        norms = ("pre_attn_norm", "post_attn_norm", "pre_moe_norm", "post_moe_norm")
        own = {f"{name}.weight": (hidden,) for name in norms}
        own |= {
            "self_attn.q_proj.weight": (heads * dim, hidden),
            "self_attn.k_proj.weight": (kv_heads * dim, hidden),
            "self_attn.v_proj.weight": (kv_heads * dim, hidden),
            "self_attn.o_proj.weight": (hidden, heads * dim),
            "block_sparse_moe.gate.weight": (config["num_local_experts"], hidden),
        }
        for expert in range(config["num_local_experts"]):
            for name, shape in (("w1", (size, hidden)), ("w3", (size, hidden)), ("w2", (hidden, size))):
                own[f"block_sparse_moe.experts.{expert}.{name}.weight"] = shape
        if config["residual_moe"]:
            dense = config["intermediate_size"]
            own |= {"mlp.gate_proj.weight": (dense, hidden), "mlp.up_proj.weight": (dense, hidden)}
            own |= {"mlp.down_proj.weight": (hidden, dense)}
        found |= {f"model.layers.{layer}.{name}": shape for name, shape in own.items()}
    return found | {"lm_head.weight": (vocab, hidden)}


def capped(x, cap):
    return cap * np.tanh(x / cap)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attend(q, k, v, cap):
    found = np.zeros_like(q)
    for head in range(q.shape[1]):
        group = head * k.shape[1] // q.shape[1]
        scores = capped(q[:, head] @ k[:, group].T / np.sqrt(q.shape[2]), cap)
        weights = np.exp(scores) * np.tri(len(q))
        found[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, group]
    return found.reshape(len(q), -1)


def experts(config, w, x):
    found = np.zeros_like(x)
    for token, row in enumerate(x):
        scores = np.exp(capped(w["block_sparse_moe.gate.weight"] @ row, config["router_logit_softcapping"]))
        scores /= scores.sum()
        for expert in np.argsort(-scores)[: config["num_experts_per_tok"]]:
            gate, up, down = (w[f"block_sparse_moe.experts.{expert}.{name}.weight"] for name in ("w1", "w3", "w2"))
            found[token] += scores[expert] * (down @ (gelu(gate @ row) * (up @ row)))
    if config["residual_moe"]:
        inner = gelu(x @ w["mlp.gate_proj.weight"].T) * (x @ w["mlp.up_proj.weight"].T)
        found = (found + inner @ w["mlp.down_proj.weight"].T) / np.sqrt(2)
    return found


def logits(config, tensors, ids):
    x = tensors["model.embed_tokens.weight"][ids] * config["embedding_multiplier_scale"]
    eps, theta = config["rms_norm_eps"], config["rope_theta"]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        w = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        normal = rms_norm(x, w["pre_attn_norm.weight"], eps)
        parts = (normal @ w[f"self_attn.{part}_proj.weight"].T for part in "qkv")
        q, k, v = (part.reshape(len(x), -1, config["head_dim"]) for part in parts)
        found = attend(rotate(q, theta), rotate(k, theta), v, config["attn_logit_softcapping"])
        x = x + rms_norm(found @ w["self_attn.o_proj.weight"].T, w["post_attn_norm.weight"], eps)
        found = experts(config, w, rms_norm(x, w["pre_moe_norm.weight"], eps))
        x = x + rms_norm(found, w["post_moe_norm.weight"], eps)
    found = rms_norm(x, tensors["model.norm.weight"], eps) @ tensors["lm_head.weight"].T
    return found * config["output_multiplier_scale"]

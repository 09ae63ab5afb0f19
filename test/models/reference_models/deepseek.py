"""DeepSeek-MoE: the experts of largest softmax, beside shared ones; dense layers first."""

import numpy as np
from models.reference_models import attend, rms_norm, rotate, silu


def shapes(config):
    hidden, vocab, size = config["hidden_size"], config["vocab_size"], config["moe_intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    dim = hidden // heads
    found = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        own = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (heads * dim, hidden),
            "self_attn.k_proj.weight": (kv_heads * dim, hidden),
            "self_attn.v_proj.weight": (kv_heads * dim, hidden),
            "self_attn.o_proj.weight": (hidden, heads * dim),
        }
        if dense(config, layer):
            own |= mlp("mlp", hidden, config["intermediate_size"])
        else:
            own |= {"mlp.gate.weight": (config["n_routed_experts"], hidden)}
            own |= mlp("mlp.shared_experts", hidden, size * config["n_shared_experts"])
            for expert in range(config["n_routed_experts"]):
                own |= mlp(f"mlp.experts.{expert}", hidden, size)
        found |= {f"model.layers.{layer}.{name}": shape for name, shape in own.items()}
    return found | {"lm_head.weight": (vocab, hidden)}


def mlp(name, hidden, size):
    return {
        f"{name}.gate_proj.weight": (size, hidden),
        f"{name}.up_proj.weight": (size, hidden),
        f"{name}.down_proj.weight": (hidden, size),
    }


def dense(config, layer):
    return layer < config["first_k_dense_replace"] or layer % config["moe_layer_freq"] != 0


def forward(w, name, x):
    inner = silu(x @ w[f"{name}.gate_proj.weight"].T) * (x @ w[f"{name}.up_proj.weight"].T)
    return inner @ w[f"{name}.down_proj.weight"].T


def experts(config, w, x):
    found = forward(w, "mlp.shared_experts", x)
    for token, row in enumerate(x):
        scores = np.exp(w["mlp.gate.weight"] @ row)
        scores /= scores.sum()
        chosen = np.argsort(-scores)[: config["num_experts_per_tok"]]
        total = scores[chosen].sum() if config["norm_topk_prob"] else 1
        for expert in chosen:
            found[token] += scores[expert] / total * forward(w, f"mlp.experts.{expert}", row)
    return found


def logits(config, tensors, ids):
    x, eps, theta = tensors["model.embed_tokens.weight"][ids], config["rms_norm_eps"], config["rope_theta"]
    dim = config["hidden_size"] // config["num_attention_heads"]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        w = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        normal = rms_norm(x, w["input_layernorm.weight"], eps)
        q, k, v = ((normal @ w[f"self_attn.{part}_proj.weight"].T).reshape(len(x), -1, dim) for part in "qkv")
        x = x + attend(rotate(q, theta), rotate(k, theta), v) @ w["self_attn.o_proj.weight"].T
        normal = rms_norm(x, w["post_attention_layernorm.weight"], eps)
        x = x + (forward(w, "mlp", normal) if dense(config, layer) else experts(config, w, normal))
    return rms_norm(x, tensors["model.norm.weight"], eps) @ tensors["lm_head.weight"].T

"""Qwen 1, up to its training length: c_attn stacks q, k and v, and w1 is multiplied by silu of w2."""

import numpy as np
from models.reference_models import attend, rms_norm, rotate, silu


def shapes(config):
    hidden, vocab, size = config["hidden_size"], config["vocab_size"], config["intermediate_size"] // 2
    found = {"transformer.wte.weight": (vocab, hidden), "transformer.ln_f.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        found |= {
            f"transformer.h.{layer}.{name}": shape
            for name, shape in {
                "ln_1.weight": (hidden,),
                "attn.c_attn.weight": (3 * hidden, hidden),
                "attn.c_attn.bias": (3 * hidden,),
                "attn.c_proj.weight": (hidden, hidden),
                "ln_2.weight": (hidden,),
                "mlp.w1.weight": (size, hidden),
                "mlp.w2.weight": (size, hidden),
                "mlp.c_proj.weight": (hidden, size),
            }.items()
        }
    return found | {"lm_head.weight": (vocab, hidden)}


def logits(config, tensors, ids):
    x, eps = tensors["transformer.wte.weight"][ids], config["layer_norm_epsilon"]
    heads = (len(ids), config["num_attention_heads"], config["kv_channels"])
    for layer in range(config["num_hidden_layers"]):
        w = {name.removeprefix(f"transformer.h.{layer}."): tensor for name, tensor in tensors.items()}
        mixed = rms_norm(x, w["ln_1.weight"], eps) @ w["attn.c_attn.weight"].T + w["attn.c_attn.bias"]
        q, k, v = (part.reshape(heads) for part in np.split(mixed, 3, -1))
        q, k = (rotate(part, config["rotary_emb_base"]) for part in (q, k))
        x = x + attend(q, k, v) @ w["attn.c_proj.weight"].T
        normal = rms_norm(x, w["ln_2.weight"], eps)
        x = x + normal @ w["mlp.w1.weight"].T * silu(normal @ w["mlp.w2.weight"].T) @ w["mlp.c_proj.weight"].T
    return rms_norm(x, tensors["transformer.ln_f.weight"], eps) @ tensors["lm_head.weight"].T

"""Baichuan 1 and 2: 7B has rotary, 13B biases of ALiBi; Baichuan 2, which has z_loss_weight, a head of unit rows."""

import math

import numpy as np
from models.reference_models import attend, rms_norm, rotate, silu


def shapes(config):
    hidden, vocab, size = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    found = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        found |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "self_attn.W_pack": (3 * hidden, hidden),
                "self_attn.o_proj": (hidden, hidden),
                "mlp.gate_proj": (size, hidden),
                "mlp.up_proj": (size, hidden),
                "mlp.down_proj": (hidden, size),
                "input_layernorm": (hidden,),
                "post_attention_layernorm": (hidden,),
            }.items()
        }
    return found | {"lm_head.weight": (vocab, hidden)}


def slopes(heads):
    """Of Press et al.: geometric for a power of two; otherwise those, and every other one of twice as many heads."""
    power = 2 ** int(math.log2(heads))
    if power == heads:
        return [2.0 ** (-8 / heads * (head + 1)) for head in range(heads)]
    return slopes(power) + slopes(2 * power)[::2][: heads - power]


def logits(config, tensors, ids):
    x, eps = tensors["model.embed_tokens.weight"][ids], config["rms_norm_eps"]
    heads = (len(ids), config["num_attention_heads"], -1)
    places = np.arange(len(ids))
    alibi = "max_position_embeddings" not in config
    bias = np.multiply.outer(slopes(heads[1]), places[None] - places[:, None]) if alibi else None
    for layer in range(config["num_hidden_layers"]):
        w = {name.removeprefix(f"model.layers.{layer}."): tensor for name, tensor in tensors.items()}
        normal = rms_norm(x, w["input_layernorm.weight"], eps)
        q, k, v = (part.reshape(heads) for part in np.split(normal @ w["self_attn.W_pack.weight"].T, 3, -1))
        if not alibi:
            q, k = rotate(q, 10000.0), rotate(k, 10000.0)
        x = x + attend(q, k, v, bias) @ w["self_attn.o_proj.weight"].T
        normal = rms_norm(x, w["post_attention_layernorm.weight"], eps)
        gate, up = (normal @ w[f"mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (silu(gate) * up) @ w["mlp.down_proj.weight"].T
    head = tensors["lm_head.weight"]
    if "z_loss_weight" in config:
        head = head / np.linalg.norm(head, axis=-1, keepdims=True)
    return rms_norm(x, tensors["model.norm.weight"], eps) @ head.T

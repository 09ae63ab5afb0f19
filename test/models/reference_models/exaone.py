"""EXAONE 3 and 3.5: c_fc_0 is the gate, c_fc_1 what it multiplies."""

from models.reference_models import attend, rms_norm, rotate, silu


def shapes(config):
    hidden, vocab, size = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    found = {"transformer.wte.weight": (vocab, hidden), "transformer.ln_f.weight": (hidden,)}
    for layer in range(config["num_layers"]):
        found |= {
            f"transformer.h.{layer}.{name}.weight": shape
            for name, shape in {
                "ln_1": (hidden,),
                "attn.attention.q_proj": (hidden, hidden),
                "attn.attention.k_proj": (keys, hidden),
                "attn.attention.v_proj": (keys, hidden),
                "attn.attention.out_proj": (hidden, hidden),
                "ln_2": (hidden,),
                "mlp.c_fc_0": (size, hidden),
                "mlp.c_fc_1": (size, hidden),
                "mlp.c_proj": (hidden, size),
            }.items()
        }
    return found if config["tie_word_embeddings"] else found | {"lm_head.weight": (vocab, hidden)}


def logits(config, tensors, ids):
    embedding, eps = tensors["transformer.wte.weight"], config["layer_norm_epsilon"]
    x, dim = embedding[ids], config["hidden_size"] // config["num_attention_heads"]
    for layer in range(config["num_layers"]):
        w = {name.removeprefix(f"transformer.h.{layer}."): tensor for name, tensor in tensors.items()}
        normal = rms_norm(x, w["ln_1.weight"], eps)
        q, k, v = (normal @ w[f"attn.attention.{name}_proj.weight"].T for name in ("q", "k", "v"))
        q, k, v = (part.reshape(len(ids), -1, dim) for part in (q, k, v))
        found = attend(rotate(q, config), rotate(k, config), v)
        x = x + found @ w["attn.attention.out_proj.weight"].T
        normal = rms_norm(x, w["ln_2.weight"], eps)
        x = x + silu(normal @ w["mlp.c_fc_0.weight"].T) * (normal @ w["mlp.c_fc_1.weight"].T) @ w["mlp.c_proj.weight"].T
    return rms_norm(x, tensors["transformer.ln_f.weight"], eps) @ tensors.get("lm_head.weight", embedding).T

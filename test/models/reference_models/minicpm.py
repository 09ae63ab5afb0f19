"""MiniCPM: as Llama; embeddings times scale_emb, what is added times scale_depth / sqrt(layers), and the last hidden
states divided by hidden_size / dim_model_base. The head is the embedding unless the config says otherwise.
"""

from models.reference_models import attend, rms_norm, rotate, silu


def shapes(config):
    hidden, size, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = config["num_key_value_heads"] * hidden // config["num_attention_heads"]
    matrices = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (size, hidden),
        "mlp.up_proj": (size, hidden),
        "mlp.down_proj": (hidden, size),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    found = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in matrices.items()}
    return found if config["tie_word_embeddings"] else found | {"lm_head.weight": (vocab, hidden)}


def _attention(config, w, x):
    q, k, v = (
        (x @ w(f"self_attn.{name}_proj").T).reshape(len(x), heads, -1)
        for name, heads in zip(
            "qkv", [config["num_attention_heads"], *[config["num_key_value_heads"]] * 2], strict=True
        )
    )
    return attend(rotate(q, config), rotate(k, config), v) @ w("self_attn.o_proj").T


def logits(config, tensors, ids):
    embedding, eps = tensors["model.embed_tokens.weight"], config["rms_norm_eps"]
    depth = config["scale_depth"] / config["num_hidden_layers"] ** 0.5
    x = embedding[ids] * config["scale_emb"]
    for layer in range(config["num_hidden_layers"]):

        def w(name, layer=layer):
            return tensors[f"model.layers.{layer}.{name}.weight"]

        x = x + depth * _attention(config, w, rms_norm(x, w("input_layernorm"), eps))
        normal = rms_norm(x, w("post_attention_layernorm"), eps)
        x = x + depth * (silu(normal @ w("mlp.gate_proj").T) * (normal @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
    x = rms_norm(x, tensors["model.norm.weight"], eps) / (config["hidden_size"] / config["dim_model_base"])
    return x @ tensors.get("lm_head.weight", embedding).T

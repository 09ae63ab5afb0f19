"""InternLM 2: wqkv [K, H / K + 2, D, hidden_size] holds each key/value head's queries, then its key, then its value."""

from models.reference_models import attend, rms_norm, rotate, silu


def _sizes(config):
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    return heads, kv_heads, config["hidden_size"] // heads


def shapes(config):
    (heads, kv_heads, dim), hidden = _sizes(config), config["hidden_size"]
    size, vocab = config["intermediate_size"], config["vocab_size"]
    found = {"model.tok_embeddings.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        matrices = {
            "attention.wqkv": ((heads + 2 * kv_heads) * dim, hidden),
            "attention.wo": (hidden, heads * dim),
        }
        found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in matrices.items()}
        if config["bias"]:
            found |= {f"model.layers.{layer}.{name}.bias": shape[:1] for name, shape in matrices.items()}
        for name in ("w1", "w3"):
            found[f"model.layers.{layer}.feed_forward.{name}.weight"] = (size, hidden)
        found[f"model.layers.{layer}.feed_forward.w2.weight"] = (hidden, size)
        for name in ("attention_norm", "ffn_norm"):
            found[f"model.layers.{layer}.{name}.weight"] = (hidden,)
    return found | {"output.weight": (vocab, hidden)}


def _attention(config, w, x):
    heads, kv_heads, dim = _sizes(config)
    qkv = (x @ w("wqkv.weight").T + w("wqkv.bias")).reshape(len(x), kv_heads, heads // kv_heads + 2, dim)
    q, k, v = qkv[:, :, :-2].reshape(len(x), heads, dim), qkv[:, :, -2], qkv[:, :, -1]
    q, k = (rotate(part, config) for part in (q, k))
    return attend(q, k, v) @ w("wo.weight").T + w("wo.bias")


def logits(config, tensors, ids):
    x, eps = tensors["model.tok_embeddings.weight"][ids], config["rms_norm_eps"]
    for layer in range(config["num_hidden_layers"]):

        def w(name, prefix=f"model.layers.{layer}."):
            return tensors.get(prefix + name, 0)

        normal = rms_norm(x, w("attention_norm.weight"), eps)
        x = x + _attention(config, lambda name, w=w: w("attention." + name), normal)
        normal = rms_norm(x, w("ffn_norm.weight"), eps)
        gate, up = (normal @ w(f"feed_forward.{name}.weight").T for name in ("w1", "w3"))
        x = x + silu(gate) * up @ w("feed_forward.w2.weight").T
    return rms_norm(x, tensors["model.norm.weight"], eps) @ tensors["output.weight"].T

"""ChatGLM 2 and 3: query_key_value stacks q, k and v; neighboring pairs in the first half of each head are turned."""

import numpy as np
from models.reference_models import attend, rms_norm, rotate, silu


def shapes(config):
    hidden, size, dim = config["hidden_size"], config["ffn_hidden_size"], config["kv_channels"]
    heads, groups = config["num_attention_heads"], config["multi_query_group_num"]
    vocab = (config["padded_vocab_size"], hidden)
    found = {
        "transformer.embedding.word_embeddings.weight": vocab,
        "transformer.rotary_pos_emb.inv_freq": (dim // 4,),
        "transformer.encoder.final_layernorm.weight": (hidden,),
        "transformer.output_layer.weight": vocab,
    }
    linear, qkv = config["add_bias_linear"], config["add_qkv_bias"] or config["add_bias_linear"]
    for layer in range(config["num_layers"]):
        prefix = f"transformer.encoder.layers.{layer}."
        for name, shape, bias in (
            ("self_attention.query_key_value", ((heads + 2 * groups) * dim, hidden), qkv),
            ("self_attention.dense", (hidden, heads * dim), linear),
            ("mlp.dense_h_to_4h", (2 * size, hidden), linear),
            ("mlp.dense_4h_to_h", (hidden, size), linear),
            ("input_layernorm", (hidden,), False),
            ("post_attention_layernorm", (hidden,), False),
        ):
            found[f"{prefix}{name}.weight"] = shape
            if bias:
                found[f"{prefix}{name}.bias"] = shape[:1]
    return found


def logits(config, tensors, ids):
    x, eps = tensors["transformer.embedding.word_embeddings.weight"][ids], config["layernorm_epsilon"]
    heads, groups, dim = config["num_attention_heads"], config["multi_query_group_num"], config["kv_channels"]
    for layer in range(config["num_layers"]):
        prefix = f"transformer.encoder.layers.{layer}."

        def linear(name, x, prefix=prefix):
            return x @ tensors[f"{prefix}{name}.weight"].T + tensors.get(f"{prefix}{name}.bias", 0)

        normal = rms_norm(x, tensors[f"{prefix}input_layernorm.weight"], eps)
        mixed = linear("self_attention.query_key_value", normal).reshape(len(ids), -1, dim)
        q, k, v = np.split(mixed, [heads, heads + groups], 1)
        q, k = (rotate(part, 10000 * config["rope_ratio"], dim // 2, interleaved=True) for part in (q, k))
        x = x + linear("self_attention.dense", attend(q, k, v))
        normal = rms_norm(x, tensors[f"{prefix}post_attention_layernorm.weight"], eps)
        gate, up = np.split(linear("mlp.dense_h_to_4h", normal), 2, -1)
        x = x + linear("mlp.dense_4h_to_h", silu(gate) * up)
    last = rms_norm(x, tensors["transformer.encoder.final_layernorm.weight"], eps)
    return last @ tensors["transformer.output_layer.weight"].T

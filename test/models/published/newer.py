"""As layers.py, of more architectures."""

from models.published.layers import deepseek_v2
from models.published.parts import repeated, weights


def deepseek_v32(config):
    heads, size, low = config["index_n_heads"], config["index_head_dim"], config["q_lora_rank"]
    hidden = config["hidden_size"]

    def indexer(_):
        found = weights("self_attn.indexer.", wq_b=(heads * size, low), wk=(size, hidden), k_norm=(size,))
        found |= weights("self_attn.indexer.", weights_proj=(heads, hidden))
        return found | {"self_attn.indexer.k_norm.bias": (size,)}

    return deepseek_v2(config) | repeated(config, "model.layers", indexer)


ARCHITECTURES = dict(
    DeepseekV32ForCausalLM=deepseek_v32,
)

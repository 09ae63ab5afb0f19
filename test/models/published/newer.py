"""As layers.py, of more architectures."""

from models.published.layers import deepseek_v2
from models.published.parts import PRE, attention, model, norms, repeated, weights


def deepseek_v32(config):
    heads, size, low = config["index_n_heads"], config["index_head_dim"], config["q_lora_rank"]
    hidden = config["hidden_size"]

    def indexer(_):
        found = weights("self_attn.indexer.", wq_b=(heads * size, low), wk=(size, hidden), k_norm=(size,))
        found |= weights("self_attn.indexer.", weights_proj=(heads, hidden))
        return found | {"self_attn.indexer.k_norm.bias": (size,)}

    return deepseek_v2(config) | repeated(config, "model.layers", indexer)


def phi(config):
    hidden, size = config["hidden_size"], config["intermediate_size"]

    def layer(_):
        found = attention(config, True, True) | weights("mlp.", fc1=(size, hidden), fc2=(hidden, size))
        found |= {"mlp.fc1.bias": (size,), "mlp.fc2.bias": (hidden,), "input_layernorm.bias": (hidden,)}
        return {name.replace("o_proj", "dense"): shape for name, shape in found.items()} | norms(config, PRE[0])

    found = model(config, layer) | norms(config, "model.final_layernorm")
    del found["model.norm.weight"]
    return found | {"model.final_layernorm.bias": (hidden,), "lm_head.bias": (config["vocab_size"],)}


ARCHITECTURES = dict(
    DeepseekV32ForCausalLM=deepseek_v32,
    PhiForCausalLM=phi,
)

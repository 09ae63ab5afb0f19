"""Random drafts of EAGLE for a target, as published: config.json and model.safetensors; and what they say, in torch."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

SIZES = dict(hidden_size=48, intermediate_size=80, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
BASE = dict(
    SIZES, model_type="llama", num_hidden_layers=1, vocab_size=96, max_position_embeddings=256, torch_dtype="float32"
)
BASE |= dict(rms_norm_eps=1e-5, hidden_act="silu", tie_word_embeddings=False)
EAGLE3 = dict(BASE, architectures=["LlamaForCausalLMEagle3"], draft_vocab_size=40)
EAGLE3_NORMS = dict(EAGLE3, fc_norm=True, norm_output=True, eagle_config=dict(norm_before_fc=True))
EAGLE = dict(BASE, architectures=["LlamaForCausalLMEagle"])


def save(folder: Path, config: dict, seed: int = 0) -> Path:
    """Write a random draft with this config."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    hidden, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    eagle3 = config["architectures"][0].endswith("3")
    layer, columns = ("midlayer", 2 * hidden) if eagle3 else ("layers.0", hidden)
    shapes = {
        f"{layer}.self_attn.q_proj.weight": (heads * size, columns),
        f"{layer}.self_attn.k_proj.weight": (kv_heads * size, columns),
        f"{layer}.self_attn.v_proj.weight": (kv_heads * size, columns),
        f"{layer}.self_attn.o_proj.weight": (hidden, heads * size),
        f"{layer}.mlp.gate_proj.weight": (inner, hidden),
        f"{layer}.mlp.up_proj.weight": (inner, hidden),
        f"{layer}.mlp.down_proj.weight": (hidden, inner),
        f"{layer}.post_attention_layernorm.weight": (hidden,),
        "fc.weight": (hidden, (3 if eagle3 else 2) * hidden),
    }
    if eagle3:
        norms = (f"{layer}.input_layernorm.weight", f"{layer}.hidden_norm.weight", "norm.weight")
        shapes |= dict.fromkeys(norms, (hidden,)) | {"lm_head.weight": (config["draft_vocab_size"], hidden)}
        if config.get("fc_norm"):
            shapes |= {f"fc_norm.{layer}.weight": (hidden,) for layer in range(3)} | {
                "input_norm.weight": (3 * hidden,)
            }
    else:
        shapes["fc.bias"] = (hidden,)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.2 + (len(shape) == 1) for name, shape in shapes.items()
    }
    if eagle3:
        kept = torch.randperm(config["vocab_size"], generator=generator)[: config["draft_vocab_size"]].sort()[0]
        tensors["d2t"] = kept - torch.arange(len(kept))
        tensors["t2d"] = torch.zeros(config["vocab_size"], dtype=torch.bool).scatter(0, kept, True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _rotated(x, theta=10000.0):
    """x [T, heads, D] at places 0 to T - 1, halves turned against each other as Llama does."""
    size = x.shape[-1]
    angles = torch.arange(len(x))[:, None] * theta ** -(torch.arange(0, size, 2) / size)
    cos, sin = (torch.cat([turn(angles)] * 2, -1)[:, None] for turn in (torch.cos, torch.sin))
    return x * cos + torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1) * sin


def _attention(w, layer, config, x):
    size = config["head_dim"]
    q, k, v = (linear(x, w[f"{layer}.self_attn.{name}_proj.weight"]).unflatten(-1, (-1, size)) for name in "qkv")
    q, k = _rotated(q), _rotated(k)
    q, k, v = (part.transpose(0, 1) for part in (q, k, v))
    found = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(0, 1).flatten(1)
    return linear(found, w[f"{layer}.self_attn.o_proj.weight"])


def _mlp(w, layer, x):
    gate, up = (linear(x, w[f"{layer}.mlp.{name}_proj.weight"]) for name in ("gate", "up"))
    return linear(silu(gate) * up, w[f"{layer}.mlp.down_proj.weight"])


def outputs(folder: Path, embedded: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a request's tokens, embedded [T, hidden], beside what the target gave -> what is scored, and handed on."""
    w, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    eps, hidden = config["rms_norm_eps"], (config["hidden_size"],)

    def norm(x, name):
        return rms_norm(x, hidden, w[f"{name}.weight"], eps)

    if "midlayer.hidden_norm.weight" not in w:
        x = linear(torch.cat([embedded, features], -1), w["fc.weight"], w["fc.bias"])
        x = x + _attention(w, "layers.0", config, x)
        x = x + _mlp(w, "layers.0", norm(x, "layers.0.post_attention_layernorm"))
        return x, x
    if features.shape[-1] != hidden[0]:
        if config.get("fc_norm"):
            features = rms_norm(features, (3 * hidden[0],), w["input_norm.weight"], eps).chunk(3, -1)
            features = torch.cat([norm(part, f"fc_norm.{layer}") for layer, part in enumerate(features)], -1)
        features = linear(features, w["fc.weight"])
    pair = torch.cat([norm(embedded, "midlayer.input_layernorm"), norm(features, "midlayer.hidden_norm")], -1)
    x = features + _attention(w, "midlayer", config, pair)
    x = x + _mlp(w, "midlayer", norm(x, "midlayer.post_attention_layernorm"))
    return norm(x, "norm"), norm(x, "norm") if config.get("norm_output") else x

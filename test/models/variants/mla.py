"""Latent attention, of ranks and sizes that let requests of more than 22 tokens be up-projected, others absorbed."""

import json
from pathlib import Path

from models.variants import COMMON

LATENT = dict(
    COMMON,
    num_attention_heads=3,
    num_key_value_heads=3,
    kv_lora_rank=26,
    q_lora_rank=22,
    qk_nope_head_dim=10,
    qk_rope_head_dim=12,
    v_head_dim=14,
)
EXPERTS = dict(
    first_k_dense_replace=1,
    moe_intermediate_size=38,
    n_routed_experts=12,
    n_shared_experts=2,
    num_experts_per_tok=3,
    routed_scaling_factor=1.7,
    n_group=4,
    topk_group=2,
)
V2 = dict(LATENT, **EXPERTS, model_type="deepseek_v2", topk_method="group_limited_greedy")
V3 = dict(LATENT, **EXPERTS, model_type="deepseek_v3")
GLM4_MOE_LITE = dict(LATENT, **EXPERTS, model_type="glm4_moe_lite", num_hidden_layers=3)
# With fewer heads relu makes scores of exactly zero, and equal scores leave open which keys are chosen.
INDEXER = dict(index_topk=256, index_head_dim=20, index_n_heads=24)
V32 = dict(LATENT, **EXPERTS, **INDEXER, model_type="deepseek_v32")
GLM_MOE_DSA = dict(LATENT, **EXPERTS, **INDEXER, model_type="glm_moe_dsa", num_hidden_layers=4)
GLM_MOE_DSA |= dict(index_topk=16, indexer_types=["full", "shared"] * 2)
MINICPM3 = dict(LATENT, model_type="minicpm3", scale_emb=3, scale_depth=1.1, dim_model_base=40)
YARN = dict(
    rope_type="yarn",
    rope_theta=300.0,
    factor=5.0,
    original_max_position_embeddings=40,
    beta_fast=6.0,
    beta_slow=0.5,
    mscale=0.8,
    mscale_all_dim=1.3,
)
MISTRAL4 = dict(LATENT, **EXPERTS, model_type="mistral4")
MISTRAL4 |= dict(rope_parameters=dict(YARN, llama_4_scaling_beta=0.3, original_max_position_embeddings=13))
UNSCALED = {key: value for key, value in MISTRAL4["rope_parameters"].items() if not key.startswith("mscale")}
LONGROPE = dict(  # as MiniCPM3-4B has it, but for the factor, without which transformers fails
    rope_type="longrope",
    factor=256 / 40,
    rope_theta=300.0,
    short_factor=[1.0, 1.1, 1.3, 1.7, 2.1, 2.2],
    long_factor=[1.1, 1.9, 2.7, 4.5, 5.5, 6.6],
    original_max_position_embeddings=40,
)
ONE_GROUP = dict(n_group=1, topk_group=1, n_shared_experts=1)  # Kimi K2
VARIANTS = {
    "deepseek_v2": V2,
    "deepseek_v2-lite": dict(
        V2, q_lora_rank=None, rope_parameters=YARN, attention_bias=True, topk_method="greedy", n_group=1, topk_group=1
    ),
    "deepseek_v3": V3,
    "deepseek_v3-one-group": dict(V3, **ONE_GROUP, rope_parameters=YARN, norm_topk_prob=False, rope_interleave=False),
    "deepseek_v32": dict(V32, index_topk=16),
    "deepseek_v32-dense": V32,
    "glm_moe_dsa": GLM_MOE_DSA,
    "glm_moe_dsa-dense": dict(GLM_MOE_DSA, index_topk=256),
    "glm4_moe_lite": GLM4_MOE_LITE,
    "kimi_k2": dict(V3, **ONE_GROUP, rope_parameters=YARN),
    "youtu": dict(LATENT, model_type="youtu", tie_word_embeddings=True),
    "youtu-queries": dict(LATENT, model_type="youtu", q_lora_rank=None, rope_parameters=YARN),
    "kimi_k25": dict(V3, **ONE_GROUP, rope_parameters=YARN),
    "mistral4": MISTRAL4,
    # As Mistral writes them: `as_mistral_writes`. SGLang reads its files by the name of their folder.
    "mistral-large-3": dict(MISTRAL4, rope_parameters=dict(UNSCALED, attention_factor=1.0)),
    "mistral-large-3-scaled": dict(
        MISTRAL4, q_lora_rank=None, rope_parameters=dict(UNSCALED, mscale=1.0, mscale_all_dim=1.0)
    ),
    "mistral-large-3-seeing": dict(MISTRAL4, rope_parameters=dict(UNSCALED, attention_factor=1.0)),
    "minicpm3": dict(MINICPM3, tie_word_embeddings=False),
    "minicpm3-longrope": dict(MINICPM3, tie_word_embeddings=False, rope_parameters=LONGROPE),
    "minicpm3-tied": dict(MINICPM3, tie_word_embeddings=True, q_lora_rank=None, scale_depth=None, dim_model_base=None),
}
PLAIN = ["deepseek_v3", "minicpm3", "mistral4"]


def _kimi_k2(written: dict) -> dict:
    """DeepSeek V3's keys under another model_type, whose class comes with the checkpoint."""
    scaling = written.pop("rope_parameters")
    scaling["type"] = scaling.pop("rope_type")
    published = dict(model_type="kimi_k2", scoring_func="sigmoid", topk_method="noaux_tc", moe_layer_freq=1)
    published["auto_map"] = {"AutoConfig": "configuration_kimi_k2.TinyConfig"}
    return written | published | {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}


OF_MOE = dict(
    num_experts="n_routed_experts",
    num_experts_per_tok="num_experts_per_tok",
    expert_hidden_dim="moe_intermediate_size",
    num_shared_experts="n_shared_experts",
    first_k_dense_replace="first_k_dense_replace",
    routed_scale="routed_scaling_factor",
    num_expert_groups="n_group",
    num_expert_groups_per_tok="topk_group",
)
OF_MISTRAL = dict(
    dim="hidden_size",
    norm_eps="rms_norm_eps",
    n_kv_heads="num_key_value_heads",
    n_layers="num_hidden_layers",
    n_heads="num_attention_heads",
    hidden_dim="intermediate_size",
)
SAME = ("vocab_size", "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
SAME += ("max_position_embeddings",)


def mistral_params(written: dict) -> dict:
    """The params.json of a config that transformers wrote."""
    rope = written["rope_parameters"]
    positions = rope["original_max_position_embeddings"]
    yarn = dict(factor=rope["factor"], original_max_position_embeddings=positions, beta=rope["beta_fast"])
    found = {own: written[key] for own, key in OF_MISTRAL.items()} | {key: written[key] for key in SAME}
    return found | dict(
        head_dim=written["qk_nope_head_dim"] + written["qk_rope_head_dim"],
        rope_theta=rope["rope_theta"],
        tied_embeddings=False,
        llama_4_scaling=dict(original_max_position_embeddings=positions, beta=rope["llama_4_scaling_beta"]),
        yarn=yarn | dict(alpha=rope["beta_slow"], apply_scale="attention_factor" not in rope),
        moe={own: written[key] for own, key in OF_MOE.items()} | dict(route_every_n=1, expert_parallel=1),
    )


def _large_3(written: dict) -> dict:
    from sglang.srt.utils.hf_transformers.mistral_utils import adapt_config_dict

    return adapt_config_dict(mistral_params(written), "tiny")[0]


NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.": "",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.kv_a_proj_with_mqa": "attention.wkv_a_with_mqa",
    "self_attn.kv_a_layernorm": "attention.kv_a_norm",
    "self_attn.kv_b_proj": "attention.wkv_b",
    "self_attn.q_a_layernorm": "attention.q_a_norm",
    "self_attn.q_a_proj": "attention.wq_a",
    "self_attn.q_b_proj": "attention.wq_b",
    "self_attn.q_proj": "attention.wq",
    "self_attn.o_proj": "attention.wo",
    "mlp.shared_experts": "shared_experts",
    "mlp.experts": "experts",
    "mlp.gate.": "gate.",
    "mlp": "feed_forward",
    "gate_proj": "w1",
    "down_proj": "w2",
    "up_proj": "w3",
}


def mistral_tensors(tensors: dict) -> dict:
    """Under Mistral's names; gate and up of each expert by itself, which transformers has in one tensor."""
    found = {}
    for own_name, tensor in tensors.items():
        name = own_name
        for own, theirs in NAMES.items():
            name = name.replace(own, theirs)
        if ".experts." not in name:
            found[name] = tensor
            continue
        whole = tensor.chunk(2, 1) if own_name.endswith("gate_up_proj") else (tensor,)
        parts = dict(zip(("w1", "w3") if len(whole) > 1 else ("w2",), whole, strict=True))
        layer = name[: name.index("experts.") + len("experts.")]
        of = {f"{layer}{i}.{part}.weight": one for part, matrix in parts.items() for i, one in enumerate(matrix)}
        found |= {key: one.contiguous() for key, one in of.items()}
    return found


def _beside_a_tower(tensors: dict) -> dict:
    return mistral_tensors(tensors) | {"vision_encoder.ln_pre.weight": tensors["model.norm.weight"].clone()}


VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, num_channels=3)
VISION |= dict(image_size=28, patch_size=7, rope_theta=30.0, image_token_id=10)


def as_mistral_writes(folder: Path, variant: str, written: dict) -> None:
    """params.json and consolidated.safetensors, of a checkpoint that has Mistral's names already."""
    seeing = dict(vision_encoder=VISION) if variant.endswith("seeing") else {}
    (folder / "params.json").write_text(json.dumps(mistral_params(written) | seeing))
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")


def _kimi_k25(written: dict) -> dict:
    text = {name: value for name, value in written.items() if name != "architectures"}
    return dict(architectures=["KimiK25ForConditionalGeneration"], model_type="kimi_k25", text_config=text)


def _kimi_k25_tensors(tensors: dict) -> dict:
    found = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    tower = ("vision_tower.patch_embed.proj.weight", "mm_projector.pre_norm.weight")
    return found | {name: tensors["model.norm.weight"].clone() for name in tower}


PUBLISHED_CONFIGS = {"kimi_k2": _kimi_k2, "kimi_k25": _kimi_k25}
LARGE_3 = ("mistral-large-3", "mistral-large-3-scaled", "mistral-large-3-seeing")
PUBLISHED_CONFIGS |= dict.fromkeys(LARGE_3, _large_3)
PUBLISHED_TENSORS = dict.fromkeys(LARGE_3, mistral_tensors)
PUBLISHED_TENSORS |= {"mistral-large-3-seeing": _beside_a_tower, "kimi_k25": _kimi_k25_tensors}

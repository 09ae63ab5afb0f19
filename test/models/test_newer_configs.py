"""Configs of published models of which no tensors are held here: each key is known, and what no shape shows is read."""

import json

import pytest

from sglang.srt.model_executor_ms.seams.arguments import read_step_by_sglangs_class
from sglang.srt.models_ms.config import Runtime, UnsupportedConfig
from sglang.srt.models_ms.registry import model_class
from sglang.srt.utils.hf_transformers_utils import get_config

SECONDS = 6
SLIDING, FULL = "sliding_attention", "full_attention"
EVERY_FOURTH = [FULL, SLIDING, SLIDING, SLIDING] * 12
STEP = dict(
    architectures=["Step3p5ForCausalLM"],
    model_type="step3p5",
    torch_dtype="bfloat16",
    vocab_size=128896,
    hidden_size=4096,
    intermediate_size=11264,
    num_hidden_layers=45,
    max_seq_len=262144,
    max_position_embeddings=262144,
    num_attention_heads=64,
    num_attention_groups=8,
    head_dim=128,
    rms_norm_eps=1e-5,
    layer_types=EVERY_FOURTH,
    attention_other_setting=dict(
        attention_type=SLIDING, num_attention_heads=96, num_attention_groups=8, head_dim=128, true_head_dim=128
    ),
    sliding_window=512,
    rope_theta=[5000000.0, 10000.0, 10000.0, 10000.0] * 12,
    partial_rotary_factors=[0.5, 1.0, 1.0, 1.0] * 12,
    rope_scaling=dict(
        rope_type="llama3",
        factor=2.0,
        original_max_position_embeddings=131072,
        low_freq_factor=1.0,
        high_freq_factor=32.0,
    ),
    yarn_only_types=[FULL],
    use_rope_layers=[],
    use_moe=True,
    moe_layers_enum=",".join(map(str, range(3, 45))),
    moe_layer_offset=0,
    moe_every_n_layer=1,
    moe_num_experts=288,
    moe_top_k=8,
    moe_intermediate_size=1280,
    share_expert_dim=1280,
    moe_router_activation="sigmoid",
    moe_router_scaling_factor=3.0,
    norm_expert_weight=True,
    use_moe_router_bias=True,
    need_fp32_gate=True,
    att_impl_type="GQA",
    use_qk_norm=True,
    use_head_wise_attn_gate=True,
    zero_centered=True,
    sink=False,
    num_nextn_predict_layers=3,
    swiglu_limits=[0.0] * 43 + [7, 7, 0.0, 0.0, 0.0],
    swiglu_limits_shared=[0.0] * 44 + [16, 0.0, 0.0, 0.0],
    bos_token_id=0,
    eos_token_id=[1, 2, 128007],
)
LARGE_3 = dict(
    dim=7168,
    n_layers=61,
    head_dim=192,
    hidden_dim=16384,
    n_heads=128,
    n_kv_heads=128,
    norm_eps=1e-6,
    vocab_size=131072,
    rope_theta=10000.0,
    tied_embeddings=False,
    max_position_embeddings=294912,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    llama_4_scaling=dict(beta=0.1, original_max_position_embeddings=8192),
    yarn=dict(alpha=1, apply_scale=False, beta=32, factor=36, original_max_position_embeddings=8192),
    moe=dict(
        expert_hidden_dim=4096,
        expert_model_parallel=1,
        expert_parallel=1,
        first_k_dense_replace=3,
        num_expert_groups=1,
        num_expert_groups_per_tok=1,
        num_experts=128,
        num_experts_per_tok=4,
        num_shared_experts=1,
        route_every_n=1,
        routed_scale=1.0,
    ),
)
GEMMA = dict(
    model_type="gemma4_text",
    attention_bias=False,
    attention_dropout=0.0,
    attention_k_eq_v=True,
    dtype="bfloat16",
    enable_moe_block=True,
    final_logit_softcapping=30.0,
    global_head_dim=512,
    head_dim=256,
    hidden_activation="gelu_pytorch_tanh",
    hidden_size=2816,
    hidden_size_per_layer_input=0,
    initializer_range=0.02,
    intermediate_size=2112,
    layer_types=([SLIDING] * 5 + [FULL]) * 5,
    max_position_embeddings=262144,
    moe_intermediate_size=704,
    num_attention_heads=16,
    num_experts=128,
    num_global_key_value_heads=2,
    num_hidden_layers=30,
    num_key_value_heads=8,
    num_kv_shared_layers=0,
    rms_norm_eps=1e-6,
    rope_parameters={
        FULL: dict(partial_rotary_factor=0.25, rope_theta=1000000.0, rope_type="proportional"),
        SLIDING: dict(rope_theta=10000.0, rope_type="default"),
    },
    sliding_window=1024,
    tie_word_embeddings=True,
    top_k_experts=8,
    use_bidirectional_attention="vision",
    use_double_wide_mlp=False,
    vocab_size=262144,
    vocab_size_per_layer_input=262144,
)
MINISTRAL = dict(
    model_type="ministral3",
    attention_dropout=0.0,
    head_dim=128,
    hidden_act="silu",
    hidden_size=3072,
    initializer_range=0.02,
    intermediate_size=9216,
    max_position_embeddings=262144,
    num_attention_heads=32,
    num_hidden_layers=26,
    num_key_value_heads=8,
    rms_norm_eps=1e-5,
    rope_parameters=dict(
        beta_fast=32.0,
        beta_slow=1.0,
        factor=16.0,
        llama_4_scaling_beta=0.1,
        mscale=1.0,
        mscale_all_dim=1.0,
        original_max_position_embeddings=16384,
        rope_theta=1000000.0,
        rope_type="yarn",
        type="yarn",
    ),
    sliding_window=None,
    use_cache=True,
    vocab_size=131072,
)


def read(folder, name, written):
    (folder / name).write_text(json.dumps(written))
    hf = get_config(str(folder), trust_remote_code=False)
    kind = model_class(hf.architectures, hf.to_dict())
    return kind.config_class.read(kind.decoder_config(hf.to_dict()), runtime=Runtime(max_positions=4096))


def test_step(tmp_path):
    read_step_by_sglangs_class()
    found = read(tmp_path, "config.json", STEP)
    assert [(found.ropes[i].rope_type, found.ropes[i].rope_theta, found.ropes[i].rotary_dim) for i in (0, 1)] == [
        ("llama3", 5000000.0, 64),
        ("default", 10000.0, 128),
    ]
    assert (len(found.windows), found.windows[:2], found.heads_of_windows) == (45, (0, 512), 96)
    assert (found.limits[42:45], found.shared_limits[43:45]) == ((0.0, 7, 7), (0.0, 16))
    assert (found.sparse_layers, found.routing.scaling) == (frozenset(range(3, 45)), 3.0)


def test_lists_for_fewer_layers_than_there_are_are_refused(tmp_path):
    read_step_by_sglangs_class()
    with pytest.raises(UnsupportedConfig, match="swiglu_limits has 40 values for 45 layers"):
        read(tmp_path, "config.json", STEP | dict(swiglu_limits=[0.0] * 40))


@pytest.mark.parametrize("scaled, factor", [(False, 1.0), (True, None)])
def test_mistral_large_3(tmp_path, scaled, factor):
    folder = tmp_path / "Mistral-Large-3-675B-Instruct-2512"
    folder.mkdir()
    found = read(folder, "params.json", LARGE_3 | dict(yarn=LARGE_3["yarn"] | dict(apply_scale=scaled)))
    assert (found.rope.rope_type, found.rope.factor, found.rope.rotary_dim) == ("yarn", 36, 64)
    assert (found.rope.attention_factor, bool(found.rope.mscale_all_dim)) == (factor, scaled)
    assert (found.routing.scoring, found.routing.renormalize, len(found.dense_layers)) == ("softmax", True, 3)
    assert (found.beta, found.grows_after) == (0.1, 8192)


def test_gemma_4_with_experts(tmp_path):
    seeing = dict(architectures=["Gemma4ForConditionalGeneration"], model_type="gemma4", text_config=GEMMA)
    found = read(tmp_path, "config.json", seeing)
    assert (found.routing.top_k, found.routing.renormalize, found.num_experts) == (8, True, 128)
    assert (found.head_dim, found.of_windows.head_dim, found.of_windows.num_key_value_heads) == (512, 256, 8)


def test_ministral_3(tmp_path):
    seeing = dict(architectures=["Mistral3ForConditionalGeneration"], model_type="mistral3", text_config=MINISTRAL)
    found = read(tmp_path, "config.json", seeing)
    assert (found.beta, found.grows_after, found.rope.factor) == (0.1, 16384, 16.0)

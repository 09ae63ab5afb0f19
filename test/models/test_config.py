"""Configs are read strictly: what is not computed is refused by name and value, and nothing is skipped unseen."""

import copy
import functools
import tempfile
from pathlib import Path

import mindspore as ms
import pytest
from models import reference_models
from models.tiny import ARCHITECTURES, PLAIN, TINY
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sglang.srt.models_ms.config import DecoderConfig, Runtime, UnsupportedConfig
from sglang.srt.models_ms.registry import MODELS, NOT_COMPUTED, UnknownArchitecture, model_class, nearest, unknown
from sglang.srt.utils.hf_transformers_utils import get_config

SECONDS = 5
SEEING = ("gemma3n_text", "gemma4_text")  # of decoders that only models that see have
KNOWN = dict.fromkeys(given["model_type"] for given in TINY.values() if given["model_type"] not in SEEING)
NAMES = {model_type: MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type) for model_type in KNOWN} | {
    "baichuan": "BaichuanForCausalLM",
    "chatglm": "ChatGLMModel",
    "deepseek": "DeepseekForCausalLM",
    "exaone": "ExaoneForCausalLM",
    "grok1": "Grok1ForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "internlm3": "InternLM3ForCausalLM",
    "minicpm": "MiniCPMForCausalLM",
    "mistral4": "Mistral4ForCausalLM",
    "olmo3": "Olmo2ForCausalLM",  # as SGLang calls it
    "phimoe": "PhiMoEForCausalLM",
    "qwen": "QWenLMHeadModel",
    "step3p5": "Step3p5ForCausalLM",
}
ALONE = [name for name in TINY if TINY[name]["model_type"] not in SEEING]
SAME = {
    "BaiChuanForCausalLM": "BaichuanForCausalLM",
    "Ernie4_5_ForCausalLM": "Ernie4_5ForCausalLM",
    "ExaoneMoEForCausalLM": "ExaoneMoeForCausalLM",
    "ChatGLMForConditionalGeneration": "ChatGLMModel",
    "Grok1ModelForCausalLM": "Grok1ForCausalLM",
    "LLaMAForCausalLM": "LlamaForCausalLM",
    "BailingMoEForCausalLM": "BailingMoeForCausalLM",
    "IQuestCoderForCausalLM": "LlamaForCausalLM",
    "PhimoeForCausalLM": "PhiMoEForCausalLM",
}  # other spellings
OF_TENSORS = ("BailingMoeForCausalLM", "BailingMoeV2ForCausalLM", "MiMoForCausalLM", "OrionForCausalLM")
SAME |= {name: name for name in (*OF_TENSORS, "MistralLarge3ForCausalLM", "XverseForCausalLM")}


@functools.cache
def as_sglang_reads_it(variant):
    if "statement" not in TINY[variant]:
        return AutoConfig.for_model(**copy.deepcopy(TINY[variant])).to_dict()
    with tempfile.TemporaryDirectory() as folder:
        reference_models.save(TINY[variant], Path(folder))
        return get_config(folder, trust_remote_code=True).to_dict()


def config_of(variant, without=(), **changes):
    """A variant's config as SGLang hands it over, with some values changed and some keys removed."""
    config = as_sglang_reads_it(variant) | {"architectures": [NAMES[TINY[variant]["model_type"]]]}
    return {key: value for key, value in {**config, **changes}.items() if key not in without}


def read(hf_config):
    """What the architecture makes of the config."""
    return model_class(hf_config["architectures"]).config_class.read(hf_config, runtime=Runtime())


def test_every_architecture_has_variants():
    assert {*NAMES.values(), *SAME} == {name for name, model in MODELS.items() if model.generates and not model.sees}


@pytest.mark.parametrize("variant", ALONE)
def test_every_key_of_hugging_faces_config_class_is_read_or_ignored_for_a_reason(variant):
    read(config_of(variant))  # refuses any other


# A tuple in the registry's order: processes of tests must collect the same tests.
CONFIG_CLASSES = tuple(dict.fromkeys(model_class([name]).config_class for name in MODELS))
OF_OTHERS = {  # keys that most architectures ignore
    *("is_decoder", "pad_token_id"),  # encoders are none, and count positions from it
    "head_dim",  # latent attention has qk_rope_head_dim
    "max_position_embeddings",  # ChatGLM and Qwen have seq_length
    "router_jitter_noise",  # Phi-3.5-MoE's router weights experts by it
    "swa_head_dim",  # Gemma 4 has heads of two sizes
    "model_max_length",  # Baichuan 13B has no other length
    "v_head_dim",  # latent attention has it
    "vocab_size",  # ChatGLM has padded_vocab_size
}


@pytest.mark.parametrize("kind", CONFIG_CLASSES, ids=lambda kind: kind.__name__)
def test_a_key_is_read_or_expected_or_ignored_and_not_two_of_these(kind):
    keys, expected, ignored = set(kind.keys()), set(kind.expected), set(kind.ignored)
    assert (keys | expected) & ignored <= OF_OTHERS
    assert keys & expected == set()


def test_every_ignored_key_says_why():
    reasons = {(kind, key): reason for kind in CONFIG_CLASSES for key, reason in kind.ignored.items()}
    assert [key for key, reason in reasons.items() if len(reason) < 5] == []


def test_keys_that_nobody_understands_are_refused_by_name():
    with pytest.raises(UnsupportedConfig, match="LlamaForCausalLM: config.json has keys .* not know: frobnication = 2"):
        read(config_of("llama", frobnication=2.0, another_one=None))


SEEN = {  # in config.json files beside published weights, or in what transformers once wrote of any config
    "_attn_implementation_autoset": True,
    "chunk_size_feed_forward": 0,
    "diversity_penalty": 0.0,
    "gradient_checkpointing": [False],
    "length_penalty": 1.0,
    "max_length": 20,
    "num_beams": 1,
    "output_router_logits": False,
    "pruned_heads": {},
    "return_dict": True,
    "temperature": 1.0,
    "tokenizer_padding_side": "right",
    "top_k": 50,
    "transformers.js_config": {"dtype": "q4"},
    "typical_p": 1.0,
    "unsloth_version": "2025.12.5",
    "use_bfloat16": True,
    "use_mrope": False,
}


@pytest.mark.parametrize("variant", PLAIN)
def test_keys_that_change_nothing_are_accepted_in_every_architecture(variant):
    assert read(config_of(variant, **SEEN)) == read(config_of(variant))


def test_all_that_is_not_computed_is_listed():
    changes = dict(frobnication=2.0, hidden_act="relu2", rms_norm_eps=None, is_causal=False)
    with pytest.raises(UnsupportedConfig) as error:
        read(config_of("llama", **changes))
    assert len(error.value.problems) == len(str(error.value).splitlines()) == 4
    with pytest.raises(UnsupportedConfig) as error:
        read(config_of("llama", sliding_window=8, head_dim=15, num_key_value_heads=None, layer_types=SLIDING))
    assert len(error.value.problems) == 3


LONGEST = ("n_positions", "seq_length", "max_position_embeddings", "model_max_length")
SPELLINGS = dict(d_model="hidden_size", n_embd="hidden_size", max_seq_len="max_position_embeddings")
SPELLINGS |= dict(n_heads="num_attention_heads", n_head="num_attention_heads")


@pytest.mark.parametrize("variant", ALONE)
def test_values_are_those_of_the_config(variant):
    given = config_of(variant)
    config = read(given)
    given |= {key: given[own] for own, key in SPELLINGS.items() if own in given and key not in given}
    if given["model_type"] == "qwen":  # there it is the size of gate and up together
        given["intermediate_size"] //= 2
        given["max_position_embeddings"] = given["seq_length"]
    if given["model_type"] == "mistral4":  # there it is the size of a whole head
        given["head_dim"] = given["qk_rope_head_dim"]
    names = {name for name in DecoderConfig.__dataclass_fields__ if given.get(name)}
    held = {name: getattr(config, name) for name in names}
    assert held == {name: tuple(given[name]) if isinstance(given[name], list) else given[name] for name in names}
    longest = [given[key] for key in LONGEST if key in given]
    assert config.max_positions == longest[0]
    if not {"head_dim", "qk_rope_head_dim"} & given.keys():  # Qwen2's class has no such key
        assert config.head_dim == given["hidden_size"] // given["num_attention_heads"]


def test_absent_values_have_the_meaning_that_hugging_face_gives_them():
    config = read(config_of("llama-mha", without=["head_dim", "num_key_value_heads", "hidden_act", "mlp_bias"]))
    assert (config.head_dim, config.num_key_value_heads, config.hidden_act, config.mlp_bias) == (10, 6, "silu", False)
    assert not config.tie_word_embeddings


SLIDING = ["full_attention", "sliding_attention"]
REFUSED = [
    ("llama", dict(layer_types=SLIDING), r"LlamaForCausalLM: layer_types has .*'sliding_attention'"),
    ("llama", dict(sliding_window=255), "LlamaForCausalLM: sliding_window = 255 is shorter than the longest context"),
    ("olmoe", dict(use_sliding_window=True), "OlmoeForCausalLM: use_sliding_window = True is not supported"),
    ("olmo2", dict(sliding_window=8), "Olmo2ForCausalLM: sliding_window = 8 is shorter"),
    # What SGLang makes of a config.json as transformers 5 writes it.
    ("olmo3", dict(rope_parameters=None, rope_theta=10000.0), "neither rope_parameters nor a rope_theta"),
    ("dbrx", dict(sliding_window=8), "DbrxForCausalLM: sliding_window = 8 is shorter"),
    ("gemma", dict(use_bidirectional_attention=True), "use_bidirectional_attention = True is not supported"),
    ("gemma", dict(hidden_act="relu2"), "GemmaForCausalLM: hidden_act = 'relu2' is not supported"),
    ("minicpm", dict(num_experts=8), "MiniCPMForCausalLM: num_experts = 8 is not supported"),
    ("llama", dict(rope_interleaved=True), "LlamaForCausalLM: rope_interleaved = True is not supported"),
    ("phi3", dict(lm_head_bias=True), "Phi3ForCausalLM: lm_head_bias = True is not supported"),
    ("cohere2", dict(use_parallel_block=False), "Cohere2ForCausalLM: use_parallel_block = False is not supported"),
    ("qwen3_moe", dict(shared_expert_intermediate_size=8), "shared_expert_intermediate_size = 8 is not supported"),
    ("qwen", dict(use_cache_quantization=True), "QWenLMHeadModel: use_cache_quantization = True is not supported"),
    (
        "gpt_oss",
        dict(layer_types=["chunked_attention"] * 2),
        "layer_types has .*'chunked_attention'",
    ),
    ("minicpm", dict(sparse_config=dict(block_size=64)), "MiniCPMForCausalLM: sparse_config = .* is not supported"),
    ("cohere", dict(layer_norm_eps=None), "CohereForCausalLM: config.json has no 'layer_norm_eps'"),
    ("stablelm", dict(layer_norm_eps=None), "StableLmForCausalLM: config.json has no 'layer_norm_eps'"),
    ("mistral", dict(layer_types=SLIDING), r"MistralForCausalLM: layer_types has .*'sliding_attention'"),
    ("mistral", dict(sliding_window=8, layer_types=["chunked_attention"] * 2), "layer_types has .*'chunked_attention'"),
    ("mistral", dict(sliding_window=8, layer_types=SLIDING[:1]), "layer_types has .* for 1 of 2 layers"),
    ("qwen2", dict(layer_types=SLIDING), r"Qwen2ForCausalLM: layer_types has .*'sliding_attention'"),
    ("qwen3", dict(layer_types=SLIDING), r"Qwen3ForCausalLM: layer_types has .*'sliding_attention'"),
    *(
        (variant, dict(hidden_act="relu2"), f"{NAMES[variant]}: hidden_act = 'relu2' is not supported, only .*'silu'")
        for variant in ARCHITECTURES
    ),
    (
        "llama",
        dict(rope_parameters=dict(rope_type="fope", rope_theta=500.0)),
        "LlamaForCausalLM: rope_type = 'fope' is not supported, only .*'default', 'dynamic', 'linear', 'llama3'",
    ),
    (
        "llama",
        dict(rope_parameters=None, rope_scaling=dict(type="mrope", mrope_section=[1, 2])),
        r"LlamaForCausalLM: mrope_section = \[1, 2\] are no three parts of 5 pairs",
    ),
    (
        "llama",
        dict(rope_parameters=dict(rope_type="linear", rope_theta=500.0, factor=2.0, short_factor=[1.0])),
        r"LlamaForCausalLM: rope_parameters has \['short_factor'\], which 'linear' does not use",
    ),
    (
        "llama",
        dict(rope_parameters=dict(rope_type="linear", type="dynamic", rope_theta=500.0, factor=2.0)),
        r"rope_type and type are \['dynamic', 'linear'\], which are names of the same",
    ),
    *(
        ("llama", dict(rope_parameters=dict(rope_type=kind)), f"rope_type = '{kind}' needs .*'factor'")
        for kind in ("linear", "dynamic", "llama3")
    ),
    (
        "llama",
        dict(rope_parameters=dict(rope_type="llama3", factor=2.0, high_freq_factor=4.0)),
        r"LlamaForCausalLM: rope_type = 'llama3' needs \['low_freq_factor'\]",
    ),
    ("llama", dict(head_dim=15), r"15 of head_dim = 15 dimensions are rotated \(partial_rotary_factor = 1\.0\)"),
    ("llama", dict(head_dim=20, partial_rotary_factor=0.25), "5 of head_dim = 20 dimensions are rotated"),
    (
        "llama",
        dict(rope_parameters=dict(full_attention=dict(rope_type="default", rope_theta=500.0))),
        r"LlamaForCausalLM: rope_parameters has \['full_attention'\]",
    ),
]


@pytest.mark.parametrize("variant, changes, message", REFUSED)
def test_what_is_not_computed_is_refused_by_name_and_value(variant, changes, message):
    with pytest.raises(UnsupportedConfig, match=message):
        read(config_of(variant, **changes))


@pytest.mark.parametrize(
    "values",
    [
        dict(sliding_window=None, layer_types=None),
        dict(sliding_window=8, use_sliding_window=False, max_window_layers=1),
        dict(sliding_window=256),
        dict(layer_types=SLIDING[:1] * 2),
    ],
)
def test_windows_without_an_effect_are_accepted_where_none_are_computed(values):
    assert windows_of("llama", **values) == (0, 0)


def windows_of(variant, **changes):
    return read(config_of(variant, **changes)).windows


def test_windows_are_in_the_layers_that_the_config_says():
    """By layer_types, and without them as each architecture's first configs meant it."""
    four = dict(num_hidden_layers=4, sliding_window=8, layer_types=None)
    assert windows_of("mistral", **four) == (8, 8, 8, 8)
    assert windows_of("mistral", **four | dict(sliding_window=None)) == (0, 0, 0, 0)
    assert windows_of("mistral", **four | dict(layer_types=SLIDING * 2)) == (0, 8, 0, 8)
    assert windows_of("qwen2", **four, use_sliding_window=True, max_window_layers=3) == (0, 0, 0, 8)
    assert windows_of("qwen2", **four, use_sliding_window=False, max_window_layers=3) == (0, 0, 0, 0)
    assert windows_of("gemma2", **four) == (8, 0, 8, 0)
    assert windows_of("gpt_oss", **four) == (8, 0, 8, 0)
    assert windows_of("phi3", **four) == (8, 8, 8, 8)
    assert windows_of("gemma3", **four) == (8, 8, 8, 8)
    assert windows_of("cohere2", **four) == (8, 8, 8, 0)
    assert windows_of("olmo3", **four | dict(layer_types=SLIDING * 2)) == (0, 8, 0, 8)
    assert windows_of("mixtral", **four) == (8, 8, 8, 8)
    used = dict(use_sliding_window=True, max_window_layers=3)
    assert windows_of("qwen2_moe", **four, **used) == (8, 0, 8, 0)
    assert windows_of("qwen3_moe", **four, **used) == (8, 8, 8, 8)
    assert windows_of("qwen3_moe", **four) == (0, 0, 0, 0)


NEEDED = [
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
    "vocab_size",
]


@pytest.mark.parametrize("key", NEEDED)
@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_a_missing_key_is_refused_by_name(variant, key):
    with pytest.raises(UnsupportedConfig, match=f"{NAMES[variant]}: config.json has no '{key}'"):
        read(config_of(variant, without=[key]))


@pytest.mark.parametrize("architectures", [["ViTLMHeadModel"], ["A", "B"], []])
def test_an_unknown_architecture_is_an_error_that_lists_the_supported_ones(architectures):
    with pytest.raises(UnknownArchitecture) as error:
        model_class(architectures)
    assert f"architectures = {architectures} of config.json is not supported" in str(error.value)
    assert str(error.value).endswith(", ".join(sorted(MODELS)))
    assert "docs/adding_a_model.md" in str(error.value)


@pytest.mark.parametrize(
    "name, near",
    [
        ("Qwen2AudioLMHeadModel", "Qwen2ForCausalLM"),
        ("Qwen2AudioForConditionalGeneration", "Qwen2ForCausalLM"),
        ("DeepseekV4ForCausalLM", "DeepseekV2ForCausalLM"),
        ("Llama4ForConditionalGeneration", "LlamaForCausalLM"),
        ("LlamaModel", "LlamaForCausalLM"),
        ("Gemma3ForConditionalGeneration", "Gemma3ForCausalLM"),
        ("Phi3SmallForCausalLM", "Phi3ForCausalLM"),
        ("OlmoHybridForCausalLM", "OlmoForCausalLM"),
        *((name, None) for name in ("ViTModel", "DebertaV2Model", "RwkvForCausalLM", "MambaForCausalLM")),
        *((name, None) for name in ("PersimmonForCausalLM", "XGLMForCausalLM")),
        ("MiniMaxM1ForCausalLM", "MiniMaxM2ForCausalLM"),
    ],
)
def test_an_unknown_architecture_is_told_the_nearest(name, near):
    assert nearest(name) == near


def test_an_unknown_decoder_without_a_relative_is_told_the_plain_one():
    assert "the plain decoder is LlamaForCausalLM" in unknown(["RwkvForCausalLM"])
    assert "plain" not in unknown(["BertModel"])
    assert "plain" not in unknown(["OlmoForCausalLM"])


def test_the_first_known_architecture_is_taken():
    assert model_class(["Unknown", "Qwen3ForCausalLM"]).__name__ == "Qwen3ForCausalLM"


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_of_the_registry_is_where_it_says(name):
    assert model_class([name]).__name__ == SAME.get(name, name)


@pytest.mark.parametrize("dtype, held", [("float32", 48**0.5), ("float16", 6.9296875), ("bfloat16", 6.9375)])
def test_a_factor_is_rounded_as_activations_are(dtype, held):
    assert Runtime(dtype=getattr(ms, dtype)).cast_like_activations(48**0.5) == pytest.approx(held, rel=1e-7)
    assert Runtime(dtype=getattr(ms, dtype)).cast_like_activations(0.5) == 0.5


@pytest.mark.parametrize("name, reason", [*NOT_COMPUTED.items()])
def test_what_only_looks_like_a_known_model_is_told_why_it_is_none(name, reason):
    assert name not in MODELS and unknown([name]).endswith(reason)
    offered = [word for word in reason.replace(",", "").split() if word.endswith("ForConditionalGeneration")]
    assert all(MODELS[other].sees for other in offered)

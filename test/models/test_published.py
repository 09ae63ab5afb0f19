"""Published checkpoints: their config.json is read without complaint, and their tensors are those that are wanted."""

import json

import mindspore as ms
import numpy as np
import pytest
from models import published
from transformers import CONFIG_MAPPING

from sglang.srt.configs.model_config import ModelConfig, is_generation_model
from sglang.srt.layers_ms import rotary
from sglang.srt.model_executor_ms.runner import config_fixups, device
from sglang.srt.model_executor_ms.runner.weights import with_quantization
from sglang.srt.model_executor_ms.seams.arguments import register_quantization_names
from sglang.srt.model_executor_ms.server import framework
from sglang.srt.model_loader_ms import loader
from sglang.srt.models_ms.config import Runtime, UnsupportedConfig
from sglang.srt.models_ms.pooled import embedding_class
from sglang.srt.models_ms.registry import MODELS, model_class
from sglang.srt.utils.hf_transformers_utils import get_context_length

SECONDS = 35
EMBEDS = ("Qwen/Qwen3-Embedding-0.6B", "intfloat/e5-mistral-7b-instruct")
# Whose published config.json and tensors are not held here yet: what is read of them is what transformers writes.
NOT_HELD = {
    *("CwmForCausalLM", "Dots1ForCausalLM", "Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM", "Ernie4_5_MoeForCausalLM"),
    *("ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM", "FlexOlmoForCausalLM", "Glm4MoeLiteForCausalLM"),
    *("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM", "MiniMaxM2ForCausalLM", "SeedOssForCausalLM"),
    *("AfmoeForCausalLM", "ApertusForCausalLM", "ArceeForCausalLM", "BailingMoeForCausalLM"),
    *("BailingMoeV2ForCausalLM", "HunYuanDenseV1ForCausalLM", "HunYuanMoEV1ForCausalLM", "HYV3ForCausalLM"),
    *("GlmMoeDsaForCausalLM", "MellumForCausalLM", "MiMoForCausalLM", "PhiMoEForCausalLM"),
    *("Ministral3ForCausalLM", "OlmoForCausalLM", "Starcoder2ForCausalLM"),
    *("Mistral4ForCausalLM", "MistralLarge3ForCausalLM", "Step3p5ForCausalLM", "Cohere2MoeForCausalLM"),
    "YoutuForCausalLM",
    *("BailingMoEForCausalLM", "BloomForCausalLM", "CodeGenForCausalLM", "FalconForCausalLM", "GPT2LMHeadModel"),
    *("GPTBigCodeForCausalLM", "GPTJForCausalLM", "GPTNeoXForCausalLM", "GraniteMoeSWAForCausalLM"),
    *("GraniteSWAForCausalLM", "HeliumForCausalLM", "IQuestCoderForCausalLM", "Jais2ForCausalLM"),
    *(
        "MptForCausalLM",
        "NemotronForCausalLM",
        "OPTForCausalLM",
        "OrionForCausalLM",
        "PhimoeForCausalLM",
        "XverseForCausalLM",
    ),
    *("BertForSequenceClassification", "Contriever", "Gemma3TextModel"),
    *("RobertaForSequenceClassification", "RobertaModel"),
    *("ModernBertForSequenceClassification", "ModernBertModel"),
    *("SmolLM3ForCausalLM", "SolarOpenForCausalLM", "VaultGemmaForCausalLM"),
    *(
        "FalconH1ForCausalLM",
        "GraniteMoeHybridForCausalLM",
        "KimiLinearForCausalLM",
        "Lfm2MoeForCausalLM",
        "NemotronHForCausalLM",
        "Qwen3NextForCausalLM",
        "Qwen3_5ForCausalLM",
        "Qwen3_5MoeForCausalLM",
    ),
}
UNPUBLISHED = {  # names that SGLang has for what others publish, or that nobody was found to publish
    "ChatGLMForConditionalGeneration",
    "Grok1ForCausalLM",
    "LlamaEmbeddingModel",
    "LlamaForClassification",
    "LlamaModel",
    "MinistralForCausalLM",
    "Qwen2ForSequenceClassification",
    "Qwen2Model",
    "Qwen3ForRewardModel",
    "Qwen3Model",
}


@pytest.fixture(scope="module", autouse=True)
def started():
    device.start("cpu", "cpu")
    register_quantization_names()


@pytest.fixture
def names_alone(monkeypatch):
    """Nothing is read, and no table is made for a million positions."""
    tables = rotary._tables
    monkeypatch.setattr(rotary, "_tables", lambda rope, positions, *rest: tables(rope, min(positions, 8), *rest))
    monkeypatch.setattr(loader, "_copy", lambda checkpoint, wants, progress: 0)


def network_of(folder, embeds=False, trusted=True):
    """The network that a server makes of a folder."""
    model = ModelConfig(str(folder), trust_remote_code=trusted, is_embedding=embeds)
    framework.check_model(model)
    config = model.hf_config
    written = config_fixups.restored(with_quantization(config.to_dict(), folder, None), folder)
    kind = model_class(config.architectures)
    if not is_generation_model(config.architectures, embeds):
        kind = embedding_class(kind)
    positions = kind.longest_context(config) or get_context_length(config)
    return kind(written, Runtime(dtype=ms.bfloat16, max_positions=positions))


def first(config, *keys, default=None):
    return next((config[key] for key in keys if config.get(key) is not None), default)


# transformers 5 reads an original length of longrope where configs of that time do not have it.
BY_ITS_OWN_CLASS = ("microsoft/Phi-3-mini-128k-instruct, first release",)


def ways():
    """Each with the class that comes with it; where transformers or SGLang have one of their own, with that too."""
    for name, config in published.CONFIGS.items():
        known = config.get("model_type") in CONFIG_MAPPING and name not in BY_ITS_OWN_CLASS
        yield from ((name, trusted) for trusted in (True, False) if ("auto_map" in config if trusted else known))


@pytest.mark.parametrize("name, trusted", ways())
def test_a_published_checkpoint_is_understood(name, trusted, tmp_path, names_alone):
    config = published.write(name, tmp_path)
    network = network_of(tmp_path, name in EMBEDS, trusted)
    report = loader.load(network, tmp_path, progress=False, **network.checkpoint())
    # Weights, and their scales.
    ignored = {tensor.removesuffix("_inv").removesuffix("_scale") for tensor in report.ignored}
    assert ignored == set(published.BESIDE.get(name, lambda config: {})(config))
    assert_values(network, config)


def assert_values(network, config):
    """What no shape shows."""
    found = network.config
    eps = first(config, "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", default=1e-5)
    assert found.rms_norm_eps == eps
    assert_rope(found.rope, config)
    windows = [getattr(layer.self_attn, "window", 0) for layer in network.model.layers]
    assert windows == [window if window < found.max_positions else 0 for window in windows_of(config)]
    if hasattr(found, "routing"):
        assert_routing(found.routing, config)
    hidden, kind = config.get("hidden_size"), config["architectures"][0]
    embedding = first(config, "embedding_multiplier", "embedding_multiplier_scale", "scale_emb", default=1.0)
    embedding = hidden**0.5 if kind.startswith("Gemma") else embedding
    assert found.embedding_multiplier == pytest.approx(embedding, rel=2**-8)  # some round it to bfloat16
    logits = first(config, "logit_scale", "output_multiplier_scale", default=1 / config.get("logits_scaling", 1.0))
    logits = config["dim_model_base"] / hidden if "dim_model_base" in config else logits
    assert found.logit_scale == pytest.approx(logits)


def assert_rope(found, config):
    scaling = config.get("rope_scaling") or {}
    kind = first(scaling, "rope_type", "type", default="default")
    theta = first(config, "rope_theta", "rotary_emb_base", default=10000 * config.get("rope_ratio", 1))
    theta = config.get("attn_config", {}).get("rope_theta", theta)
    learned = config.get("position_embedding_type") == "absolute"
    if learned or "model_max_length" in config and "max_position_embeddings" not in config:
        assert found is None  # of encoders and Baichuan 13B
        return
    assert (found.rope_type, found.rope_theta) == ({"su": "longrope"}.get(kind, kind), theta)
    original = first(
        scaling, "original_max_position_embeddings", default=config.get("original_max_position_embeddings")
    )
    if original:
        assert found.original_max_position_embeddings == original
    for key in set(scaling) & {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}:
        assert getattr(found, key) == scaling[key], key
    for key in set(scaling) & {"low_freq_factor", "high_freq_factor", "attention_factor"}:
        assert getattr(found, key) == scaling[key], key
    for key in set(scaling) & {"long_factor", "short_factor"}:
        np.testing.assert_array_equal(getattr(found, key), scaling[key])


def windows_of(config):
    """Of each layer, in tokens."""
    layers = next(config[key] for key in published.COUNTS if key in config)
    window, kind = config.get("sliding_window") or 0, config["architectures"][0]
    if config.get("use_sliding_window") is False:
        return [0] * layers
    period = {"Gemma2": 2, "Gemma3": 6, "Cohere": 4}.get(kind[:6])
    kinds = config.get(
        "layer_types", ["full_attention" if period and (i + 1) % period == 0 else "" for i in range(layers)]
    )
    return [0 if name == "full_attention" else window for name in kinds]


def assert_routing(found, config):
    kind, ffn = config["architectures"][0], config.get("ffn_config", {})
    assert found.top_k == first(config, "num_experts_per_tok", default=ffn.get("moe_top_k"))
    always = kind in ("MixtralForCausalLM", "DbrxForCausalLM", "GptOssForCausalLM")
    assert found.renormalize == config.get("norm_topk_prob", always)
    assert found.scaling == config.get("routed_scaling_factor", 1.0)
    grouped = config.get("topk_method") != "greedy" and config.get("n_group", 1) > 1
    assert (found.groups, found.top_groups) == ((config["n_group"], config["topk_group"]) if grouped else (1, 1))
    assert found.scoring == ("sigmoid" if kind[:4] == "Glm4" else config.get("scoring_func", "softmax"))


def test_the_layers_with_a_window_have_a_rotary_table_of_their_own(tmp_path, names_alone):
    published.write("google/gemma-3-4b-it, its text", tmp_path)
    found = network_of(tmp_path).config
    assert (found.local_rope.rope_type, found.local_rope.rope_theta) == ("default", 10000)


@pytest.mark.parametrize("name", ["google/gemma-3-1b-it", "CohereForAI/c4ai-command-r7b-12-2024"])
def test_a_period_says_which_layers_have_a_window(name):
    """Of all layers, where nothing has made layer_types of it."""
    config = published.CONFIGS[name]
    given = {key: value for key, value in config.items() if key != "layer_types"}
    found = model_class(config["architectures"]).config_class.read(given, runtime=Runtime(max_positions=4096))
    assert 0 in found.windows
    assert list(found.windows) == windows_of(config)


def test_every_architecture_has_a_published_checkpoint():
    kinds = {config["architectures"][0] for config in published.CONFIGS.values()} - {"Olmo3ForCausalLM"}
    seeing = {name for name, model in MODELS.items() if model.sees}  # made by transformers: vision_models.py
    assert kinds == set(MODELS) - UNPUBLISHED - NOT_HELD - seeing


REFUSED = {  # what is said of those of refused.json
    "xai-org/grok-2": "attn_temperature_len = 1024 is not supported",
    "Qwen/Qwen2.5-7B-Instruct-1M": "dual chunk attention .* start with --context-length 253952",
    "openbmb/MiniCPM4.1-8B": "sparse attention .* start with --context-length 8192",
    "openbmb/MiniCPM-MoE-8x2B": "num_experts = 8 is not supported",
    "Alibaba-NLP/gte-Qwen2-7B-instruct": "is_causal = False is not supported",
}


@pytest.mark.parametrize("name", json.loads(published.REFUSED.read_text()))
def test_what_is_not_computed_of_published_checkpoints_is_refused_with_the_reason(name, tmp_path, names_alone):
    published.write(name, tmp_path)
    with pytest.raises((UnsupportedConfig, framework.UnsupportedModel), match=REFUSED[name]):
        network_of(tmp_path)


@pytest.mark.parametrize("name, context", [("Qwen/Qwen2.5-7B-Instruct-1M", 253952), ("openbmb/MiniCPM4.1-8B", 8192)])
def test_contexts_in_which_nothing_is_left_out_are_served(name, context, tmp_path, names_alone):
    config = published.write(name, tmp_path)
    architecture = model_class(config["architectures"])
    architecture(config, Runtime(max_positions=context))
    with pytest.raises(UnsupportedConfig, match=f"start with --context-length {context}"):
        architecture(config, Runtime(max_positions=context + 1))

"""--model-path, config.json and its overrides: sentences for what cannot be read, and overrides that mean the same."""

import json
import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
from models import tiny

from sglang.srt.model_executor_ms.server import config_overrides, framework, llava_types, model_config, model_path
from sglang.srt.model_executor_ms.server.config_overrides import UnsupportedOverride
from sglang.srt.model_executor_ms.server.model_config import UnsupportedModel
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.registry import model_class
from sglang.srt.utils.hf_transformers_utils import get_config

SECONDS = 6
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def arguments(path, overrides=None, **flags):
    given = dict(revision=None, trust_remote_code=True, enable_multimodal=None) | flags
    return SimpleNamespace(model_path=str(path), json_model_override_args=json.dumps(overrides or {}), **given)


def write(folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_path_that_is_no_model_gets_the_sentence_that_helps(tmp_path):
    adapter, empty, above, cache = (tmp_path / name for name in ("adapter", "empty", "above", "cache"))
    for folder in (adapter, empty):
        folder.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    model = write(above / "checkpoint-500", **LLAMA)
    snapshot = write(cache / "snapshots/0123", **LLAMA)
    (model / "model.safetensors").touch()
    wanted = {
        adapter: "it is the folder of an adapter, and has no config.json; the model that it is for: some/model",
        empty: "the folder is empty",
        above: f"there is no config.json in the folder, which says what model it is; there are models in {model}",
        cache: f"there is no config.json in the folder, which says what model it is; there are models in {snapshot}",
        model / "model.safetensors": (f"it is a file; give the folder that holds config.json and the weights: {model}"),
        adapter / "adapter_config.json": "it is a file; give the folder that holds config.json and the weights",
        tmp_path / "nothing": "there is no such folder, and a name of the Hugging Face hub is OWNER/NAME",
        "./nothing": "there is no such folder, and a name of the Hugging Face hub is OWNER/NAME",
        "~/nothing": "there is no such folder, and a name of the Hugging Face hub is OWNER/NAME",
        "a/b/c": "there is no such folder, and a name of the Hugging Face hub is OWNER/NAME",
        "/tmp/" + "x" * 300: "File name too long",
    }
    for path, problem in wanted.items():
        assert model_path.problem(str(path)) == problem
        with pytest.raises(UnsupportedModel) as refused:
            model_config.overrides(arguments(path))
        assert str(refused.value) == f"{path}: {problem}"
    (adapter / "adapter_config.json").write_text("{")
    assert model_path.problem(str(adapter)).endswith("it is for: not said")


@pytest.mark.parametrize("path", ["owner/name", "name", "s3://bucket/model", "model.gguf"])
def test_names_of_the_hub_and_other_addresses_are_left_to_sglang(path):
    assert model_path.problem(path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\0"])
def test_a_config_that_is_none_is_refused_by_a_sentence(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UnsupportedModel, match=r"config\.json (cannot be read|names no architectures)"):
        model_config.overrides(arguments(tmp_path))


@pytest.mark.parametrize("architectures", [None, ...])
def test_a_config_without_architectures_is_taken_for_what_transformers_takes_it_for(tmp_path, architectures):
    config = {**LLAMA, "architectures": architectures}
    write(tmp_path, **{key: value for key, value in config.items() if value is not ...})
    assert json.loads(model_config.overrides(arguments(tmp_path)))["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model_type": "bert"}, "names no architectures, and no class is known for its model_type 'bert'"),
        ({}, "names no architectures, and no class is known for its model_type None"),
        ({"architectures": [3], "model_type": "llama"}, r"architectures = \[3\] of config.json is no list of names"),
        ({"architectures": {"a": 1}, "model_type": "llama"}, "is no list of names"),
        ({"architectures": [], "model_type": "llama"}, r"architectures = \[\] of config.json is no list of names"),
        ({"architectures": "", "model_type": "llama"}, "is no list of names; null is allowed"),
        ({"architectures": ["LlamaForCausalLM"]}, "config.json has no model_type"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": None}, "config.json has no model_type"),
    ],
)
def test_a_config_that_does_not_say_what_it_is_is_refused(tmp_path, config, message):
    with pytest.raises(UnsupportedModel, match=message):
        model_config.overrides(arguments(write(tmp_path, **config)))


def test_a_name_in_the_place_of_a_list_is_one_architecture(tmp_path):
    write(tmp_path, model_type="llama", architectures="LlamaForCausalLM")
    assert json.loads(model_config.overrides(arguments(tmp_path))) == {"architectures": ["LlamaForCausalLM"]}


def test_a_model_of_which_only_the_text_is_served_is_a_model_of_text_to_sglang(tmp_path):
    folder = tiny.save("gemma4-shared", tmp_path)
    assert json.loads(model_config.overrides(arguments(folder)))["language_model_only"]
    with pytest.raises(UnsupportedModel, match="only its text is served: leave out --enable-multimodal"):
        model_config.overrides(arguments(folder, enable_multimodal=True))


@pytest.mark.parametrize("variant, alone", [("mistral-large-3", False), ("mistral-large-3-seeing", True)])
def test_mistrals_own_files_say_whether_only_the_text_is_served(tmp_path, variant, alone):
    folder = tmp_path / variant
    tiny.save(variant, folder)
    (folder / "config.json").unlink()
    made = model_config.overrides(arguments(folder))
    assert made is None if not alone else json.loads(made) == {"language_model_only": True}


def test_a_broken_params_json_is_a_sentence(tmp_path):
    folder = tmp_path / "mistral-large-3"
    folder.mkdir()
    (folder / "params.json").write_text("{")
    with pytest.raises(UnsupportedModel, match="params.json cannot be read"):
        model_config.overrides(arguments(folder))


@pytest.mark.parametrize("variant", ["mistral4", "youtu"])
def test_latent_attention_that_sglang_does_not_know_gets_a_second_name(tmp_path, variant):
    (first, second) = json.loads(model_config.overrides(arguments(tiny.save(variant, tmp_path))))["architectures"]
    assert (first[:5].lower(), second) == (variant[:5], "DeepseekV3ForCausalLM")


YARN = dict(rope_type="yarn", factor=3.0, original_max_position_embeddings=64)
LINEAR = dict(rope_type="linear", factor=3.0)
OLDER = dict(type="linear", factor=3.0)
HALF = dict(factor=2.0, rope_theta=300.0)
ONE_GROUP = dict(n_group=1, topk_group=1)
SAME = [  # variant; overrides; what of config.json they are to mean
    ("llama", {"rope_scaling": OLDER}, {"rope_parameters": LINEAR | {"rope_theta": 500.0}}),
    ("llama", {"rope_scaling": LINEAR}, {"rope_parameters": LINEAR | {"rope_theta": 500.0}}),
    ("llama", {"rope_parameters": OLDER}, {"rope_parameters": LINEAR | {"rope_theta": 500.0}}),
    ("llama", {"rope_scaling": YARN, "rope_theta": 7.0}, {"rope_parameters": YARN | {"rope_theta": 7.0}}),
    ("llama", {"rope_theta": 7.0}, {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}),
    ("llama-linear", {"rope_theta": 7.0}, {"rope_parameters": LINEAR | {"rope_theta": 7.0}}),
    ("llama-linear", {"rope_scaling": None}, {"rope_parameters": None}),
    (
        "llama-linear",
        {"rope_parameters": {"factor": 2.0}},
        {"rope_parameters": LINEAR | dict(factor=2.0, rope_theta=300.0)},
    ),
    ("llama", {"torch_dtype": "float16"}, {"dtype": "float16"}),
    ("llama", {"dtype": "float16"}, {"dtype": "float16"}),
    ("llama", {"attention_bias": None, "head_dim": None}, {"attention_bias": False, "head_dim": 10}),
    ("gemma2", {"num_hidden_layers": 1}, {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}),
    (
        "deepseek_v3",
        {"num_local_experts": 4, "n_group": 1, "topk_group": 1},
        dict(n_routed_experts=4, n_group=1, topk_group=1),
    ),
    ("dbrx", {"num_hidden_layers": 1}, {"n_layers": 1}),
    ("dbrx", {"attn_config": {"clip_qkv": 2.0}}, {"attn_config": dict(clip_qkv=2.0, kv_n_heads=2, rope_theta=500.0)}),
    ("chatglm", {"num_hidden_layers": 1}, {"num_layers": 1}),
    ("chatglm", {"num_layers": 1}, {"num_layers": 1}),
]


def read(folder, overrides=None):
    """The config that a model is built of."""
    config = get_config(str(folder), trust_remote_code=True, model_override_args=overrides)
    found = model_class(config.architectures).config_class.read(config.to_dict(), runtime=Runtime())
    return replace(found, rope_parameters={}, rope_theta=0.0), found.rope, str(config.dtype).removeprefix("torch.")


@pytest.mark.parametrize("variant, overrides, meant", SAME)
def test_an_override_means_what_the_same_key_means_in_config_json(tmp_path, variant, overrides, meant):
    folder, other = tmp_path / "own", tmp_path / "other"
    for path in (folder, other):
        path.mkdir()
        tiny.save(variant, path)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | meant))
    found = json.loads(model_config.overrides(arguments(folder, overrides)))
    assert read(folder, found) == read(other)
    if "attention_bias" not in meant:
        assert read(folder, found) != read(folder)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"dtype": "float16", "torch_dtype": "float32"}, "dtype = 'float16' and torch_dtype = 'float32' are two names"),
        ({"rope_scaling": LINEAR, "rope_parameters": YARN}, "rope_parameters = .* and rope_scaling = .* are two names"),
        ({"rope_scaling": {"type": "yarn", "rope_type": "linear"}}, "rope_type = 'linear' and type = 'yarn'"),
        (
            {"rope_theta": 2.0, "rope_scaling": {"rope_theta": 3.0}},
            "rope_theta = 2.0 and rope_parameters.rope_theta = 3",
        ),
        ({"model_type": "qwen3"}, "model_type decides what reads config.json: change it there"),
    ],
)
def test_overrides_that_contradict_each_other_are_refused(tmp_path, overrides, message):
    with pytest.raises(UnsupportedOverride, match=message):
        model_config.overrides(arguments(write(tmp_path, **LLAMA), overrides))


def test_names_of_the_same_with_the_same_value_are_no_conflict(tmp_path):
    same = {"rope_scaling": OLDER, "rope_parameters": LINEAR, "dtype": "float16", "torch_dtype": "float16"}
    found = json.loads(model_config.overrides(arguments(write(tmp_path, **LLAMA), same)))
    assert found["rope_parameters"]["factor"] == 3.0


@pytest.mark.parametrize("text", ["{", "[]", "3", '"a"'])
def test_overrides_that_are_no_object_are_refused(text):
    with pytest.raises(UnsupportedOverride, match="--json-model-override-args .* is not"):
        config_overrides.parse(text)


def test_overrides_that_the_class_refuses_are_refused_by_a_sentence(tmp_path):
    with pytest.raises(UnsupportedModel, match="config.json with --json-model-override-args cannot be read: .*hidden"):
        model_config.overrides(arguments(write(tmp_path, **LLAMA), {"hidden_size": "wide"}))


def test_what_needs_no_change_is_not_touched(tmp_path):
    assert model_config.overrides(arguments(write(tmp_path, **LLAMA))) is None


def test_a_package_that_a_processor_imports_is_asked_for_by_name(monkeypatch):
    config = SimpleNamespace(model_path="here", is_generation=True, quantization=None, is_multimodal=True)
    config.hf_config = SimpleNamespace(architectures=["SmolVLMForConditionalGeneration"])
    monkeypatch.setattr(framework.importlib.util, "find_spec", lambda name: name)
    framework.check_model(config)
    monkeypatch.setattr(framework.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(framework.UnsupportedModel, match="pip install num2words"):
        framework.check_model(config)
    config.hf_config.architectures = ["Idefics3ForConditionalGeneration"]
    framework.check_model(config)


def test_llavas_own_format_is_read_by_whichever_model_type_it_has(tmp_path):
    llava_types.register()
    for kind, architecture in (("llava", "LlavaLlamaForCausalLM"), ("llava_qwen", "LlavaQwenForCausalLM")):
        path = write(tmp_path / kind, model_type=kind, architectures=[architecture])
        assert model_config.overrides(arguments(path)) is None
        read = get_config(str(path), trust_remote_code=False)
        assert pickle.loads(pickle.dumps(read)).model_type == kind  # as SGLang's processes send it


def test_sglangs_name_of_yi_vl_is_that_of_its_checkpoints(tmp_path):
    path = write(tmp_path, model_type="llava", architectures=["LlavaLlamaForCausalLM"])
    found = json.loads(model_config.overrides(arguments(path, {"architectures": ["YiVLForCausalLM"]})))
    assert found["architectures"] == ["LlavaLlamaForCausalLM"]
    path = write(tmp_path / "other", model_type="llava", architectures=["YiVLForCausalLM"])
    with pytest.raises(UnsupportedModel, match="config.json names YiVLForCausalLM, .* is LlavaLlamaForCausalLM"):
        model_config.overrides(arguments(path))


def test_a_tower_that_cannot_be_had_is_refused_before_the_start(tmp_path):
    config = SimpleNamespace(model_path=str(tmp_path), is_generation=True, quantization=None, is_multimodal=True)
    config.hf_config = SimpleNamespace(architectures=["LlavaLlamaForCausalLM"], mm_vision_tower="./vit/nothing")
    with pytest.raises(UnsupportedModel, match="mm_vision_tower = './vit/nothing' .* is a tower that cannot be had"):
        framework.check_model(config)
    write(tmp_path / "vit/nothing", model_type="clip_vision_model")
    framework.check_model(config)

"""Checkpoints of int8 weights, by each of three methods; and what of them is refused."""

import json

import mindspore as ms
import pytest
import torch
from models.harness import PagedModel, Requests, assert_logits_close
from models.int8 import reference, stated_logits, to_int8
from models.test_logits import mixed_batch, prompts
from models.tiny import TINY, save
from safetensors.torch import load_file, save_file
from tiers import mostly_slow

from sglang.srt.model_executor_ms.runner.weights import with_quantization
from sglang.srt.model_loader_ms.files import CheckpointError
from sglang.srt.models_ms.config import Runtime, UnsupportedConfig
from sglang.srt.models_ms.registry import model_class

SECONDS = 15

# A value half way between two steps may be rounded to the other one.
LIMIT = 1e-2


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save("qwen2", tmp_path_factory.mktemp("source"))  # biases of queries, keys and values


@pytest.mark.parametrize("method", ["w8a8_int8", "compressed-tensors", "modelslim"])
def test_logits_are_those_of_rounded_rows_and_weights(table, source, tmp_path, method):
    to_int8(source, tmp_path, method)
    model = PagedModel(tmp_path, compiled=False)  # on the CPU table its steps are captured, or it fails
    attention, mlp = model.network.model.layers[0].self_attn, model.network.model.layers[0].mlp
    assert attention.qkv_proj.weight.dtype == attention.o_proj.weight.dtype == ms.int8
    assert mlp.down_proj.weight.dtype == ms.float32 and mlp.gate_up_proj.weight.dtype == ms.int8
    found, wanted = mixed_batch(Requests(model, 4), prompts()), reference(source, tmp_path)
    with torch.no_grad():
        wanted = {name: wanted(torch.as_tensor(ids)[None]).logits[0].numpy() for name, ids in prompts().items()}
    assert_logits_close(found, {name: wanted[name] for name in found}, LIMIT)


@pytest.mark.parametrize("variant", ["qwen3_moe", "deepseek_v3"])
def test_experts_of_int8_and_mla_attention(table, tmp_path, variant):
    """The up-projection of latent attention is multiplied with its factors when it is loaded."""
    source, folder, ids = save(variant, tmp_path / "source"), tmp_path / "int8", prompts()
    to_int8(source, folder, "w8a8_int8", skipped="layers.1.mlp.experts.0.none")
    model = PagedModel(folder, compiled=False)
    experts = model.network.model.layers[1].mlp.experts
    assert experts.gate_up.dtype == experts.down.dtype == ms.int8
    found, wanted = mixed_batch(Requests(model, 4), ids), reference(source, folder)
    with torch.no_grad():
        wanted = {name: wanted(torch.as_tensor(ids[name])[None]).logits[0].numpy() for name in found}
    assert_logits_close(found, wanted, LIMIT)


NAMES = {  # of models whose checkpoints have names of their own -> what is left out of the first layer
    "internlm2": "layers.0.feed_forward.w2",
    "qwen": "h.0.mlp.c_proj",
    "mixtral": "layers.0.self_attn.o_proj",
    "chatglm": "layers.0.mlp.dense_4h_to_h",
    "exaone": "h.0.mlp.c_proj",
    "baichuan": "layers.0.mlp.down_proj",
}
QUICK = ("internlm2", "qwen", "mixtral")
CASES = [*((name, "compressed-tensors") for name in NAMES), ("mixtral", "w8a8_int8")]


@pytest.mark.parametrize("table", ["reference"], indirect=True)
@pytest.mark.parametrize("variant, method", mostly_slow(CASES, lambda variant, _: variant in QUICK))
def test_checkpoints_with_names_of_their_own(table, tmp_path, variant, method):
    source, folder, ids = tmp_path / "source", tmp_path / "int8", prompts()
    source.mkdir()
    to_int8(save(variant, source), folder, method, NAMES[variant])
    model = PagedModel(folder, compiled=False)
    left_out, held = (
        layer.self_attn.o_proj if variant == "mixtral" else layer.mlp.down_proj for layer in model.network.model.layers
    )
    assert (left_out.weight.dtype, held.weight.dtype) == (ms.float32, ms.int8)
    found = mixed_batch(Requests(model, 4), ids)
    if "statement" in TINY[variant]:
        wanted = {name: stated_logits(TINY[variant], folder, ids[name]) for name in found}
    else:
        stated = reference(source, folder)
        with torch.no_grad():
            wanted = {name: stated(torch.as_tensor(ids[name])[None]).logits[0].numpy() for name in found}
    assert_logits_close(found, wanted, LIMIT)


def test_int8_matrices_that_are_multiplied_when_loaded_want_their_factors(table, tmp_path):
    source, folder = save("minicpm3", tmp_path / "source"), tmp_path / "int8"
    to_int8(source, folder, "w8a8_int8")
    name = "model.layers.0.self_attn.kv_b_proj.weight_scale"
    tensors = load_file(folder / "model.safetensors")
    for wrong, message in ((None, "missing"), (torch.ones(3, 1), "wrong shape")):
        kept = {key: tensor for key, tensor in tensors.items() if key != name}
        save_file(kept | ({} if wrong is None else {name: wrong}), folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match=f"{message}: {name}"):
            PagedModel(folder, compiled=False)


def config(folder, **changes):
    return with_quantization(json.loads((folder / "config.json").read_text()), folder, None) | changes


def build(config):
    return model_class(config["architectures"])(config, Runtime(dtype=ms.float32, max_positions=64))


REFUSED = {
    "other bits": (
        {"model.layers.1.mlp.up_proj.weight": "W4A4_DYNAMIC"},
        "modelslim: model.layers.1.* is W4A4_DYNAMIC; FLOAT",
    ),
    "half of a stack": ({"model.layers.1.mlp.up_proj.weight": "W8A8_DYNAMIC"}, "up_proj.weight and not .*gate_proj"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_no_layer_computes_is_refused_by_name(table, source, wrong):
    kinds, message = REFUSED[wrong]
    with pytest.raises(UnsupportedConfig, match=message):
        build(config(source, quantization_config={"quant_method": "modelslim", **kinds}))


def test_some_int8_experts_of_a_layer_are_refused(table, tmp_path):
    folder, kinds = save("qwen3_moe", tmp_path), {"model.layers.1.mlp.experts.0.up_proj.weight": "W8A8_DYNAMIC"}
    with pytest.raises(UnsupportedConfig, match=r"experts.0.up_proj.weight and not .*experts.0.gate_proj.weight"):
        build(config(folder, quantization_config={"quant_method": "modelslim", **kinds}))


def test_layers_may_be_left_out_by_pattern(table, source):
    found = dict(quant_method="w8a8_int8", ignore=[r"re:.*self_attn\.[qkv]_proj"])
    layer = build(config(source, quantization_config=found)).model.layers[0]
    assert layer.self_attn.qkv_proj.weight.dtype == ms.float32 and layer.self_attn.o_proj.weight.dtype == ms.int8


def test_the_flag_speaks_where_the_checkpoint_does_not(source):
    plain = json.loads((source / "config.json").read_text())
    assert with_quantization(plain, source, "w8a8_int8")["quantization_config"] == {"quant_method": "w8a8_int8"}
    assert with_quantization(plain, source, None) == plain

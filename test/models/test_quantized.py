"""Checkpoints that other people's tools quantized give the logits that these tools' own code computes with them."""

import functools
import json
import re
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
from distributed.pool import Layout, Pool
from models.harness import PagedModel, Requests, assert_logits_close
from models.test_logits import mixed_batch, prompts
from models.test_ranks import LAYOUTS, PLACES, check
from models.tiny import described, save
from safetensors.torch import load_file, save_file
from tiers import mostly_slow
from transformers import AutoConfig, AutoModelForCausalLM

from sglang.srt.layers_ms.ops.reference.quant import values as reference_values
from sglang.srt.layers_ms.quantization import LINEAR, read
from sglang.srt.model_loader_ms import loader
from sglang.srt.model_loader_ms.checkpoint import Stored
from sglang.srt.model_loader_ms.encoded import join, part_name
from sglang.srt.model_loader_ms.files import CheckpointError

SECONDS = 45, 90

FOLDER = Path(__file__).parent / "quantized"
NAMES = sorted(json.loads((FOLDER / "makers.json").read_text()))
ROUNDED = ("W8A8_static", "W8A8_static_asym")  # rows of activations, to int8
# Of the largest logit. A value half way between two steps of int8 may be rounded to the other one.
LIMIT, LIMIT_ROUNDED = 2e-3, 1e-2
# auto-round's own model has what its codes stand for in bfloat16.
LIMIT_BFLOAT16 = 8e-3
CASES = [(table, name) for table in ("reference", "cpu") for name in NAMES]


def stated(name):
    """-> prompts, and their logits."""
    found = np.load(FOLDER / name / "logits.npz")
    requests = {key.partition(".")[0] for key in found}
    return [{request: found[f"{request}.{what}"] for request in requests} for what in ("ids", "logits")]


def limit(name):
    if name in ROUNDED:
        return LIMIT_ROUNDED
    return LIMIT_BFLOAT16 if name.startswith(("gptq", "awq", "autoround")) else LIMIT


@pytest.mark.parametrize("table, name", mostly_slow(CASES, lambda table, _: table == "cpu"), indirect=["table"])
def test_logits_are_those_of_the_makers_code(table, name):
    ids, wanted = stated(name)
    model = PagedModel(FOLDER / name, compiled=False)
    layer = model.network.model.layers[0]
    assert layer.self_attn.qkv_proj.weight.dtype in (ms.uint8, ms.int8)
    found = mixed_batch(Requests(model, 4), ids)
    assert_logits_close(found, wanted, limit(name))


@pytest.mark.parametrize("name", ["W4A16", "gptq_asym", "W8A8_static_asym"])
def test_weights_are_replaced_where_they_are(table, name):
    ids, wanted = stated(name)
    model = PagedModel(FOLDER / name, compiled=False)
    held = {parameter.name: parameter.data_ptr() for parameter in model.network.get_parameters()}
    for parameter in model.network.get_parameters():
        parameter.host.fill(0)
    loader.load(model.network, FOLDER / name, progress=False, **model.network.checkpoint())
    model.network.process_weights_after_loading()
    assert held == {parameter.name: parameter.data_ptr() for parameter in model.network.get_parameters()}
    found = mixed_batch(Requests(model, 4), ids)
    assert_logits_close(found, wanted, limit(name))


def damaged(name, folder, change):
    tensors = load_file(FOLDER / name / "model.safetensors")
    change(tensors)
    (folder / "config.json").write_text((FOLDER / name / "config.json").read_text())
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_layer_that_is_not_quantized_although_the_config_says_so_is_named(table, tmp_path):
    layer, plain = "model.layers.0.mlp.down_proj.", load_file(FOLDER / "W4A16" / "model.safetensors")

    def change(tensors):
        for name in [name for name in tensors if name.startswith(layer)]:
            del tensors[name]
        tensors[layer + "weight"] = plain["model.embed_tokens.weight"].clone()

    with pytest.raises(CheckpointError, match=f"missing: {layer}weight_packed, .*there is {layer}weight, bfloat16"):
        PagedModel(damaged("W4A16", tmp_path, change), compiled=False)


def rewritten(name, folder, change):
    """A fixture of the same values, with other tensors and settings: change(tensors, settings)."""
    config = json.loads((FOLDER / name / "config.json").read_text())
    tensors = load_file(FOLDER / name / "model.safetensors")
    found = change(tensors, config["quantization_config"])
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": found}))
    return folder


def second_version(tensors, settings):
    """GPTQ's zero points as they are: one has been taken from each, in words."""
    for name, words in tensors.items():
        if name.endswith(".qzeros"):
            words.copy_((words.long() + 0x11111111).int())
    return settings | {"checkpoint_format": "gptq_v2"}


def groups_in_another_order(tensors, settings):
    for name in [name for name in tensors if name.endswith(".g_idx")]:
        stem, groups = name.removesuffix("g_idx"), tensors[name]
        order = torch.randperm(int(groups.max()) + 1, generator=torch.Generator().manual_seed(len(groups)))
        tensors[name] = order.argsort()[groups.long()].int()
        for part in ("scales", "qzeros"):
            tensors[stem + part] = tensors[stem + part][order]
    return settings | {"desc_act": True}


def as_modelslim(tensors, settings):
    """Static activations as ModelSlim has them: what the offset adds, and the product of the scales."""
    found = {name: "FLOAT" for name in tensors if name.endswith(".weight")}
    for name in [name for name in tensors if name.endswith(".weight_scale")]:
        stem = name.removesuffix("weight_scale")
        codes, offset = tensors[stem + "weight"], tensors.pop(stem + "input_zero_point").float()
        tensors[stem + "deq_scale"] = (tensors[name].float() * tensors[stem + "input_scale"].float())[:, 0]
        tensors[stem + "quant_bias"] = -(codes.int().sum(-1) * offset).int()
        tensors[stem + "input_offset"], tensors[stem + "weight_offset"] = offset, torch.zeros(len(codes), 1)
        found[stem + "weight"] = "W8A8"
    return found | {"quant_method": "modelslim"}


def as_modelslim_int4(kind, tensors, settings):
    """The codes of two rows in a byte, signed."""
    found = {name: "FLOAT" for name in tensors if name.endswith(".weight")}
    for name in [name for name in tensors if name.endswith(".weight_packed")]:
        stem, words = name.removesuffix("_packed"), tensors.pop(name)
        octets = words.view(torch.uint8)
        codes = torch.stack([octets & 15, octets >> 4], -1).flatten(-2) ^ 8
        tensors[stem] = (codes[::2] | codes[1::2] << 4).view(torch.int8)
        tensors[stem + "_scale"] = tensors[stem + "_scale"].float()
        del tensors[stem + "_shape"]
        found[stem] = kind
    return found | {"quant_method": "modelslim", "version": "1.0.0", "group_size": 32}


REWRITTEN = {
    "zero points of the second version": ("gptq_asym", second_version),
    "act-order": ("gptq_asym", groups_in_another_order),
    "ModelSlim's static activations": ("W8A8_static_asym", as_modelslim),
    "ModelSlim's W4A16": ("W4A16", functools.partial(as_modelslim_int4, "W4A16")),
}


@pytest.mark.parametrize("case", REWRITTEN)
def test_other_ways_to_hold_the_same_give_the_same_logits(table, tmp_path, case):
    name, change = REWRITTEN[case]
    ids, wanted = stated(name)
    found = mixed_batch(Requests(PagedModel(rewritten(name, tmp_path, change), compiled=False), 4), ids)
    assert_logits_close(found, wanted, limit(name))


def test_rows_of_activations_are_rounded_for_modelslims_w4a8(table, tmp_path):
    ids, wanted = stated("W4A16")
    folder = rewritten("W4A16", tmp_path, functools.partial(as_modelslim_int4, "W4A8_DYNAMIC"))
    model = PagedModel(folder, compiled=False)
    assert model.network.model.layers[0].mlp.down_proj.activation_format == "int8"
    found = mixed_batch(Requests(model, 4), ids)
    assert_logits_close(found, wanted, 5e-2)
    with pytest.raises(pytest.fail.Exception, match="relative error"):
        assert_logits_close(found, wanted, LIMIT)


def as_float8(variant, folder):
    """The folder of a checkpoint whose rows become float8."""
    save(variant, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    return folder


def assert_float8(linear, wanted):
    codes = torch.from_numpy(linear.weight.host).view(torch.float8_e4m3fn).float()
    found = codes * torch.from_numpy(linear.weight_scale.host)
    assert ((found - wanted).abs() <= wanted.abs() / 16 + wanted.abs().amax(-1, keepdim=True) / 448 / 1024).all()
    assert (codes.abs().amax(-1) == 448).all()


def test_float8_is_made_of_a_checkpoint_that_is_not_quantized(table, tmp_path):
    """Rows within 1/16 of themselves, which is half of a step of e4m3; what is not multiplied as codes is as it was."""
    folder = as_float8("qwen3", tmp_path)
    down = PagedModel(folder, compiled=False).network.model.layers[0].mlp.down_proj
    assert down.weight.dtype == ms.uint8
    if table == "reference":  # the other one rearranges them
        assert_float8(down, load_file(folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"])


@pytest.mark.parametrize("table", ["reference"], indirect=True)
def test_float8_is_made_of_matrices_that_lie_transposed(table, tmp_path):
    folder = as_float8("gpt2", tmp_path)
    layer = PagedModel(folder, compiled=False).network.model.layers[0]
    tensors = load_file(folder / "model.safetensors")
    for linear, name in ((layer.mlp.down_proj, "mlp.c_proj"), (layer.self_attn.o_proj, "attn.c_proj")):
        assert_float8(linear, tensors[f"transformer.h.0.{name}.weight"].T)


MADE = {"w8a8_int8": ms.int8, "bitsandbytes": ms.uint8}


def as_made(name, tensors):
    """What a checkpoint becomes: int8 rows as such a checkpoint has them, or the values that codes stand for."""
    encoding = read({"quant_method": name}).get_method(LINEAR, ["x"]).encoding
    form = encoding.format
    for key in [key for key in tensors if re.search(r"(proj|experts\.\w+)(\.weight)?$", key)]:
        matrix = tensors[key].flatten(0, -2)
        parts = {"x": Stored(tuple(matrix.shape), "float32", matrix)}
        wanted = [encoding._replace(part=part, group=form.block[1]) for part in ("codes", "scale")]
        join(parts, [("x", one) for one in wanted])
        codes, scale = (parts[part_name("x", one)].data[:, :] for one in wanted)
        if name == "w8a8_int8":
            tensors[key + "_scale"] = scale.reshape(*tensors[key].shape[:-1], 1).contiguous()
            tensors[key] = codes.reshape(tensors[key].shape)
            continue
        held = (ms.Tensor(one.numpy()) for one in (codes, scale))
        found = torch.from_numpy(reference_values(*held, None, form.kind, form.block[1]).asnumpy())
        tensors[key] = found.reshape(tensors[key].shape)
    return {"quant_method": name, "ignore": []} if name == "w8a8_int8" else None


@pytest.mark.parametrize("name", MADE)
def test_codes_are_made_of_a_checkpoint_that_is_not_quantized(table, tmp_path, name):
    folders, models = [save("qwen3_moe@ranks", tmp_path / part) for part in ("plain", "made")], []
    tensors = load_file(folders[1] / "model.safetensors")
    configs = [{"quant_method": name}, as_made(name, tensors)]
    save_file(tensors, folders[1] / "model.safetensors", {"format": "pt"})
    for folder, config in zip(folders, configs, strict=True):
        written = json.loads((folder / "config.json").read_text()) | ({"quantization_config": config} if config else {})
        (folder / "config.json").write_text(json.dumps(written))
        models.append(PagedModel(folder, compiled=False))
    layer, ids = models[0].network.model.layers[0], prompts()
    assert {layer.self_attn.o_proj.weight.dtype, layer.mlp.experts.down.dtype} == {MADE[name]}
    made, wanted = (mixed_batch(Requests(model, 4), ids) for model in models)
    assert_logits_close(made, wanted, 1e-4)


def test_a_head_may_be_quantized(table, tmp_path):
    """Its logits are those of the values that it stands for."""
    generator, found = torch.Generator().manual_seed(3), []
    codes, scales = (
        torch.randint(0, 256, (16, 160, 4), generator=generator, dtype=torch.uint8),
        torch.rand(2, 160) + 0.5,
    )
    nibbles = torch.stack([codes & 15, codes >> 4], -1).permute(1, 0, 2, 3).reshape(160, 128).float()
    values = (nibbles - 8) * scales.half().float().T.repeat_interleave(64, -1)

    def held(tensors, settings):
        tensors["lm_head.qweight"] = codes.view(torch.int32)[..., 0]
        tensors["lm_head.scales"] = scales.half()
        tensors["lm_head.qzeros"] = torch.full((2, 20), 0x77777777, dtype=torch.int32)
        return settings | {"lm_head": True}

    def plain(tensors, settings):
        tensors["lm_head.weight"] = values
        return settings

    ids, _ = stated("gptq")
    for number, change in enumerate((held, plain)):
        folder = tmp_path / str(number)
        folder.mkdir()
        rewritten("gptq", folder, change)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
        model = PagedModel(folder, compiled=False)
        found.append(mixed_batch(Requests(model, 4), ids))
        assert model.network.lm_head.weight.dtype == (ms.float32 if number else ms.uint8)
    assert_logits_close(found[0], found[1], 1e-5)


@pytest.fixture(scope="module")
def pool():
    pool = Pool(2)
    yield pool
    pool.close()


RANKED = ["W4A16_ASYM", "FP8_BLOCK", "gptq_asym", "W8A8_static_asym", "nf4"]


@pytest.mark.parametrize("name", mostly_slow(RANKED, lambda name: name in ("W4A16_ASYM", "W8A8_static_asym")))
def test_ranks_say_what_one_process_says(pool, name):
    steps, wanted = pool.alone(FOLDER / name)
    check(pool.together(FOLDER / name, Layout(tp=2), steps), wanted)


def float8_experts(folder):
    """An expert a tensor, of float8 rows that are made when they are loaded."""
    return as_float8("qwen3_moe@ranks", folder)


def mxfp4_experts(folder):
    """All experts a tensor, in four bits, with biases: gpt-oss, of random codes."""
    config = AutoConfig.for_model(**described("gpt_oss@ranks") | {"intermediate_size": 64})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(1)
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, columns, rows = tensors.pop(name).shape
        groups = (experts, rows, columns // 32)
        tensors[name + "_blocks"] = torch.randint(0, 256, (*groups, 16), generator=generator, dtype=torch.uint8)
        tensors[name + "_scales"] = torch.randint(120, 124, groups, generator=generator, dtype=torch.uint8)
    for name, bias in tensors.items():
        if name.endswith("proj_bias"):
            bias.normal_(generator=generator)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mxfp4"}}))
    return folder


LAYOUTS_OF_EXPERTS = ["EP 2", "EP 2 with replicas", "EP 2, dispatch", "PP 2"]
EXPERTS = [(kind, layout) for kind in (float8_experts, mxfp4_experts) for layout in LAYOUTS_OF_EXPERTS]
QUICK = [(float8_experts, "PP 2"), (mxfp4_experts, "EP 2 with replicas")]


@pytest.mark.parametrize("kind, layout", mostly_slow(EXPERTS, lambda *case: case in QUICK))
def test_quantized_experts_may_be_anywhere(pool, tmp_path, kind, layout):
    folder = kind(tmp_path / "model")
    steps, wanted = pool.alone(folder)
    check(pool.together(folder, LAYOUTS[layout], steps), wanted)
    if LAYOUTS[layout].places:
        pool.move(LAYOUTS[layout], PLACES[::-1], tmp_path / "meeting")
        check(pool.again(LAYOUTS[layout], steps), wanted)


def test_every_fixture_says_what_made_it():
    made = json.loads((FOLDER / "makers.json").read_text())
    assert set(made) == {folder.name for folder in FOLDER.iterdir() if folder.is_dir()}
    assert all(maker and version for maker, version in made.values())

"""Which tensors of a folder count: all layouts of experts, buffers that were saved, layers beyond the last, heads."""

import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
from models.parts import network_of
from models.tiny import KINDS, PLAIN, TINY, hugging_face, save
from safetensors.torch import load_file, save_file
from tiers import mostly_slow, offenders
from transformers import AutoModelForCausalLM

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.model_executor_ms.runner.weights import with_own_head
from sglang.srt.model_loader_ms import loader
from sglang.srt.model_loader_ms.files import CheckpointError
from sglang.srt.model_loader_ms.leftovers import is_harmless
from sglang.srt.models_ms.registry import model_class

SECONDS = 8, 15
MIXTURES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "glm4_moe", "deepseek_v2", "deepseek_v3", "deepseek", "grok"]
SAVED = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "glm4_moe", "deepseek_v2", "deepseek_v3", "dbrx", "gpt_oss"]
ONE = re.compile(r"(.*experts)\.(\d+)\.(?:(gate_proj|w1)|(up_proj|w3)|(down_proj|w2))\.weight$")
LAYER = re.compile(r"(.*?\.)(\d+)\.")
RANK = Shard(1, 2)


pytestmark = [pytest.mark.usefixtures("table"), pytest.mark.parametrize("table", ["reference"], indirect=True)]


def values(folder, **part) -> dict:
    """All that a loaded model holds, by our names."""
    network = network_of(folder, part.pop("stage", Stage()), **part)
    return {name: parameter.host.copy() for name, parameter in network.parameters_and_names()}


def assert_same(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], name)


def change(folder, make) -> None:
    """Write what make(tensors) returns, or the tensors as it left them."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor.contiguous() for name, tensor in (make(tensors) or tensors).items()}, path)


def changed(folder, name: str, **changes):
    """A copy of the folder, because SGLang reads the config of a path once."""
    copy = folder.parent / name
    shutil.copytree(folder, copy)
    config = json.loads((folder / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changes))
    return copy


def stacked(tensors: dict) -> dict:
    """Of a checkpoint with three matrices an expert: (which experts, of gate, up or down) -> the matrices."""
    found = {}
    for name in [name for name in tensors if ONE.match(name)]:
        experts, number, *kinds = ONE.match(name).groups()
        kind = next(place for place, kind in enumerate(kinds) if kind)
        found.setdefault((experts, kind), {})[int(number)] = tensors.pop(name)
    return {key: torch.stack([parts[number] for number in sorted(parts)]) for key, parts in found.items()}


def fused(tensors, turn=lambda stack: stack):
    stacks = stacked(tensors)
    for experts in {experts for experts, _ in stacks}:
        gate_up = torch.cat([stacks[experts, 0], stacks[experts, 1]], 1)
        tensors[f"{experts}.gate_up_proj"] = turn(gate_up)
        tensors[f"{experts}.down_proj"] = turn(stacks[experts, 2])


def named(*kinds):
    def rename(tensors):
        for (experts, kind), stack in stacked(tensors).items():
            tensors |= {f"{experts}.{i}.{kinds[kind]}.weight": matrix for i, matrix in enumerate(stack)}

    return rename


LAYOUTS = {
    "fused": fused,
    "transposed": lambda tensors: fused(tensors, lambda stack: stack.mT),
    "w1": named("w1", "w3", "w2"),
    "gate_proj": named("gate_proj", "up_proj", "down_proj"),
}


@pytest.mark.parametrize("variant", MIXTURES)
def test_every_layout_of_experts_is_loaded_by_every_mixture(variant, tmp_path):
    folder, found = save(f"{variant}@ranks", tmp_path), {}
    wanted, of_rank = values(folder), values(folder, shard=RANK)
    original = load_file(folder / "model.safetensors")
    for layout, make in LAYOUTS.items():
        change(folder, lambda _, make=make: make(tensors := dict(original)) or tensors)
        assert_same(values(folder), wanted)
        assert_same(values(folder, shard=RANK), of_rank)
        found[layout] = list(load_file(folder / "model.safetensors"))
    assert len(set(map(tuple, found.values()))) >= 3, "the layouts do not differ"


@pytest.mark.parametrize("variant", SAVED)
def test_a_mixture_is_loaded_as_transformers_holds_it(variant, tmp_path):
    (tmp_path / "held").mkdir()
    wanted = values(save(variant, tmp_path))
    hugging_face(variant).save_pretrained(tmp_path / "held", save_original_format=False)
    (tmp_path / "held/config.json").write_text((tmp_path / "config.json").read_text())
    assert_same(values(tmp_path / "held"), wanted)


def test_mixtral_is_loaded_by_either_name_of_its_experts(tmp_path):
    wanted = values(save("mixtral", tmp_path))
    change(tmp_path, lambda tensors: {name.replace("block_sparse_moe", "mlp"): t for name, t in tensors.items()})
    assert_same(values(tmp_path), wanted)


def test_experts_of_gpt_oss_and_dbrx_may_be_a_tensor_each(tmp_path):
    for variant in ("gpt_oss", "dbrx"):
        folder = tmp_path / variant
        wanted = values(save(variant, folder))
        change(folder, one_by_one_of_gpt_oss if variant == "gpt_oss" else one_by_one_of_dbrx)
        assert_same(values(folder), wanted)


def one_by_one_of_gpt_oss(tensors):
    for experts in [name.removesuffix(".down_proj") for name in tensors if name.endswith("experts.down_proj")]:
        taken = {kind: tensors.pop(f"{experts}.{kind}") for kind in ("gate_up_proj", "gate_up_proj_bias")}
        down, down_bias = (tensors.pop(f"{experts}.{kind}") for kind in ("down_proj", "down_proj_bias"))
        for i in range(len(down)):
            for part, name in enumerate(("gate_proj", "up_proj")):
                tensors[f"{experts}.{i}.{name}.weight"] = taken["gate_up_proj"][i, :, part::2].T
                tensors[f"{experts}.{i}.{name}.bias"] = taken["gate_up_proj_bias"][i, part::2]
            tensors[f"{experts}.{i}.down_proj.weight"] = down[i].T
            tensors[f"{experts}.{i}.down_proj.bias"] = down_bias[i]


def one_by_one_of_dbrx(tensors):
    count, size = (TINY["dbrx"]["ffn_config"][key] for key in ("moe_num_experts", "ffn_hidden_size"))
    for name in [name for name in tensors if "experts.mlp" in name]:
        experts, kind = name.rsplit(".", 1)
        for i, matrix in enumerate(tensors.pop(name).view(count, size, -1)):
            tensors[f"{experts}.{i}.{kind}.weight"] = matrix.T if kind == "w2" else matrix


def test_an_expert_that_is_missing_or_misshapen_is_named(tmp_path):
    save("mixtral", tmp_path)
    change(tmp_path, LAYOUTS["fused"])
    change(tmp_path, lambda tensors: tensors | {f"{EXPERTS}.down_proj": tensors[f"{EXPERTS}.down_proj"][:-1]})
    with pytest.raises(CheckpointError, match=re.escape(f"wrong shape: {EXPERTS}.down_proj")):
        values(tmp_path)
    change(tmp_path, lambda tensors: tensors.pop(f"{EXPERTS}.down_proj") is None)
    with pytest.raises(CheckpointError, match=re.escape(f"missing: {EXPERTS}.0.w2.weight")):
        values(tmp_path)


EXPERTS = "model.layers.0.block_sparse_moe.experts"
BUFFERS = (  # that frameworks save, and heads and layers that serving has no use for
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.layers.1.self_attn.rotary_emb.cos_cached",
    "model.layers.1.self_attn.rotary_emb.sin_cached",
    "model.rotary_emb.inv_freq",
    "model.rotary_emb.original_inv_freq",
    "model.rotary_emb_local.inv_freq",
    "model.layers.0.self_attn.masked_bias",
    "model.layers.0.self_attn.bias",
    "model.layers.0.attn.masked_bias",
    "transformer.h.0.attn.bias",
    "transformer.rotary_pos_emb.inv_freq",
    "model.position_ids",
    "model.causal_mask",
    "model.embed_tokens.embed_scale",
    "model.embed_tokens.position_ids",
    "rope.freqs",
    "model.layers.0.mlp.down_proj._extra_state",
    "model.layers.0.self_attn.k_proj.k_scale",
    "model.layers.0.self_attn.kv_scale",
    "model.mtp.layers.0.weight",
    "mtp.fc.weight",
    "v_head.summary.weight",
    "score.weight",
    "model.layers.2.mlp.up_proj.weight",
    "model.layers.61.embed_tokens.weight",
)


@pytest.mark.parametrize("variant", mostly_slow(PLAIN, lambda variant: variant in KINDS[:2]))
def test_buffers_and_what_serving_has_no_use_for_are_left_out_with_one_warning(variant, tmp_path, caplog):
    folder = save(variant, tmp_path)
    wanted = values(folder)
    layers = {LAYER.match(name).groups() for name in load_file(folder / "model.safetensors") if LAYER.match(name)}
    (column,) = {column for column, _ in layers}
    names = [name.replace("model.layers.2.", f"{column}{len(layers)}.") for name in BUFFERS]
    names = [name.replace("model.layers.61.", f"{column}61.") for name in names]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        change(folder, lambda tensors: tensors | {name: torch.ones(1, 2, 2) for name in names})
        assert_same(values(folder), wanted)
    (warning,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert all(re.sub(r"\.\d+\.", ".*.", name) in warning for name in names), warning


NEITHER = (  # known to be harmless, nor wanted
    "model.layers.0.self_attn.q_proj.lora_A.weight",
    "model.layers.0.self_attn.o_proj.bias",
    "model.layers.0.self_attn.q_proj.weight_scale",
    "model.layers.0.mlp.experts.0.gate_proj.weight",
    "model.layers.0.extra.weight",
    "base_model.model.model.layers.0.mlp.up_proj.weight",
    "extra",
)


def test_what_is_neither_wanted_nor_known_is_an_error(tmp_path):
    change(save("llama", tmp_path), lambda tensors: tensors | {name: torch.ones(4) for name in NEITHER})
    with pytest.raises(CheckpointError) as error:
        values(tmp_path)
    assert sorted(str(error.value).splitlines()[1:]) == sorted(f"  unexpected: {name}" for name in NEITHER)


def test_a_bias_of_zeros_changes_nothing(tmp_path):
    wanted, name = values(save("llama", tmp_path)), "model.layers.0.self_attn.o_proj.bias"
    change(tmp_path, lambda tensors: tensors | {name: torch.zeros(60)})
    assert_same(values(tmp_path), wanted)


@pytest.mark.parametrize("variant", mostly_slow(PLAIN, lambda variant: variant in ("qwen2", "gpt_oss", "chatglm")))
def test_any_tensor_that_is_missing_or_longer_is_an_error(variant, tmp_path):
    folder = save(variant, tmp_path)
    network, original = network_of(folder, Stage()), load_file(folder / "model.safetensors")
    ignored = re.compile("|".join(network.ignored_tensors) or "(?!)")
    wanted = {name for name in original if not is_harmless(name) and not ignored.search(name)}

    def check(name, axis):
        tensors = dict(original)
        tensor = tensors.pop(name)
        if axis is not None:
            tensors[name] = torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=f"(missing|wrong shape): {re.escape(name)}"):
            loader.check(network, folder, **network.checkpoint())

    cases = [(name, axis) for name in wanted for axis in (None, *range(original[name].ndim))]
    assert not offenders(lambda case: check(*case), cases)


def layers_of(config: dict) -> str:
    return next(key for key in ("num_hidden_layers", "n_layers", "num_layers", "n_layer") if key in config)


# Some say of each layer what it is, in a pattern or in lists of numbers.
LAYERED = [variant for variant in PLAIN if variant not in ("kimi_linear", "nemotron_h")]
LAYERED = mostly_slow(LAYERED, lambda variant: variant in ("llama", "dbrx", "deepseek_v3"))


@pytest.mark.parametrize("variant", LAYERED)
def test_a_model_of_fewer_layers_is_the_first_of_them(variant, tmp_path):
    (tmp_path / "whole").mkdir()
    folder = save(variant, tmp_path / "whole")
    config = json.loads((folder / "config.json").read_text())
    count, whole = config[layers_of(config)], values(folder)
    of_layers = {key: value for key, value in config.items() if isinstance(value, list) and len(value) == count}
    kinds = {key: value[:-1] for key, value in of_layers.items()}
    fewer = changed(folder, "fewer", **{layers_of(config): count - 1}, **kinds)
    found = values(fewer)
    assert f"model.layers.{count - 1}." not in str(list(found))
    assert_same(found, {name: value for name, value in whole.items() if name in found})
    kinds = {key: [*value, value[-1]] for key, value in of_layers.items()}
    more = changed(folder, "more", **{layers_of(config): count + 1}, **kinds)
    with pytest.raises(CheckpointError, match="missing: "):
        values(more)


TIED = ["llama-tied", "gemma2", "cohere", "qwen3-tied", "minicpm3-tied"]


@pytest.mark.parametrize("variant", [variant for variant in TIED if variant in TINY])
def test_the_one_of_tied_matrices_that_is_there_is_both(variant, tmp_path):
    folder = save(variant, tmp_path)
    wanted, of_rank = values(folder), values(folder, stage=Stage(1, 2))
    change(folder, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    assert_same(values(folder), wanted)
    change(folder, lambda tensors: tensors.pop("model.embed_tokens.weight") is None)
    assert_same(values(folder), wanted)
    assert_same(values(folder, stage=Stage(1, 2)), of_rank)


def test_a_head_that_is_not_the_embedding_is_used_as_transformers_uses_it(tmp_path):
    folder = save("llama-tied", tmp_path)
    head = torch.randn(131, 60)
    change(folder, lambda tensors: tensors | {"lm_head.weight": head})
    assert torch.equal(AutoModelForCausalLM.from_pretrained(folder).lm_head.weight, head)
    with pytest.raises(CheckpointError, match="not tied: lm_head.weight differs from model.embed_tokens.weight"):
        values(folder)
    config, kind = {"tie_word_embeddings": True}, model_class(["LlamaForCausalLM"])
    assert with_own_head(config, kind, folder, "auto") == {"tie_word_embeddings": False}
    assert with_own_head(config, kind, folder, "dummy") == config
    change(folder, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    assert with_own_head(config, kind, folder, "auto") == config


def test_tensors_are_where_another_shard_has_them_if_the_index_is_wrong(tmp_path):
    folder = save("llama", tmp_path)
    wanted, tensors = values(folder), load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "parts").mkdir()
    shards = {"parts/1.safetensors": list(tensors)[::2], "parts/2.safetensors": list(tensors)[1::2]}
    for path, names in shards.items():
        save_file({name: tensors[name] for name in names}, folder / path)
    index = {name: path for path, names in shards.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert_same(values(folder), wanted)
    first = next(iter(index))
    stale = {name: tensors[name] for name in shards["parts/2.safetensors"]} | {first: torch.zeros_like(tensors[first])}
    save_file(stale, folder / "parts/2.safetensors")
    assert_same(values(folder), wanted)  # the index says that the first shard has it
    save_file({name: stale[name] for name in shards["parts/2.safetensors"]}, folder / "parts/2.safetensors")
    moved = {first: "parts/2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index | moved}))
    assert_same(values(folder), wanted)

"""Tensors of a trainer, any of them at a time, end where the same tensors of a checkpoint do, to the last bit."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models.harness import PagedModel, Requests
from models.parts import built
from models.test_logits import prompts
from models.tiny import save
from safetensors.torch import load_file, save_file
from tiers import mostly_slow

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.model_executor_ms.parallel import agreement
from sglang.srt.model_executor_ms.runner import device, named_weights
from sglang.srt.model_executor_ms.runner.named_weights import NamedWeights
from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights
from sglang.srt.model_loader_ms.files import CheckpointError

SECONDS = 12
KINDS = ["qwen3-tied", "mixtral", "deepseek_v3", "baichuan", "gemma2"]
OTHERS = ["llama-bias", "phi3", "internlm2", "gpt_oss", "dbrx", "qwen2_moe", "minicpm3-tied", "stablelm"]
DTYPES = {"mixtral": "float16", "deepseek_v3": "bfloat16"}
MESSAGE = "which is updated from disk only"


@pytest.fixture(autouse=True)
def one_rank(monkeypatch):
    device.start("cpu", "cpu")
    alone = SimpleNamespace(pp_rank=0, pp_size=1, tp_size=1, attn_tp_rank=0, attn_cp_rank=0, world_group=None)
    for module in (agreement, named_weights):
        monkeypatch.setattr(module, "get_parallel", lambda: alone)


def network(folder, dtype, shard=None, stage=None):
    made = built(folder, stage or Stage(), dtype, shard)
    load_weights(made, check_weights(made, folder), progress=False)
    return made


def saved(variant, folder, dtype="float32"):
    folder.mkdir()
    return save(variant, folder, dtype)


def new_weights(folder, into):
    """A checkpoint with other values; -> its tensors."""
    generator, into = torch.Generator().manual_seed(7), into / "new"
    tensors = load_file(folder / "model.safetensors")
    changed = {
        name: (one.float() + 0.1 * torch.randn(one.shape, generator=generator)).to(one.dtype)
        for name, one in tensors.items()
    }
    shutil.copytree(folder, into)
    save_file(changed, into / "model.safetensors", {"format": "pt"})
    return into, changed


def memory(network) -> dict:
    return {name: parameter.host.copy() for name, parameter in network.parameters_and_names()}


def assert_same(found: dict, wanted: dict):
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def update(weights, tensors) -> tuple:
    return weights.update(lambda: list(tensors.items()))


def in_buckets(weights, tensors, seed):
    """All tensors, shuffled, in buckets of one to nine."""
    names, random = list(tensors), np.random.default_rng(seed)
    random.shuffle(names)
    while names:
        bucket = [names.pop() for _ in range(min(len(names), random.integers(1, 10)))]
        assert update(weights, {name: tensors[name] for name in bucket}) == (True, "Success")


@pytest.mark.parametrize("variant", mostly_slow(KINDS + OTHERS, KINDS.__contains__))
def test_tensors_in_any_buckets_end_as_those_of_a_checkpoint(tmp_path, variant):
    dtype = DTYPES.get(variant, "float32")
    folder = saved(variant, tmp_path / "old", dtype)
    new, tensors = new_weights(folder, tmp_path)
    made, wanted = network(folder, dtype), memory(network(new, dtype))
    for seed in (0, 1):
        in_buckets(NamedWeights(made, lambda: None), tensors, seed)
        assert_same(memory(made), wanted)


@pytest.mark.parametrize("variant", mostly_slow(["qwen2", "mixtral", "gpt_oss", "gemma2"], "mixtral".__eq__))
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_takes_its_part_of_whole_tensors(tmp_path, variant, rank):
    folder = saved(variant, tmp_path / "old")
    new, tensors = new_weights(folder, tmp_path)
    shard = Shard(rank, 2, "group")
    made, wanted = network(folder, "float32", shard), memory(network(new, "float32", shard))
    in_buckets(NamedWeights(made, lambda: None), tensors, 0)
    assert_same(memory(made), wanted)


def test_a_captured_step_goes_on_with_the_new_weights(tmp_path):
    folder = saved("qwen3", tmp_path / "old")
    new, tensors = new_weights(folder, tmp_path)
    model, other = PagedModel(folder), PagedModel(new)
    ids = prompts()["short"]
    before, wanted = (Requests(one, 1).step({"a": ids})["a"] for one in (model, other))
    written = []
    in_buckets(NamedWeights(model.network, lambda: written.append(1)), tensors, 0)
    found = Requests(model, 1).step({"a": ids})["a"]
    np.testing.assert_array_equal(found, wanted)
    assert written and np.abs(before - wanted).max() > 0.01


def broken(tensors, name):
    """Buckets that are wrong in one way each -> (tensors, what is said)."""
    other = next(one for one in tensors if one.endswith("gate_proj.weight"))
    good = {name: tensors[name], other: tensors[other]}
    return {
        "name": (good | {"model.nothing.weight": torch.zeros(2)}, "unexpected: model.nothing.weight"),
        "layer": (good | {"model.layers.99.mlp.up_proj.weight": torch.zeros(2)}, "unexpected: model.layers.99.mlp"),
        "shape": (good | {name: tensors[name][:, :-1]}, f"wrong shape: {name} is float32"),
        "axes": (good | {name: tensors[name].flatten()}, f"wrong shape: {name}"),
        "dtype": (good | {name: tensors[name].int()}, f"wrong dtype: {name} is int32"),
        "kind": (good | {name: None}, f"{name} is NoneType, not a dense tensor"),
    }


def test_what_is_wrong_with_one_tensor_is_said_and_no_other_one_is_written(tmp_path):
    made = network(save("qwen3", tmp_path), "float32")
    weights, before = NamedWeights(made, lambda: pytest.fail("something was written")), memory(made)
    tensors = {name: one + 1 for name, one in load_file(tmp_path / "model.safetensors").items()}
    for bucket, message in broken(tensors, "model.layers.1.self_attn.k_proj.weight").values():
        success, said = update(weights, bucket)
        assert not success and message in said, said
    twice = [("model.norm.weight", tensors["model.norm.weight"])] * 2
    assert weights.update(lambda: twice) == (False, "the tensors cannot be read: model.norm.weight is given twice")
    assert weights.update(lambda: 1 / 0)[1] == "the tensors cannot be read: division by zero"
    assert_same(memory(made), before)


def test_layers_that_draft_are_left_out_as_in_a_checkpoint(tmp_path):
    made = network(save("qwen3", tmp_path), "float32")
    before, drafting = memory(made), f"model.layers.{made.config.num_hidden_layers}.eh_proj.weight"
    for further, success in ((1, True), (0, False)):
        assert update(NamedWeights(made, lambda: None, further), {drafting: torch.zeros(2)})[0] == success
    assert_same(memory(made), before)


def test_nobody_writes_where_another_rank_cannot(tmp_path, monkeypatch):
    made = network(save("qwen3", tmp_path), "float32")
    before, tensors = memory(made), load_file(tmp_path / "model.safetensors")
    monkeypatch.setattr(agreement, "of_all_ranks", lambda problem: [problem, "the other one has no room"])
    found = update(NamedWeights(made, lambda: None), {name: one + 1 for name, one in tensors.items()})
    assert found == (False, "the other one has no room")
    assert_same(memory(made), before)


def test_a_head_that_is_the_embedding_is_taken_by_either_name(tmp_path):
    made = network(save("qwen3-tied", tmp_path), "float32")
    weights, embedding = NamedWeights(made, lambda: None), "model.embed_tokens.weight"
    table = load_file(tmp_path / "model.safetensors")[embedding] + 1
    assert update(weights, {embedding: table, "lm_head.weight": table})[0]
    assert torch.equal(weights.read(embedding, len(table)), table)
    assert "not tied" in update(weights, {embedding: table, "lm_head.weight": table + 1})[1]
    assert torch.equal(weights.read("lm_head.weight", 3), table[:3])


def test_what_was_converted_when_it_was_loaded_is_refused_by_name(tmp_path):
    made = network(save("qwen3", tmp_path), "float32")
    weights, name = NamedWeights(made, lambda: None), "model.layers.0.self_attn.o_proj.weight"
    made.model.layers[0].self_attn.o_proj.method.can_unpack = False
    success, said = update(weights, {name: load_file(tmp_path / "model.safetensors")[name]})
    assert not success and name in said and MESSAGE in said
    with pytest.raises(CheckpointError, match=name):
        weights.read(name, 1)


@pytest.mark.parametrize("variant", ["qwen3", "mixtral", "deepseek_v3"])
def test_all_that_is_held_is_read_by_the_names_of_the_checkpoint(tmp_path, variant):
    made = network(save(variant, tmp_path), "float32")
    before, tensors = memory(made), load_file(tmp_path / "model.safetensors")
    weights = NamedWeights(made, lambda: None)
    for name in list(tensors)[::5]:
        assert torch.equal(weights.read(name, 10**6), tensors[name].float()), name
    with pytest.raises(CheckpointError, match="unexpected: nothing"):
        weights.read("nothing", 1)
    with weights.plain() as held:
        found = {name: one.clone() for name, one in held}
    whole = {name for name in found if name in tensors and found[name].shape == tensors[name].shape}
    assert whole and all(torch.equal(found[name], tensors[name]) for name in whole)
    assert {name.partition(" (")[0] for name in found} == set(tensors)
    assert_same(memory(made), before)


def test_what_is_written_to_all_that_is_held_is_served(tmp_path):
    folder = saved("deepseek_v3", tmp_path / "old")
    new, tensors = new_weights(folder, tmp_path)
    made, other = network(folder, "float32"), network(new, "float32")
    with NamedWeights(other, lambda: None).plain() as held:
        values = {name: one.clone() for name, one in held}
    with NamedWeights(made, lambda: None).plain() as held:
        for name, one in held:
            one.copy_(values[name])
    assert_same(memory(made), memory(other))

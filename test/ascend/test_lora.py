"""Adapters on the Ascend table, whose kernels check all that they are given: eagerly, captured, beside other rows."""

import numpy as np
import pytest
from ascend.doubles import wrapped
from models.adapters import ALL, adapted, fill, load, logits_of, with_room
from models.harness import Requests, assert_logits_close
from models.test_logits import LIMITS, prompts
from models.tiny import hugging_face, save

from .model import PAGE, NpuModel

SECONDS = 10
DTYPE, ROOM = "float16", 8
STACKS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
EXPERTS = dict(target_modules=["q_proj"], target_parameters=STACKS)
CONFIGS = {
    "llama@32": (dict(target_modules=ALL), dict(target_modules=["q_proj", "v_proj", "down_proj"])),
    "qwen3_moe@16": (EXPERTS, dict(target_modules=[], target_parameters=STACKS[1:])),
}


@pytest.fixture
def folders(tmp_path, request):
    """The model's folder and PEFT's models of two adapters, whose folders are beside it."""
    variant = getattr(request, "param", "llama@32")
    model = hugging_face(variant, DTYPE)
    found = {
        name: adapted(model, tmp_path / name, seed, r=4 + 2 * seed, **config)
        for seed, (name, config) in enumerate(zip("ab", CONFIGS[variant], strict=True))
    }
    return save(variant, tmp_path / "model", DTYPE), tmp_path, found


def serve(requests, ids):
    first = requests.step({name: ids[name][:-1] for name in ("short", "long", "one more")})
    last = requests.step({name: ids[name][-1:] for name in first})
    return {name: np.concatenate([first[name], last[name]]) for name in last}


@pytest.mark.parametrize("folders", CONFIGS, indirect=True)
def test_captured_and_uncaptured_steps_add_what_each_rows_adapter_does(checked, monkeypatch, folders):
    folder, path, references = folders
    ids, layers = prompts() | {"one more": np.arange(17) * 5 % 131}, []
    model = NpuModel(folder, DTYPE, PAGE, (4, 8), change=lambda model: layers.extend(with_room(model.network, ROOM, 3)))
    fill(layers, 2, load(path / "a"), ROOM)
    fill(layers, 0, load(path / "b"), ROOM)
    runner = model.graph.runner
    captured, sizes = runner.captured, []
    counted = wrapped(captured, lambda arrays: sizes.append(len(arrays["lora_slots"])) or captured(arrays))
    monkeypatch.setattr(runner, "captured", counted)
    requests = Requests(model, PAGE)
    requests.lora_slots = {"short": 2, "long": 0}
    found = serve(requests, ids)
    assert sizes == [4]
    wanted = {name: logits_of(references[one], ids[name]) for name, one in (("short", "a"), ("long", "b"))}
    assert_logits_close({name: found[name] for name in wanted}, wanted, LIMITS[DTYPE])
    plain = serve(Requests(NpuModel(folder, DTYPE, PAGE, (4, 8)), PAGE), ids)
    np.testing.assert_array_equal(found["one more"], plain["one more"])
    assert all(np.abs(found[name] - plain[name]).max() > 0.05 for name in wanted)


def test_weights_that_come_anew_leave_adapters_as_they_are(checked, folders):
    from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights

    folder, path, _ = folders
    ids, layers = prompts() | {"one more": np.arange(17) * 5 % 131}, []
    model = NpuModel(folder, DTYPE, PAGE, change=lambda model: layers.extend(with_room(model.network, ROOM, 3)))
    fill(layers, 1, load(path / "a"), ROOM)
    requests = []
    for _ in range(2):
        requests.append(Requests(model, PAGE))
        requests[-1].lora_slots = {"short": 1}
    before = serve(requests[0], ids)
    load_weights(model.network, check_weights(model.network, folder), progress=False)
    after = serve(requests[1], ids)
    np.testing.assert_array_equal(after["short"], before["short"])

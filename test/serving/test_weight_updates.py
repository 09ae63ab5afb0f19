"""New weights while serving: from disk they are taken whole or not at all; other ways are refused with a reason."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from serving.conftest import MODEL, Reference

from sglang.srt.model_executor_ms.seams.control import RefusedRequest

SECONDS = 25
GREEDY = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}


@pytest.fixture
def engine_with_its_weights_back(engine):
    yield engine
    assert engine.update_weights_from_disk(MODEL)[0]


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory):
    """The demo model with noise on every tensor, on disk."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copytree(MODEL, folder, dirs_exist_ok=True)
    model = Reference().model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * parameter.std() * 0.5
    model.save_pretrained(folder)
    return folder, model


def answer(engine, ids):
    return engine.generate(input_ids=ids, sampling_params=GREEDY)["output_ids"]


def test_weights_from_disk_are_served_from_the_next_request_on(engine_with_its_weights_back, other_weights, reference):
    engine, (folder, model) = engine_with_its_weights_back, other_weights
    ids = reference.tokenizer("Return a list of")["input_ids"]
    before = answer(engine, ids)
    success, message, _ = engine.update_weights_from_disk(str(folder))
    assert success, message
    wanted = model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, eos_token_id=None)
    after = answer(engine, ids)
    assert after == wanted[0][len(ids) :].tolist()
    assert after != before


def test_weights_that_do_not_fit_change_nothing_and_every_misfit_is_named(engine, other_weights, tmp_path):
    folder, _ = other_weights
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    tensors["model.extra"] = tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, file)
    before = answer(engine, [11, 12, 13])
    success, message, _ = engine.update_weights_from_disk(str(tmp_path))
    assert not success
    assert all(name in message for name in ("model.norm.weight", "model.extra", "model.layers.0.mlp.up_proj.weight")), (
        message
    )
    engine.flush_cache()
    assert answer(engine, [11, 12, 13]) == before


def test_a_load_format_that_is_not_supported_is_named(engine):
    success, message, _ = engine.update_weights_from_disk(MODEL, load_format="npz")
    assert not success
    assert "'npz' is not supported" in message


def test_weights_from_other_processes_are_refused_with_the_reason(engine):
    success, message = engine.init_weights_update_group("127.0.0.1", 1, 1, 2, "group", backend="gloo")
    assert not success
    assert "from disk only" in message
    with pytest.raises(RefusedRequest, match="parameters are MindSpore's, .* are not handed out"):
        engine.get_weights_by_name("model.norm.weight")


def test_checks_of_torch_parameters_are_refused_instead_of_passing_on_none(server):
    refused = server.post("/weights_checker", {"action": "snapshot"})
    assert refused.status_code == 400
    assert "MindSpore's" in refused.json()["message"]

"""New weights while serving, from disk or from a trainer: they are taken whole or not at all."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file
from serving.answers import asked
from serving.conftest import MODEL, Reference, free_port

from sglang.srt.model_executor_ms.seams.control import RefusedRequest
from sglang.srt.utils import MultiprocessingSerializer, init_custom_process_group
from sglang.srt.weight_sync.tensor_bucket import FlattenedTensorBucket

SECONDS = 30
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


def named(model) -> list:
    return [(name, tensor) for name, tensor in model.state_dict().items() if name != "lm_head.weight"]


def session(engine, update) -> tuple:
    """update() between the beginning and the end of an update -> what it says."""
    assert engine.begin_weight_update()[0]
    found = update()
    assert engine.end_weight_update()[0]
    return found


def test_a_trainers_tensors_are_served_from_the_next_request_on(engine_with_its_weights_back, other_weights, reference):
    engine, (_, model) = engine_with_its_weights_back, other_weights
    ids = reference.tokenizer("Return a list of")["input_ids"]
    tensors = named(model)
    assert "begin_weight_update" in engine.update_weights_from_tensor(tensors[:1])[1]
    for start in range(3):  # buckets that part what one matrix of ours has
        bucket = tensors[start::3]
        assert session(engine, lambda bucket=bucket: engine.update_weights_from_tensor(bucket)) == (True, "Success")
    wanted = model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, eos_token_id=None)
    assert answer(engine, ids) == wanted[0][len(ids) :].tolist()
    for name, tensor in tensors[:12]:
        assert torch.equal(torch.tensor(engine.get_weights_by_name(name, truncate_size=2)), tensor[:2]), name


def test_tensors_that_do_not_fit_are_named_and_change_nothing(engine, other_weights):
    tensors = dict(named(other_weights[1]))
    before = answer(engine, [11, 12, 13])
    for change in ({"model.extra": torch.ones(3)}, {"model.norm.weight": torch.ones(3)}, {"model.norm.weight": None}):
        broken = list((tensors | change).items())
        success, message = session(engine, lambda broken=broken: engine.update_weights_from_tensor(broken))
        assert not success and next(iter(change)) in message, message
    direct = session(engine, lambda: engine.update_weights_from_tensor(list(tensors.items()), load_format="direct"))
    assert direct[0] is False and "load_format is 'direct'" in direct[1]
    engine.flush_cache()
    assert answer(engine, [11, 12, 13]) == before
    with pytest.raises(RefusedRequest, match="unexpected: model.extra"):
        engine.get_weights_by_name("model.extra")


def test_tensors_come_in_a_flattened_bucket(engine_with_its_weights_back, other_weights):
    engine, (folder, model) = engine_with_its_weights_back, other_weights
    assert engine.update_weights_from_disk(str(folder))[0]
    wanted = answer(engine, [11, 12, 13])
    assert engine.update_weights_from_disk(MODEL)[0]
    bucket = FlattenedTensorBucket(named_tensors=named(model))
    content = {"flattened_tensor": bucket.get_flattened_tensor(), "metadata": bucket.get_metadata()}
    payload = [MultiprocessingSerializer.serialize(content)]
    update = lambda: engine.update_weights_from_tensor(payload, load_format="flattened_bucket")  # noqa: E731
    assert session(engine, update) == (True, "Success")
    assert answer(engine, [11, 12, 13]) == wanted


def test_a_group_of_processes_sends_tensors(engine_with_its_weights_back, other_weights):
    """The trainer is a thread of this process."""
    engine, (folder, model) = engine_with_its_weights_back, other_weights
    assert engine.update_weights_from_disk(str(folder))[0]
    wanted = answer(engine, [11, 12, 13])
    assert engine.update_weights_from_disk(MODEL)[0]
    refused = engine.init_weights_update_group("127.0.0.1", 1, 1, 2, "trainer", backend="nccl")
    assert refused == (False, "backend is 'nccl': on cpu a group is of backend 'gloo'")
    port, tensors = free_port(), named(model)

    def send():
        shared = dict(backend="gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=2, rank=0)
        group = init_custom_process_group(**shared, group_name="trainer")
        for _, tensor in tensors:
            torch.distributed.broadcast(tensor.contiguous(), src=0, group=group)

    with ThreadPoolExecutor(1) as trainer:
        sent = trainer.submit(send)
        joined = engine.init_weights_update_group("127.0.0.1", port, 1, 2, "trainer", backend="gloo")
        assert joined[0], joined
        names, shapes = [name for name, _ in tensors], [list(tensor.shape) for _, tensor in tensors]
        update = lambda: engine.update_weights_from_distributed(names, ["float32"] * len(names), shapes, "trainer")  # noqa: E731
        assert session(engine, update)[0]
        sent.result(timeout=60)
    assert engine.destroy_weights_update_group("trainer")[0]
    assert answer(engine, [11, 12, 13]) == wanted


def test_weights_are_compared_by_their_names(server, reference):
    """A snapshot; other weights, which differ from it; and the ones before again."""
    sums = [server.post("/weights_checker", {"action": "checksum"}).json() for _ in range(2)]
    (found,) = sums[0]["ranks"]
    assert sums[0] == sums[1]
    assert set(found["checksums"]) == set(load_file(f"{MODEL}/model.safetensors"))
    before = asked(server)
    assert server.post("/weights_checker", {"action": "snapshot"}).ok
    assert server.post("/weights_checker", {"action": "reset_tensors"}).ok
    differs = server.post("/weights_checker", {"action": "compare"})
    assert differs.status_code == 400 and "model.norm.weight" in differs.json()["message"]
    assert server.post("/update_weights_from_disk", {"model_path": MODEL}).json()["success"]
    assert server.post("/weights_checker", {"action": "compare"}).ok
    assert [one["output_ids"] for one in asked(server)] == [one["output_ids"] for one in before]


def test_a_paused_request_goes_on_with_the_new_weights_and_its_server_sleeps_meanwhile(server):
    body = {"text": "Return the", "sampling_params": {"max_new_tokens": 600, "temperature": 0, "ignore_eos": True}}
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(server.post, "/generate", body)
        time.sleep(0.3)
        assert server.post("/pause_generation", {"mode": "in_place"}).ok
        (rank,) = server.ranks()
        used, started = sum(rank.cpu_times()[:2]), time.monotonic()
        time.sleep(2)
        used, passed = sum(rank.cpu_times()[:2]) - used, time.monotonic() - started
        update = {"model_path": MODEL, "flush_cache": False, "weight_version": "second"}
        assert server.post("/update_weights_from_disk", update).json()["success"]
        assert not waiting.done()
        assert server.post("/continue_generation", {}).ok
        found = waiting.result().json()
    assert used / passed < 0.05
    assert len(found["output_ids"]) == 600
    assert found["meta_info"]["weight_version"] == "second"

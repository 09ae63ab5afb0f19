"""Trainers that do not come, stop in the middle, or send what does not fit: the server has the weights that it had."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file
from serving.conftest import MODEL, free_port
from tiers import SLOW

from sglang.srt.model_executor_ms.seams.control import RefusedRequest
from sglang.srt.utils import MultiprocessingSerializer, init_custom_process_group
from sglang.srt.weight_sync.tensor_bucket import FlattenedTensorBucket

SECONDS = 1, 60
WAIT = 5  # seconds that a rank waits for a trainer
GREEDY = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def engine(start_engine):
    return start_engine(MODEL, dist_timeout=WAIT, enable_memory_saver=True, max_running_requests=8)


@pytest.fixture(scope="module")
def tensors():
    return load_file(f"{MODEL}/model.safetensors")


def answer(engine) -> list:
    engine.flush_cache()
    return engine.generate(input_ids=[11, 12, 13], sampling_params=GREEDY)["output_ids"]


@pytest.fixture(autouse=True)
def as_before(engine):
    """Each test leaves a server that answers as it did."""
    before = answer(engine)
    yield
    assert answer(engine) == before


def in_a_session(engine, update) -> tuple:
    assert engine.begin_weight_update()[0]
    try:
        return update()
    finally:
        assert engine.end_weight_update()[0]


@SLOW
def test_a_trainer_that_does_not_come_is_given_up(engine):
    started = time.monotonic()
    success, message = engine.init_weights_update_group("127.0.0.1", free_port(), 1, 2, "absent", backend="gloo")
    assert not success and "Failed to initialize" in message
    assert time.monotonic() - started < WAIT + 15
    gone = engine.destroy_weights_update_group("absent")
    assert not gone[0] and "does not exist" in gone[1]


@SLOW
def test_a_trainer_that_stops_in_the_middle_is_given_up(engine, tensors):
    """It sends the first of two tensors; another time none, to a group that nobody has made."""
    names = ["model.norm.weight", "model.embed_tokens.weight"]
    shapes = [list(tensors[name].shape) for name in names]
    port, given_up = free_port(), threading.Event()

    def send():
        shared = dict(backend="gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=2, rank=0)
        group = init_custom_process_group(**shared, group_name="half")
        torch.distributed.broadcast(tensors[names[0]].float() * 2, src=0, group=group)
        given_up.wait(60)

    with ThreadPoolExecutor(1) as trainer:
        sent = trainer.submit(send)
        assert engine.init_weights_update_group("127.0.0.1", port, 1, 2, "half", backend="gloo")[0]
        started = time.monotonic()
        update = lambda: engine.update_weights_from_distributed(names, ["float32"] * 2, shapes, "half")  # noqa: E731
        success, message = in_a_session(engine, update)
        given_up.set()
        sent.result(60)
    assert not success and "Failed to receive weights" in message
    assert time.monotonic() - started < WAIT + 15
    engine.destroy_weights_update_group("half")
    unknown = lambda: engine.update_weights_from_distributed(names, ["float32"] * 2, shapes, "nobody")  # noqa: E731
    success, message = in_a_session(engine, unknown)
    assert not success and "nobody" in message


def changed(tensors: dict, name: str | None = None, value=None) -> list:
    """The tensors of layer 0, twice what they were; in their middle one of this name."""
    pairs = [(name, tensor * 2) for name, tensor in tensors.items() if "layers.0." in name]
    return pairs if name is None else [*pairs[:3], (name, value), *pairs[3:]]


NORM = "model.norm.weight"
WRONG = {
    "shape": (NORM, lambda norm: norm[:7]),
    "rank": (NORM, lambda norm: norm[None]),
    "no shape": (NORM, lambda norm: norm[0]),
    "int64": (NORM, lambda norm: norm.long()),
    "complex": (NORM, lambda norm: norm.to(torch.complex64)),
    "float8": (NORM, lambda norm: norm.to(torch.float8_e4m3fn)),
    "no tensor": (NORM, lambda _norm: "nothing"),
    "no such tensor": ("model.layers.0.mlp.other_proj.weight", lambda norm: norm),
    "no name": ("", lambda norm: norm),
}


@SLOW
@pytest.mark.parametrize("what", WRONG)
def test_something_wrong_in_the_middle_of_a_bucket_changes_nothing(engine, tensors, what):
    name, value = WRONG[what]
    bucket = changed(tensors, name, value(tensors[NORM]))
    success, message = in_a_session(engine, lambda: engine.update_weights_from_tensor(bucket))
    assert not success and name in message and len(message) > 10, message


@SLOW
def test_a_bucket_that_is_not_what_it_says_changes_nothing(engine, tensors):
    """Cut off, described beyond its end, without a description, no bucket, no payload."""
    bucket = FlattenedTensorBucket(named_tensors=changed(tensors))
    flat, described = bucket.get_flattened_tensor(), bucket.get_metadata()
    for content in (
        {"flattened_tensor": flat[:-100], "metadata": described},
        {"flattened_tensor": flat[:0], "metadata": described},
        {"flattened_tensor": flat},
        {"metadata": described},
        [1, 2, 3],
    ):
        payload = [MultiprocessingSerializer.serialize(content)]
        update = lambda payload=payload: engine.update_weights_from_tensor(payload, load_format="flattened_bucket")  # noqa: E731
        success, message = in_a_session(engine, update)
        assert not success and message, content
    update = lambda: engine.update_weights_from_tensor([b"garbage"], load_format="flattened_bucket")  # noqa: E731
    success, message = in_a_session(engine, update)
    assert not success and message


@SLOW
def test_sessions_are_begun_and_ended_once(engine, tensors):
    ended = engine.end_weight_update()
    assert not ended[0] and "no weight-update session is open" in ended[1]
    assert engine.begin_weight_update()[0]
    again = engine.begin_weight_update()
    assert not again[0] and "already open" in again[1]
    assert answer(engine)  # between the two it serves
    assert engine.update_weights_from_tensor(list(tensors.items()))[0]
    assert engine.end_weight_update()[0]
    assert not engine.update_weights_from_tensor(list(tensors.items()))[0]


@SLOW
def test_memory_is_released_and_resumed_in_any_order(engine):
    """Twice, in parts, with a question meanwhile; what was not released is not resumed."""
    for tags in (["kv_cache"], ["weights"], None):
        engine.release_memory_occupation(tags=tags)
        engine.release_memory_occupation(tags=tags)
        assert len(engine.generate(input_ids=[5, 6], sampling_params=GREEDY)["output_ids"]) == 12  # of no use
        engine.resume_memory_occupation(tags=tags)
        with pytest.raises(RefusedRequest, match="was not released"):
            engine.resume_memory_occupation(tags=tags)
        assert engine.update_weights_from_disk(MODEL)[0]
    engine.release_memory_occupation()
    engine.resume_memory_occupation(tags=["weights"])
    assert engine.update_weights_from_disk(MODEL)[0]
    engine.resume_memory_occupation(tags=["kv_cache"])

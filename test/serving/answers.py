"""What engines and servers answer, compared with the model itself."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
import requests
import torch
from models.tiny import hugging_face, reference_logits
from safetensors.torch import load_file, save_file
from serving.conftest import MODEL, free_port, left_of

from sglang.srt.utils import MultiprocessingSerializer, init_custom_process_group

PROMPTS = [[5, 90, 17], list(range(5, 85, 2))]  # shorter and longer than windows and chunks


def request(new_tokens: int, prompts: list) -> dict:
    """For greedy tokens, and the logprobs of every token."""
    greedy = dict(temperature=0, max_new_tokens=new_tokens, ignore_eos=True)
    return dict(input_ids=prompts, sampling_params=greedy, return_logprob=True, logprob_start_len=0)


def answered(engine, new_tokens: int = 12, prompts=PROMPTS) -> list:
    """What an engine answers."""
    return engine.generate(**request(new_tokens, prompts))


def asked(server, new_tokens: int = 12, prompts=PROMPTS) -> list:
    """What a server answers."""
    return server.post("/generate", request(new_tokens, prompts)).json()


def check_answers(answers: list, variant: str, limit: float, prompts=PROMPTS) -> None:
    """They must be the greedy tokens, and the logprobs to `limit`, of the reference of a variant of tiny.TINY."""
    for prompt, answer in zip(prompts, answers, strict=True):
        ids, meta = [*prompt, *answer["output_ids"]], answer["meta_info"]
        wanted = torch.from_numpy(reference_logits(variant, ids)).log_softmax(-1).numpy()
        found = [logprob for logprob, *_ in (*meta["input_token_logprobs"][1:], *meta["output_token_logprobs"])]
        np.testing.assert_allclose(found, wanted[np.arange(len(ids) - 1), ids[1:]], atol=limit)
        np.testing.assert_array_equal(answer["output_ids"], wanted.argmax(-1)[len(prompt) - 1 : -1])


def computed(answers: list, prompts=PROMPTS) -> list:
    """The tokens after which each answer's model was asked for one."""
    return [[*prompt, *answer["output_ids"][:-1]] for prompt, answer in zip(prompts, answers, strict=True)]


def choices(variant: str, prompts: list) -> dict[int, np.ndarray]:
    """How often the routers of transformers' model choose each expert for the tokens of prompts: {layer: [experts]}."""
    model, found, hooks = hugging_face(variant), {}, []
    for layer, block in enumerate(model.model.layers):
        if not hasattr(block.mlp, "experts"):
            continue
        weight = block.mlp.gate.weight
        found[layer] = np.zeros(len(weight), int)

        def count(_router, _inputs, output, counts=found[layer]):
            *_, experts = output
            counts += np.bincount(experts.flatten(), minlength=len(counts))

        hooks.append(block.mlp.gate.register_forward_hook(count))
    with torch.no_grad():
        for ids in prompts:
            model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return found


TEXTS = ["Return the", "The first", "def main(self):\n"]


def check_server(server, reference, texts=TEXTS, new_tokens: int = 12, **more) -> None:
    """Tokens and prompt logprobs of the demo model, one request, to which `more` is added, after the other."""
    for text in texts:
        ids = reference.tokenizer(text).input_ids
        body = {"input_ids": ids, "sampling_params": {"max_new_tokens": new_tokens, "temperature": 0}}
        body |= {"return_logprob": True, "logprob_start_len": 0}
        answer = server.post("/generate", body | more).json()
        assert answer["output_ids"] == reference.greedy(ids, new_tokens)
        found = torch.tensor([logprob for logprob, *_ in answer["meta_info"]["input_token_logprobs"][1:]])
        wanted = reference.logprobs(ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def check_many_at_once(server, reference, texts=TEXTS, new_tokens: int = 12) -> None:
    """Tokens of the demo model, of four requests for each text in one call."""
    ids = [reference.tokenizer(text).input_ids for text in texts * 4]
    body = {"input_ids": ids, "sampling_params": {"max_new_tokens": new_tokens, "temperature": 0}}
    answers = server.post("/generate", body).json()
    assert [answer["output_ids"] for answer in answers] == [reference.greedy(one, new_tokens) for one in ids]


@contextmanager
def streaming(server, **more):
    """While this lasts a long request of one server is answered; `more` is added to it. -> the lines of the answer"""
    body = {"text": "Return", "sampling_params": {"max_new_tokens": 1500, "ignore_eos": True}, "stream": True}
    with requests.post(f"{server.url}/generate", json=body | more, stream=True, timeout=120) as answer:
        lines = (line for line in answer.iter_lines() if line)
        next(lines)  # it runs
        yield lines


def check_cut_off(lines) -> list[bytes]:
    """The stream must end before the answer does. -> the lines that came"""
    came = []
    with pytest.raises(requests.RequestException):
        for line in lines:
            came.append(line)
        raise requests.ConnectionError("the stream ended, and so did the request")
    assert b"data: [DONE]" not in came
    return came


def check_a_killed_rank_ends(servers, seconds: float = 30, **more) -> None:
    """The second rank of a server, or of the nodes of one, is killed: all ends, and nothing is left in /dev/shm.

    A long request, to which `more` is added, ends with an error.
    """
    ranks = [rank for server in servers for rank in server.ranks()]
    assert len(ranks) > 1
    with leaving_nothing(servers, seconds), streaming(servers[0], **more) as lines:
        ranks[1].kill()
        check_cut_off(lines)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False


@contextmanager
def leaving_nothing(servers, seconds: float):
    """The nodes of one server end within so many seconds of this block, their processes and shared memory too."""
    ranks = [rank for server in servers for rank in server.ranks()]
    memory = {one for server in servers for one in server.shared_memory()}
    assert memory
    yield
    for server in servers:
        server.await_end(seconds)
    end = time.monotonic() + 5  # a signal takes a moment
    while left := [rank for rank in ranks if _lives(rank)]:
        assert time.monotonic() < end, left
        time.sleep(0.1)
    assert not left_of(memory)


def check_weights_are_taken_by_all_or_none(server, folder) -> None:
    """New weights for the demo model; of the refused ones, what only some ranks need is missing, damaged or longer.

    folder: an empty one, for them.
    """
    whole = load_file(f"{MODEL}/model.safetensors")
    others = {name: -tensor if "down_proj" in name else tensor for name, tensor in whole.items()}
    last = max(int(name.split(".")[2]) for name in whole if name.startswith("model.layers."))
    faults = {
        f"missing: model.layers.{last}.mlp.up_proj.weight": lambda t: t.pop(f"model.layers.{last}.mlp.up_proj.weight"),
        "wrong shape: model.layers.0.input_layernorm.weight": lambda t: t.update(
            {"model.layers.0.input_layernorm.weight": torch.ones(3)}
        ),
        f"unexpected: model.layers.{last}.extra": lambda t: t.update({f"model.layers.{last}.extra": torch.ones(3)}),
    }
    before = asked(server)
    for number, (problem, break_one) in enumerate(faults.items()):
        broken = dict(others)
        break_one(broken)
        refused = _update(server, folder / str(number), broken)
        assert refused.status_code == 400
        assert problem in refused.json()["message"]
    refused = server.post("/update_weights_from_disk", {"model_path": str(folder / "nothing")})
    assert refused.status_code == 400
    assert "not a folder" in refused.json()["message"]
    assert server.post("/flush_cache", {}).status_code == 200
    assert _ids(asked(server)) == _ids(before)
    assert _update(server, folder / "whole", others).json()["success"]
    assert _ids(asked(server)) != _ids(before)
    assert server.post("/update_weights_from_disk", {"model_path": MODEL}).json()["success"]
    assert _ids(asked(server)) == _ids(before)


def check_tensors_are_taken_by_all_or_none(server, ranks: int) -> None:
    """From a process that SGLang knows nothing of, over HTTP; each of its ranks has a payload."""

    def update(payloads) -> dict:
        assert server.post("/begin_weight_update", {}).json()["success"]
        found = server.post(
            "/update_weights_from_tensor", {"serialized_named_tensors": payloads, "weight_version": "7"}
        )
        assert server.post("/end_weight_update", {}).json()["success"]
        return found.json()

    def payload(tensors: dict) -> str:
        return MultiprocessingSerializer.serialize(list(tensors.items()), output_str=True)

    strategy = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")  # the other one asks for a secret of the parent's
    try:
        whole = load_file(f"{MODEL}/model.safetensors")
        others = {name: -tensor if "down_proj" in name else tensor for name, tensor in whole.items()}
        last = max(int(name.split(".")[2]) for name in whole if name.startswith("model.layers."))
        longer = {f"model.layers.{last}.input_layernorm.weight": torch.ones(3)}
        before = asked(server)
        for broken, problem in (
            ([payload(others | longer) for _ in range(ranks)], "wrong shape: " + next(iter(longer))),
            ([payload(others | {f"{last}.extra": torch.ones(3)}) for _ in range(ranks)], f"unexpected: {last}.extra"),
            ([payload(others) for _ in range(ranks - 1)] + ["AAAA"], "the tensors cannot be read"),
        ):
            found = update(broken)
            assert not found["success"] and problem in found["message"], found
        assert server.post("/flush_cache", {}).status_code == 200
        assert _ids(asked(server)) == _ids(before)
        found = update([payload(others) for _ in range(ranks)])
        assert found == {"success": True, "message": "Success Weight version updated to 7."}, found
        changed = asked(server)
        assert _ids(changed) != _ids(before)
        assert {one["meta_info"]["weight_version"] for one in changed} == {"7"}
        assert update([payload(whole) for _ in range(ranks)])["success"]
        assert _ids(asked(server)) == _ids(before)
    finally:
        torch.multiprocessing.set_sharing_strategy(strategy)


def check_a_group_sends_tensors(server, ranks: int) -> None:
    """Over a group of this process and of `ranks` of the server's."""
    whole, port = load_file(f"{MODEL}/model.safetensors"), free_port()
    others = {name: -tensor if "down_proj" in name else tensor for name, tensor in whole.items()}
    before, joined = asked(server), threading.Event()
    member = {"master_address": "127.0.0.1", "master_port": port, "rank_offset": 1, "world_size": 1 + ranks}

    def send():
        where = dict(backend="gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=1 + ranks, rank=0)
        group = init_custom_process_group(**where, group_name="trainer")
        assert joined.wait(60)
        for tensors in (others, whole):
            for tensor in tensors.values():
                torch.distributed.broadcast(tensor.contiguous(), src=0, group=group)

    def update() -> dict:
        described = {
            "names": list(whole),
            "dtypes": [str(tensor.dtype).removeprefix("torch.") for tensor in whole.values()],
            "shapes": [list(tensor.shape) for tensor in whole.values()],
        }
        assert server.post("/begin_weight_update", {}).json()["success"]
        found = server.post("/update_weights_from_distributed", described | {"group_name": "trainer"}).json()
        assert server.post("/end_weight_update", {}).json()["success"]
        return found

    with ThreadPoolExecutor(1) as trainer:
        sent = trainer.submit(send)
        group = {"group_name": "trainer", "backend": "gloo"}
        found = server.post("/init_weights_update_group", member | group).json()
        assert found["success"], found
        joined.set()
        assert (found := update())["success"], found
        assert _ids(asked(server)) != _ids(before)
        assert (found := update())["success"], found
        sent.result(timeout=60)
    assert server.post("/destroy_weights_update_group", {"group_name": "trainer"}).json()["success"]
    assert _ids(asked(server)) == _ids(before)


def _ids(answers: list) -> list:
    return [answer["output_ids"] for answer in answers]


def _update(server, folder, tensors: dict):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return server.post("/update_weights_from_disk", {"model_path": str(folder)})

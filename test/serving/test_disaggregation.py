"""Prefill on one server and decode on another: the answers of one server, and a killed one ends no other."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import psutil
import pytest
import requests
from serving.conftest import Server, free_port

from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag
from sglang.srt.model_executor_ms.server.fleet_arguments import check_transfers

SECONDS = 40
NEW_TOKENS = 16
LENGTHS = (3, 5, 40, 130, 361)


BACKENDS = {
    "nixl": {"UCX_TLS": "tcp,self,sm"},
    "mooncake_tcp": {"MOONCAKE_PROTOCOL": "tcp"},
}


@pytest.fixture(
    scope="module", params=[name if name == "nixl" else pytest.param(name, marks=pytest.mark.slow) for name in BACKENDS]
)
def servers(request, tmp_path_factory):
    """A prefill server, which knows the port, and a decode server."""
    try:
        check_transfers("", request.param.removesuffix("_tcp"))
    except UnsupportedFlag as lacking:
        pytest.skip(f"no package that tests install: {lacking}")
    if psutil.virtual_memory().available < 14 * 2**30:  # two servers take some of it
        pytest.skip("a decode server's pool of the host starts only where SGLang finds 10 GiB free")
    port, started = free_port(), []
    common = (
        "--disaggregation-transfer-backend",
        request.param,
        "--max-total-tokens",
        "4096",
        "--chunked-prefill-size",
        "128",
    )
    with mock.patch.dict(os.environ, {"SGLANG_HOST_IP": "127.0.0.1", **BACKENDS[request.param]}):
        for mode in ("prefill", "decode"):
            ports = ("--disaggregation-bootstrap-port", str(port))
            log = tmp_path_factory.mktemp(mode) / "log"
            started.append(Server(log, "--disaggregation-mode", mode, *ports, *common))
    for server in started:
        server.await_ready()
    started[0].bootstrap = port
    yield started
    for server in started:
        server.stop()


def ask(servers, body: dict, seconds: float = 60) -> requests.Response:
    """As a router does it: both servers get the request, and the decode server answers."""
    room = dict(bootstrap_host="127.0.0.1", bootstrap_port=servers[0].bootstrap, bootstrap_room=random.getrandbits(60))
    with ThreadPoolExecutor(2) as clients:
        sent = [
            clients.submit(requests.post, f"{one.url}/generate", json=body | room, timeout=seconds) for one in servers
        ]
        return sent[1].result()


def prompt(length: int) -> list:
    chosen = random.Random(length)
    return [chosen.randrange(5, 900) for _ in range(length)]


def body(length: int, **more) -> dict:
    greedy = {"temperature": 0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
    return dict(input_ids=prompt(length), sampling_params=greedy, **more)


@pytest.mark.parametrize("turn", ["computed", "cached"])
def test_answers_are_those_of_transformers(servers, reference, turn):
    for length in LENGTHS:
        meta = ask(servers, body(length, return_logprob=True)).json()["meta_info"]
        found = [token for _, token, *_ in meta["output_token_logprobs"]]
        ids = [*prompt(length), *found]
        wanted = reference.logprobs(ids)[length - 1 : -1]
        assert found == wanted.argmax(-1).tolist(), length
        logprobs = [logprob for logprob, *_ in meta["output_token_logprobs"]]
        assert max(abs(one - other) for one, other in zip(logprobs, wanted.max(-1).values.tolist(), strict=True)) < 1e-4


def test_many_requests_at_once(servers):
    alone = {length: ask(servers, body(length)).json()["output_ids"] for length in LENGTHS}
    with ThreadPoolExecutor(16) as clients:
        found = list(clients.map(lambda length: (length, ask(servers, body(length)).json()["output_ids"]), LENGTHS * 4))
    assert all(ids == alone[length] for length, ids in found)


def test_a_request_whose_prefill_server_is_killed_ends_with_an_error_and_decode_goes_on(servers):
    prefill, decode = servers
    prefill.stop()
    started = time.monotonic()
    answer = requests.post(
        f"{decode.url}/generate",
        json=body(5, bootstrap_host="127.0.0.1", bootstrap_port=prefill.bootstrap, bootstrap_room=7),
        timeout=60,
    )
    assert answer.status_code >= 400, answer.text
    assert time.monotonic() - started < 40
    assert decode.alive() and requests.get(f"{decode.url}/health", timeout=30).ok

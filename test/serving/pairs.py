"""A prefill server and a decode server of one model, which are asked as a router asks them."""

import os
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import requests
from serving.conftest import MODEL, Server, free_port
from serving.warm import WarmServer, warm_up

from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag
from sglang.srt.model_executor_ms.server.fleet_arguments import check_transfers

BACKENDS = {
    "nixl": {"UCX_TLS": "tcp,self,sm"},
    "mooncake_tcp": {"MOONCAKE_PROTOCOL": "tcp"},
}
SETTLED = 90  # seconds at most until a server has forgotten the requests of another one that has ended


class Pair:
    """Started by `prefill` and `decode`, which also replace what has ended; `stop` ends all that were started."""

    def __init__(self, folders, backend: str = "nixl", model=MODEL, **environment: str):
        """folders: makes a folder of a name. Skips the test where the backend's package is not installed."""
        try:
            check_transfers("", backend.removesuffix("_tcp"))
        except UnsupportedFlag as lacking:
            pytest.skip(f"no package that tests install: {lacking}")
        self.folders, self.backend, self.model = folders, backend, model
        self.environment = {"SGLANG_HOST_IP": "127.0.0.1", **BACKENDS[backend], **environment}
        self.address, self.port, self.started = "127.0.0.1", free_port(), []  # where the prefill server is met
        self.sides: dict[str, WarmServer] = {}
        warm_up()

    def start(self, mode: str, *flags: str, **where) -> WarmServer:
        """A server that is ready. where: the host that it runs on, as WarmServer has it."""
        common = ("--disaggregation-mode", mode, "--disaggregation-transfer-backend", self.backend)
        common += ("--disaggregation-bootstrap-port", str(self.port), "--chunked-prefill-size", "128")
        with mock.patch.dict(os.environ, self.environment):
            server = WarmServer(self.folders.mktemp(mode) / "log", *common, *flags, model=self.model, **where)
            self.started.append(server)
            self.sides[mode] = server
            return server.await_ready()

    def stop(self) -> None:
        for server in self.started:
            server.stop()

    def room(self) -> dict:
        """What a router adds to a request: where the prefill server is met, and a number of the request's own."""
        return dict(bootstrap_host=self.address, bootstrap_port=self.port, bootstrap_room=random.getrandbits(60))

    def ask(self, body: dict, seconds: float = 60) -> requests.Response:
        """The decode server's answer to what both servers get."""
        return self.answers(body, seconds)["decode"].result()

    def answers(self, body: dict, seconds: float = 60) -> dict:
        """Of each server the answer that is awaited: {mode: Future of a response}"""
        asked = body | self.room()
        clients = ThreadPoolExecutor(2)
        sent = {mode: clients.submit(self.send, mode, asked, seconds) for mode in ("prefill", "decode")}
        clients.shutdown(wait=False)
        return sent

    def send(self, mode: str, body: dict, seconds: float = 60) -> requests.Response:
        return requests.post(f"{self.sides[mode].url}/generate", json=body, timeout=seconds)


def settle(server: Server) -> int:
    """Wait until a server has forgotten all requests, and empty its cache -> the tokens that its pool still holds."""
    end = time.monotonic() + SETTLED
    while not server.post("/flush_cache").ok:
        assert time.monotonic() < end, f"a request is left:\n{server.log.read_text()[-3000:]}"
        time.sleep(0.2)
    return load_of(server)["num_used_tokens"]


def load_of(server: Server) -> dict:
    """What a server with one rank says of its queues and its pool."""
    return requests.get(f"{server.url}/v1/loads", timeout=30).json()["loads"][0]


def await_load(server: Server, wanted: Callable[[dict], bool]) -> None:
    end = time.monotonic() + SETTLED
    while not wanted(found := load_of(server)):
        assert server.alive() and time.monotonic() < end, found
        time.sleep(0.05)


def await_line(server: Server, text: str, start: int = 0) -> None:
    """Wait until a server has written this text, after so many characters of its log."""
    end = time.monotonic() + SETTLED
    while text not in server.log.read_text()[start:]:
        assert server.alive() and time.monotonic() < end, f"no {text!r} in:\n{server.log.read_text()[-3000:]}"
        time.sleep(0.005)


def prompt(length: int) -> list[int]:
    chosen = random.Random(length)
    return [chosen.randrange(5, 900) for _ in range(length)]


def body(length: int, new_tokens: int = 16, **more) -> dict:
    greedy = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
    return dict(input_ids=prompt(length), sampling_params=greedy, **more)


def check_answers(pair: Pair, reference, lengths: Iterable[int]) -> None:
    """Greedy tokens and their logprobs are those of transformers, one request after the other."""
    for length in lengths:
        meta = pair.ask(body(length, return_logprob=True)).json()["meta_info"]
        found = [token for _, token, *_ in meta["output_token_logprobs"]]
        wanted = reference.logprobs([*prompt(length), *found])[length - 1 : -1]
        assert found == wanted.argmax(-1).tolist(), length
        logprobs = [logprob for logprob, *_ in meta["output_token_logprobs"]]
        assert max(abs(one - other) for one, other in zip(logprobs, wanted.max(-1).values.tolist(), strict=True)) < 1e-4

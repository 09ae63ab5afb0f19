"""--nnodes 2 on a CPU: two hosts, made of network namespaces, form one server; one that waits in vain says for whom."""

import time

import psutil
import pytest
import requests
import torch
from serving.conftest import Server
from serving.network import Hosts

PROMPTS = ["Return the", "The first", "def main(self):\n"]
GREEDY = {"max_new_tokens": 12, "temperature": 0}
KINDS = {"ranks": ("--tp-size", "2"), "stages": ("--pp-size", "2")}


@pytest.fixture(scope="module")
def network():
    hosts = Hosts().start()
    yield hosts
    hosts.stop()


class Nodes:
    """The two nodes of a server, each on a host of its own."""

    def __init__(self, network: Hosts, folder, *arguments, port=29500):
        common = ("--nnodes", "2", "--dist-init-addr", f"{network.address}:{port}", "--max-total-tokens", "2048")
        self.network, self.folder, self.arguments = network, folder, (*common, "--host", "0.0.0.0", *arguments)

    def start(self, node: int) -> Server:
        arguments = (*self.arguments, "--node-rank", str(node))
        before = self.network.inside(node)
        return Server(self.folder / f"log{node}", *arguments, before=before, address=self.network.outside)


@pytest.fixture(scope="module", params=KINDS)
def nodes(request, network, tmp_path_factory):
    """Both nodes of a server; the test that ends it is the last."""
    both = Nodes(network, tmp_path_factory.mktemp(request.param), *KINDS[request.param])
    servers = [both.start(1), both.start(0)]
    try:
        servers[1].await_ready()
        yield servers[::-1]
    finally:
        for server in servers:
            server.stop()


def test_tokens_and_prompt_logprobs_are_those_of_transformers(nodes, reference):
    for prompt in PROMPTS:
        ids = reference.tokenizer(prompt).input_ids
        body = {"input_ids": ids, "sampling_params": GREEDY, "return_logprob": True, "logprob_start_len": 0}
        answer = nodes[0].post("/generate", body).json()
        assert answer["output_ids"] == reference.greedy(ids, 12)
        found = torch.tensor([logprob for logprob, *_ in answer["meta_info"]["input_token_logprobs"][1:]])
        wanted = reference.logprobs(ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_many_requests_at_once(nodes, reference):
    ids = [reference.tokenizer(prompt).input_ids for prompt in PROMPTS * 4]
    answers = nodes[0].post("/generate", {"input_ids": ids, "sampling_params": GREEDY}).json()
    assert [answer["output_ids"] for answer in answers] == [reference.greedy(one, 12) for one in ids]


def test_a_killed_rank_ends_the_server_on_both_hosts_and_its_requests(nodes, network):
    schedulers = [rank for server in nodes for rank in ranks(server)]
    assert len(schedulers) == 2
    body = {"text": "Return", "sampling_params": {"max_new_tokens": 1500, "ignore_eos": True}, "stream": True}
    with requests.post(f"{nodes[0].url}/generate", json=body, stream=True, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)  # it runs
        schedulers[1].kill()
        with pytest.raises(requests.RequestException):
            for _ in lines:
                pass
            raise requests.ConnectionError("the stream ended, and so did the request")
    end = time.monotonic() + 60
    while any(server.alive() for server in nodes) and time.monotonic() < end:
        time.sleep(0.2)
    assert not [server.log.read_text()[-2000:] for server in nodes if server.alive()]
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in schedulers)


def ranks(server: Server) -> list[psutil.Process]:
    children = server.process.children(recursive=True)
    return [child for child in children if "scheduler" in " ".join(child.cmdline())]


def test_a_node_that_does_not_come_is_named_in_time(network, tmp_path):
    first = Nodes(network, tmp_path, "--tp-size", "2", "--dist-timeout", "5", port=29600).start(0)
    try:
        end = time.monotonic() + 120
        while first.alive() and time.monotonic() < end:
            time.sleep(0.2)
        assert not first.alive()
    finally:
        first.stop()
    where = f"{network.address}:29600"
    assert f"MeetingError: rank 1 (node 1) of 2 did not come within 5 s to meet at {where}" in first.log.read_text()

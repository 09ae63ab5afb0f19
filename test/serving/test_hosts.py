"""--nnodes 2 on a CPU: two hosts, made of network namespaces, form one server; one that waits in vain says for whom.

Some on the path of an NPU: kernels that check what they are given, here in float32.
"""

import re

import pytest
from models.tiny import save
from serving.answers import (
    PROMPTS,
    check_a_killed_rank_ends,
    check_answers,
    check_cut_off,
    check_many_at_once,
    check_server,
    leaving_nothing,
    request,
    streaming,
)
from serving.conftest import MODEL
from serving.network import Hosts
from serving.warm import BEFORE, WarmServer
from tiers import mostly_slow

SECONDS = 50, 220
KINDS = {
    "ranks": ("--tp-size", "2"),
    "stages": ("--pp-size", "2", "--dist-timeout", "20"),
    # A dense layer, for the rows of both, and mixtures, to whose experts on the other host rows are sent.
    "replicas": ("--tp-size", "4", "--dp-size", "2", "--enable-dp-attention", "--moe-a2a-backend", "deepep"),
}
PAGED = ("--page-size", "16", "--chunked-prefill-size", "64", "--cuda-graph-bs-decode", "2")
AS_ON_NPU = {
    "ranks, as on NPUs": ("--tp-size", "2", *PAGED),
    "stages of two ranks, as on NPUs": ("--tp-size", "2", "--pp-size", "2", *PAGED),
    "replicas, as on NPUs": ("--tp-size", "2", "--dp-size", "2", "--enable-dp-attention", *PAGED),
}
KINDS |= AS_ON_NPU
MIXTURE = "deepseek_v3@ranks"  # of the kind "replicas"; the others have the demo model
LEFT = "all-reduces that are computed with the norms behind them"


class Nodes:
    """The two nodes of a server, each on a host of its own."""

    def __init__(self, network: Hosts, folder, *arguments, port=29500, model=MODEL):
        self.model = model
        common = ("--nnodes", "2", "--dist-init-addr", f"{network.address}:{port}", "--max-total-tokens", "2048")
        self.network, self.folder, self.arguments = network, folder, (*common, "--host", "0.0.0.0", *arguments)

    def start(self, node: int) -> WarmServer:
        arguments = (*self.arguments, "--node-rank", str(node))
        where = dict(host=str(self.network.held[node].pid), address=self.network.outside)
        return WarmServer(self.folder / f"log{node}", *arguments, model=self.model, **where)


QUICK = ("ranks, as on NPUs",)


@pytest.fixture(scope="module", params=mostly_slow(KINDS, lambda kind: kind in QUICK))
def nodes(request, network, tmp_path_factory):
    """Both nodes of a server; the test that ends it is the last."""
    arguments, model = KINDS[request.param], MODEL
    if request.param == "replicas":
        model, arguments = save(MIXTURE, tmp_path_factory.mktemp("mixture")), (*arguments, "--skip-tokenizer-init")
    both = Nodes(network, tmp_path_factory.mktemp("nodes"), *arguments, model=model)
    with pytest.MonkeyPatch.context() as patch:
        if request.param in AS_ON_NPU:
            patch.setenv("SGLANG_MS_OPS", "ascend_reference")
            patch.setenv(BEFORE, "ascend.exact")
        servers = [both.start(1), both.start(0)]
    try:
        servers[1].await_ready()
        yield servers[::-1]
    finally:
        for server in servers:
            server.stop()


@pytest.fixture
def kind(request):
    return request.node.callspec.params["nodes"]


def check(nodes, kind, reference, **more):
    """Greedy tokens, and logprobs of prompts; of the mixture those of all tokens."""
    if kind != "replicas":
        check_server(nodes[0], reference, **more)
        return
    answers = nodes[0].post("/generate", request(10, PROMPTS) | more).json()
    check_answers(answers, MIXTURE, 1e-4)


def test_tokens_and_prompt_logprobs_are_those_of_transformers(nodes, kind, reference):
    check(nodes, kind, reference, **(dict(routed_dp_rank=0) if kind == "replicas" else {}))


def test_a_host_has_a_replica_of_attention_that_answers_while_the_other_is_idle(nodes, kind, reference):
    if "replicas" not in kind:
        pytest.skip("the others have no replicas")
    check(nodes, kind, reference, routed_dp_rank=1)
    computed = [set(re.findall(r" DP(\d)\b[^\]]*\] Prefill batch", node.log.read_text())) for node in nodes]
    assert computed == [{"0"}, {"1"}]


def test_many_requests_at_once(nodes, kind, reference):
    if kind in AS_ON_NPU:
        pytest.skip("test_ascend_path.py asks these kernels, which are slow")
    if kind != "replicas":
        check_many_at_once(nodes[0], reference)
        return
    uneven = [list(range(5 + i, 5 + i + length)) for i, length in enumerate((2, 70, 9, 1, 41, 7))]
    check_answers(nodes[0].post("/generate", request(10, uneven)).json(), MIXTURE, 1e-4, uneven)


def test_sums_are_left_to_norms_where_no_host_lies_between(nodes, kind):
    if kind not in AS_ON_NPU:
        pytest.skip("these kernels leave none")
    assert [LEFT in node.log.read_text() for node in nodes] == [kind.startswith("stages")] * 2


def test_a_killed_rank_or_a_cut_cable_ends_the_server_on_both_hosts_and_its_requests(nodes, network, kind):
    if kind == "replicas, as on NPUs":
        pytest.skip("hosts with one rank each share no memory that could be left")
    if kind != "stages":
        ids = dict(text=None, input_ids=PROMPTS[0], sampling_params=dict(max_new_tokens=200, ignore_eos=True))
        check_a_killed_rank_ends(nodes, 60, **(ids if kind == "replicas" else {}))
        return
    try:
        with leaving_nothing(nodes, 60), streaming(nodes[0]) as lines:
            network.cut()
            check_cut_off(lines)
    finally:
        network.mend()
    assert re.search(r"gives up: rank 1 \(node 1, process \d+\) is of another host", nodes[0].log.read_text())


def test_a_node_that_does_not_come_is_named_in_time(network, tmp_path):
    first = Nodes(network, tmp_path, "--tp-size", "2", "--dist-timeout", "5", port=29600).start(0)
    try:
        text = first.await_end(120)
    finally:
        first.stop()
    assert f"RendezvousError: rank 1 (node 1) of 2 did not come within 5 s to meet at {network.address}:29600" in text

"""The network between a prefill server and a decode server is cut, and mended: both live, and answer again."""

import time

import pytest
import requests
from serving.network import Hosts
from serving.pairs import Pair, await_line, body, check_answers, load_of, settle
from tiers import SLOW

SECONDS = 1, 90
LONG = 1900  # tokens of a prompt whose pages are sent for some time
LOST = 25  # seconds at most in which a decode server misses two heartbeats, or cannot ask a prefill server what it is
WAITING = 20  # seconds in which pages are to arrive, and in which a prefill server is to be asked for some
BACK = 90  # seconds at most until TCP has connected again: about as long as the cut lasted, or two requests


@pytest.fixture(scope="module")
def network():
    hosts = Hosts().start()
    yield hosts
    hosts.stop()


@pytest.fixture(scope="module")
def servers(network, tmp_path_factory):
    """A host each, joined by a cable of their own: the tests reach both by others."""
    waits = dict(BOOTSTRAP_TIMEOUT=WAITING, WAITING_TIMEOUT=WAITING, DEFERRED_DECODE_KV_RELEASE_TIMEOUT=1)
    waits = {f"SGLANG_DISAGGREGATION_{name}": str(value) for name, value in waits.items()}
    pair = Pair(tmp_path_factory, UCX_TLS="tcp", UCX_NET_DEVICES="cable", **waits)
    pair.address = network.address
    where = (network.address, network.outside), (network.other, network.also_to_second())
    try:
        for mode, held, (own, outside) in zip(("prefill", "decode"), network.held, where, strict=True):
            pair.environment["SGLANG_HOST_IP"] = own
            flags = ("--host", "0.0.0.0", "--max-total-tokens", "4096")
            pair.start(mode, *flags, host=str(held.pid), address=outside)
        yield pair
    finally:
        pair.stop()


def check_ended(sent: dict) -> None:
    """Both servers end a request with an error in time, and live; sent: as Pair.answers gives it."""
    cut = time.monotonic()
    for mode, seconds in (("decode", LOST), ("prefill", WAITING + 10)):
        answer = sent[mode].result()
        assert answer.status_code >= 400, (mode, answer.text)
        assert time.monotonic() - cut < seconds, mode


def check_again(servers, reference) -> None:
    """Nothing is held, and answers are right once connections are made again; those before them end with an error."""
    for mode, side in servers.sides.items():
        assert side.alive() and requests.get(f"{side.url}/health", timeout=30).ok, mode
    began = time.monotonic()
    while not (answer := servers.ask(body(40))).ok:
        assert answer.status_code == 500 and time.monotonic() - began < BACK, answer.text
    check_answers(servers, reference, (40, 130, 361))
    assert {mode: settle(side) for mode, side in servers.sides.items()} == {"prefill": 0, "decode": 0}


@SLOW
def test_a_cut_while_pages_are_sent_ends_the_request_on_both_servers(servers, network, reference):
    check_answers(servers, reference, (40,))
    prefill = servers.sides["prefill"]
    before = len(prefill.log.read_text())
    sent = servers.answers(body(LONG), 120)
    await_line(prefill, "Prefill batch", before)  # of many: the first pages are on their way
    network.cut()
    try:
        check_ended(sent)
        assert load_of(prefill)["num_running_reqs"] == 0
    finally:
        network.mend()
    check_again(servers, reference)


@SLOW
def test_requests_that_come_while_the_network_is_cut_end_on_both_servers(servers, network, reference):
    network.cut()
    try:
        sent = [servers.answers(body(length), 120) for length in (41, 42)]
        for one in sent:
            check_ended(one)
    finally:
        network.mend()
    check_again(servers, reference)

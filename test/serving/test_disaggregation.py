"""Prefill on one server and decode on another: the answers of one server, and a killed one ends no other."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from serving.pairs import BACKENDS, Pair, await_line, await_load, body, check_answers, prompt, settle

SECONDS = 45, 120
LENGTHS = (3, 5, 40, 130, 361)
LONG = 1900  # tokens of a prompt whose pages are sent for some time
DECODE_TOKENS = 512  # less than what the requests of a test come to
BOOTSTRAP_TIMEOUT = 45  # seconds that a prefill server waits to be asked for pages


@pytest.fixture(
    scope="module", params=[name if name == "nixl" else pytest.param(name, marks=pytest.mark.slow) for name in BACKENDS]
)
def servers(request, tmp_path_factory):
    waits = {"BOOTSTRAP_TIMEOUT": str(BOOTSTRAP_TIMEOUT), "DEFERRED_DECODE_KV_RELEASE_TIMEOUT": "1"}
    waits = {f"SGLANG_DISAGGREGATION_{name}": value for name, value in waits.items()}
    pair = Pair(tmp_path_factory, request.param, **waits)
    try:
        pair.start("prefill", "--max-total-tokens", "4096")
        pair.start("decode", "--max-total-tokens", str(DECODE_TOKENS), "--num-reserved-decode-tokens", "16")
        yield pair.await_ready()
    finally:
        pair.stop()


@pytest.mark.parametrize("turn", ["computed", "cached"])
def test_answers_are_those_of_transformers(servers, reference, turn):
    check_answers(servers, reference, LENGTHS)


def test_many_requests_at_once(servers):
    alone = {length: servers.ask(body(length)).json()["output_ids"] for length in LENGTHS}
    with ThreadPoolExecutor(16) as clients:
        found = list(clients.map(lambda length: (length, servers.ask(body(length)).json()["output_ids"]), LENGTHS * 4))
    assert all(ids == alone[length] for length, ids in found)


def test_what_the_decode_server_retracts_goes_on_where_it_was(servers, reference):
    """Requests grow until the pool is full: some leave it, and come back with the keys and values that they had."""
    lengths, new_tokens = (40, 41, 42, 43), DECODE_TOKENS // 4
    before = len(servers.sides["decode"].log.read_text())
    with ThreadPoolExecutor(len(lengths)) as clients:
        found = list(clients.map(lambda length: servers.ask(body(length, new_tokens)).json()["output_ids"], lengths))
    assert "Retract requests" in servers.sides["decode"].log.read_text()[before:]
    for length, ids in zip(lengths, found, strict=True):
        wanted = reference.logits([*prompt(length), *ids])[length - 1 : -1].argmax(-1)
        assert ids == wanted.tolist(), length
    assert {mode: settle(side) for mode, side in servers.sides.items()} == {"prefill": 0, "decode": 0}


@pytest.mark.slow
def test_a_decode_server_of_two_ranks_gets_the_heads_of_each_and_is_killed_while_pages_are_sent(servers, reference):
    """The prefill server has one rank. It goes on, and holds nothing of the requests of the one that was killed."""
    prefill, small = servers.sides["prefill"], servers.sides["decode"]
    if servers.backend != "nixl":
        pytest.skip("tried over nixl")
    with ThreadPoolExecutor(1) as clients:
        never_asked = clients.submit(servers.send, "prefill", body(6) | servers.room(), 2 * BOOTSTRAP_TIMEOUT)
        try:
            ranks = servers.start("decode", "--max-total-tokens", "4096", "--tp-size", "2").await_ready()
            check_answers(servers, reference, (3, 40, 130, 361))
            assert settle(ranks) == 0
            before = len(prefill.log.read_text())
            sent = servers.answers(body(LONG))
            await_line(prefill, "Prefill batch", before)  # of many: the first pages are on their way
        finally:
            servers.sides["decode"].stop()
            servers.sides["decode"] = small
        killed = time.monotonic()
        assert sent["prefill"].result().status_code >= 400
        assert time.monotonic() - killed < 30
        assert never_asked.result().status_code >= 400 and "timed out" in never_asked.result().text
    assert settle(prefill) == 0
    check_answers(servers, reference, (40,))


def test_requests_whose_prefill_server_is_killed_end_with_an_error_and_decode_goes_on(servers):
    prefill, decode = servers.sides.values()
    with ThreadPoolExecutor(1) as clients:
        early = clients.submit(servers.send, "decode", body(40) | servers.room())  # and never gets its pages
        await_load(decode, lambda load: load["disaggregation"]["decode_transfer_queue_reqs"] == 1)
        prefill.stop()
        started = time.monotonic()
        late = servers.send("decode", body(5) | servers.room())
        assert late.status_code >= 400, late.text
        assert early.result().status_code >= 400, early.result().text
    assert time.monotonic() - started < 40
    assert decode.alive() and requests.get(f"{decode.url}/health", timeout=30).ok
    assert settle(decode) == 0

"""Prefill on one server and decode on another: the answers of one server, and a killed one ends no other."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import requests
import torch
from serving.conftest import TIED, free_port
from serving.pairs import BACKENDS, Pair, await_line, await_load, body, check_answers, prompt, settle
from tiers import SLOW

SECONDS = 20, 130
LENGTHS = (3, 5, 40, 130, 361)
LONG = 1900  # tokens of a prompt whose pages are sent for some time
DECODE_TOKENS = 512  # less than what the requests of a test come to
BOOTSTRAP_TIMEOUT = 45  # seconds that a prefill server waits to be asked for pages


@pytest.fixture(
    scope="module", params=[name if name == "nixl" else pytest.param(name, marks=SLOW) for name in BACKENDS]
)
def servers(request, tmp_path_factory):
    waits = {"BOOTSTRAP_TIMEOUT": str(BOOTSTRAP_TIMEOUT), "DEFERRED_DECODE_KV_RELEASE_TIMEOUT": "1"}
    waits = {f"SGLANG_DISAGGREGATION_{name}": value for name, value in waits.items()}
    pair = Pair(tmp_path_factory, request.param, **waits)
    try:
        pair.start("prefill", "--max-total-tokens", "4096")
        pair.start("decode", "--max-total-tokens", str(DECODE_TOKENS), "--num-reserved-decode-tokens", "16")
        yield pair
    finally:
        pair.stop()


@pytest.mark.parametrize("turn", ["computed", pytest.param("cached", marks=SLOW)])
def test_answers_are_those_of_transformers(servers, reference, turn):
    check_answers(servers, reference, LENGTHS)


@SLOW
def test_many_requests_at_once(servers):
    alone = {length: servers.ask(body(length)).json()["output_ids"] for length in LENGTHS}
    with ThreadPoolExecutor(16) as clients:
        found = list(clients.map(lambda length: (length, servers.ask(body(length)).json()["output_ids"]), LENGTHS * 4))
    assert all(ids == alone[length] for length, ids in found)


@SLOW
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


@SLOW
def test_a_chat_is_streamed_through_sglangs_router(servers, reference):
    pytest.importorskip("sglang_router")
    port, (prefill, decode) = free_port(), (side.url for side in servers.sides.values())
    command = [sys.executable, "-m", "sglang_router.launch_router", "--pd-disaggregation", "--port", str(port)]
    command += ["--prefill", prefill, str(servers.port), "--decode", decode, "--prometheus-port", str(free_port())]
    messages = [{"role": "user", "content": "What does this do?"}]
    asked = dict(model="m", messages=messages, max_tokens=16, temperature=0, ignore_eos=True)
    with subprocess.Popen([sys.executable, "-c", TIED, *command], stdout=subprocess.DEVNULL) as router:
        try:
            end, url = time.monotonic() + 60, f"http://127.0.0.1:{port}"
            while True:
                with suppress(requests.RequestException):
                    if requests.get(f"{url}/readiness", timeout=5).ok:
                        break
                assert time.monotonic() < end, "the router is not ready"
                time.sleep(0.2)
            whole = requests.post(f"{url}/v1/chat/completions", json=asked, timeout=60).json()
            with requests.post(f"{url}/v1/chat/completions", json=asked | dict(stream=True), stream=True) as answer:
                lines = [line.removeprefix(b"data: ") for line in answer.iter_lines() if line.startswith(b"data: {")]
        finally:
            router.kill()
    pieces = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines]
    ids = reference.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    found = reference.model.generate(torch.tensor([ids]), max_new_tokens=16, min_new_tokens=16, do_sample=False)
    wanted = reference.tokenizer.decode(found[0][len(ids) :], skip_special_tokens=True)
    assert "".join(pieces) == whole["choices"][0]["message"]["content"] == wanted and len(pieces) > 4


@SLOW
def test_a_decode_server_of_two_ranks_gets_the_heads_of_each_and_is_killed_while_pages_are_sent(servers, reference):
    """The prefill server has one rank. It goes on, and holds nothing of the requests of the one that was killed."""
    prefill, small = servers.sides["prefill"], servers.sides["decode"]
    if servers.backend != "nixl":
        pytest.skip("tried over nixl")
    with ThreadPoolExecutor(1) as clients:
        never_asked = clients.submit(servers.send, "prefill", body(6) | servers.room(), 2 * BOOTSTRAP_TIMEOUT)
        try:
            ranks = servers.start("decode", "--max-total-tokens", "4096", "--tp-size", "2")
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


@SLOW
def test_a_prefill_server_that_does_not_fit_ends_the_requests_that_name_it_and_nothing_else(servers):
    """Its pages are of another size, which SGLang finds when it is asked for the first time."""
    first = servers.port, servers.sides["prefill"]
    servers.port = free_port()
    try:
        servers.start("prefill", "--max-total-tokens", "512", "--page-size", "4")
        sent = servers.answers(body(5), 2 * BOOTSTRAP_TIMEOUT)
        refused = sent["decode"].result()
        assert refused.status_code >= 400 and "Page size mismatch" in refused.text
    finally:
        servers.sides["prefill"].stop()
        servers.port, servers.sides["prefill"] = first
    assert servers.ask(body(5)).ok


@SLOW
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

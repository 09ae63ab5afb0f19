"""What two servers with prefill and decode are asked that cannot be done: an error for it, and for nothing else."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from models.tiny import save
from serving.pairs import Pair, await_line, await_load, body, check_answers, settle
from tiers import SLOW

SECONDS = 1, 150
LONG = 1900  # tokens of a prompt whose pages are sent for some time
WAITING = 20  # seconds in which pages are to arrive, and in which a prefill server is to be asked for some


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    waits = dict(BOOTSTRAP_TIMEOUT=WAITING, WAITING_TIMEOUT=WAITING, DEFERRED_DECODE_KV_RELEASE_TIMEOUT=1)
    pair = Pair(tmp_path_factory, **{f"SGLANG_DISAGGREGATION_{name}": str(value) for name, value in waits.items()})
    try:
        pair.start("prefill", "--max-total-tokens", "4096", "--enable-memory-saver")
        pair.start("decode", "--max-total-tokens", "4096", "--enable-memory-saver")
        yield pair
    finally:
        pair.stop()


@pytest.fixture(autouse=True)
def again(servers, reference):
    """After every test both servers answer as before, and hold nothing."""
    yield
    check_answers(servers, reference, (40, 130))
    assert {mode: settle(side) for mode, side in servers.sides.items()} == {"prefill": 0, "decode": 0}


@SLOW
@pytest.mark.parametrize(
    "strange",
    [
        dict(bootstrap_room=None),
        dict(bootstrap_room=0),
        dict(bootstrap_room=-1),
        dict(bootstrap_room=2**63),
        dict(bootstrap_room=2**64 - 1),
        dict(bootstrap_room=2**70),
        dict(bootstrap_room="a"),
        dict(bootstrap_port=-1),
        dict(bootstrap_port=70000),
        dict(sampling_params=dict(max_new_tokens=-1)),
        dict(input_ids=[5] * 5000),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_by_both_at_once(servers, strange):
    started = time.monotonic()
    for mode in servers.sides:
        answer = servers.send(mode, body(5) | servers.room() | strange)
        assert answer.status_code in (400, 422) and len(answer.text) > 20, (mode, answer.status_code, answer.text)
    assert time.monotonic() - started < 10


@SLOW
@pytest.mark.parametrize("strange", [dict(bootstrap_host=None), dict(bootstrap_host="")], ids=str)
def test_a_decode_server_is_told_where_the_prefill_server_is(servers, strange):
    answer = servers.send("decode", body(5) | servers.room() | strange)
    assert answer.status_code == 400 and "bootstrap_host" in answer.text


@SLOW
@pytest.mark.parametrize(
    "strange",
    [dict(bootstrap_host="nowhere.invalid"), dict(bootstrap_host="a b/c?"), dict(bootstrap_port=9), dict(port=True)],
    ids=str,
)
def test_requests_that_name_nobody_end_in_time(servers, strange):
    """port: of the prefill server itself, which is no place to meet."""
    if "port" in strange:
        strange = dict(bootstrap_port=servers.sides["prefill"].port)
    started = time.monotonic()
    answer = servers.send("decode", body(5) | servers.room() | strange)
    assert answer.status_code >= 400, answer.text
    assert time.monotonic() - started < WAITING + 20


@SLOW
@pytest.mark.parametrize("first", ["prefill", "decode"])
def test_one_room_is_that_of_one_request(servers, first):
    """While it waits for the other server another request with its room is refused, and then it is answered."""
    then = "decode" if first == "prefill" else "prefill"
    wanted = servers.ask(body(300)).json()["output_ids"]
    asked = body(300) | servers.room()
    other = body(301) | {name: asked[name] for name in servers.room()}
    with ThreadPoolExecutor(1) as clients:
        waiting = clients.submit(servers.send, first, asked)
        time.sleep(1)  # it has come to the server's queues
        refused = servers.send(first, other, WAITING)
        assert refused.status_code == 400 and "that of another request" in refused.text, refused.text
        answers = {then: servers.send(then, asked), first: waiting.result()}
    assert answers["prefill"].ok and answers["decode"].json()["output_ids"] == wanted


@SLOW
def test_clients_hang_up_while_pages_are_sent(servers):
    """And abort by name, on both servers: nothing is held."""
    prefill = servers.sides["prefill"]
    for way in ("hang up", "abort"):
        asked = body(LONG, rid=way.replace(" ", "")) | servers.room()
        before = len(prefill.log.read_text())
        with ThreadPoolExecutor(2) as clients:
            seconds = 60 if way == "abort" else (0.01, 2)
            sent = [clients.submit(servers.send, mode, asked, seconds) for mode in servers.sides]
            await_line(prefill, "Prefill batch", before)  # of many: the first pages are on their way
            if way == "abort":
                for side in servers.sides.values():
                    assert side.post("/abort_request", dict(rid=asked["rid"])).ok
            for answer in sent:
                if way == "abort":
                    assert answer.result().status_code in (200, 400, 500, 503), answer.result().text
                else:
                    with pytest.raises(requests.RequestException):
                        answer.result()


@SLOW
def test_a_prefill_server_that_is_killed_while_pages_are_sent_ends_that_request(servers):
    """One that is started later, at the same place, is met again."""
    prefill, decode = servers.sides.values()
    before = len(prefill.log.read_text())
    sent = servers.answers(body(LONG), 2 * WAITING)
    await_line(prefill, "Prefill batch", before)
    prefill.stop()
    killed = time.monotonic()
    assert sent["decode"].result().status_code >= 400
    assert time.monotonic() - killed < 40 and decode.alive()
    with pytest.raises(requests.RequestException):
        raise sent["prefill"].exception() or AssertionError("a killed server has answered")
    servers.start("prefill", "--max-total-tokens", "4096", "--enable-memory-saver")
    end = time.monotonic() + 60
    while not servers.ask(body(5)).ok:
        assert time.monotonic() < end, "the new prefill server is not met"


@SLOW
def test_a_prefill_server_that_stands_still_ends_what_waits_for_it(servers):
    """Its launcher says that it is there; its scheduler sends nothing, until it goes on."""
    prefill, decode = servers.sides.values()
    (rank,) = prefill.ranks()
    rank.suspend()
    try:
        started = time.monotonic()
        sent = servers.answers(body(40), 4 * WAITING)
        refused = sent["decode"].result()
        assert refused.status_code >= 400, refused.text
        assert time.monotonic() - started < WAITING + 20
        assert decode.alive() and requests.get(f"{decode.url}/health", timeout=30).ok
    finally:
        rank.resume()
    assert sent["prefill"].result().status_code >= 400


@SLOW
@pytest.mark.parametrize("other", ["dtype", "model", "sizes"])
def test_a_decode_server_that_does_not_fit_gets_no_pages(servers, tmp_path_factory, other):
    """Of another dtype, of another kind of models, of more layers: its requests end, and no other server's."""
    decode, model, flags = servers.sides["decode"], servers.model, ()
    if other == "dtype":
        flags = ("--dtype", "bfloat16")
    else:
        servers.model = save("qwen3" if other == "model" else "llama", tmp_path_factory.mktemp(other))
    try:
        servers.start("decode", "--max-total-tokens", "512", *flags)
        asked = servers.answers(dict(body(5), input_ids=[5, 6, 7, 8, 9]), 2 * WAITING)
        refused = asked["decode"].result()
        assert refused.status_code >= 400 and "KV layout mismatch" in refused.text, refused.text
        assert "use the same model and --dtype" in refused.text
        assert asked["prefill"].result().status_code >= 400
    finally:
        if servers.sides["decode"] is not decode:
            servers.sides["decode"].stop()
        servers.sides["decode"], servers.model = decode, model


@SLOW
def test_what_is_generated_on_two_servers_obeys_what_was_asked(servers, reference):
    """Grammars, stops, several answers, one token, many logprobs, hidden states of neither."""
    greedy = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
    ids = body(40)["input_ids"]
    one = servers.ask(dict(input_ids=ids, sampling_params=greedy | dict(max_new_tokens=1))).json()["output_ids"]
    assert one == servers.ask(dict(input_ids=ids, sampling_params=greedy)).json()["output_ids"][:1]
    found = servers.ask(dict(input_ids=ids, sampling_params=greedy | dict(regex="[0-9]{4}", ignore_eos=False))).json()
    assert found["text"].isdigit() and len(found["text"]) == 4
    alone = servers.ask(dict(input_ids=ids, sampling_params=greedy, return_logprob=True, top_logprobs_num=5)).json()
    logprobs = reference.logprobs([*ids, *alone["output_ids"]])[len(ids) - 1 : -1]
    for row, top in zip(logprobs, alone["meta_info"]["output_top_logprobs"], strict=True):
        assert [token for _, token, _ in top] == row.topk(5).indices.tolist()
        assert [value for value, *_ in top] == pytest.approx(row.topk(5).values.tolist(), abs=1e-4)
    batch = [servers.room() for _ in range(2)]
    rooms = dict(bootstrap_host=batch[0]["bootstrap_host"], bootstrap_port=batch[0]["bootstrap_port"])
    rooms |= dict(bootstrap_room=[one["bootstrap_room"] for one in batch])
    asked = dict(input_ids=[ids, ids[:7]], sampling_params=greedy) | rooms
    with ThreadPoolExecutor(2) as clients:
        _, both = clients.map(lambda mode: servers.send(mode, asked), servers.sides)
    assert both.ok and both.json()[0]["output_ids"] == alone["output_ids"]


@SLOW
def test_servers_that_wait_for_each_other_leave_the_core_to_others(servers):
    """Less than a fifth of it, all processes of a server together; paused ones less than a twentieth."""

    def share(side) -> float:
        family = side.family()
        time.sleep(0.5)
        used, started = sum(sum(one.cpu_times()[:2]) for one in family), time.monotonic()
        time.sleep(3)
        return (sum(sum(one.cpu_times()[:2]) for one in family) - used) / (time.monotonic() - started)

    prefill, decode = servers.sides.values()
    with ThreadPoolExecutor(1) as clients:
        for first, then in (("decode", "prefill"), ("prefill", "decode")):
            asked = body(40) | servers.room()
            waiting = clients.submit(servers.send, first, asked)
            if first == "decode":
                await_load(decode, lambda load: load["disaggregation"]["decode_transfer_queue_reqs"] == 1)
            assert share(servers.sides[first]) < 0.2, first
            assert servers.send(then, asked).ok and waiting.result().ok
    for side in (prefill, decode):
        assert side.post("/pause_generation", dict(mode="in_place")).ok
        assert share(side) < 0.05
        assert side.post("/continue_generation", {}).ok


@SLOW
def test_both_servers_sleep_and_answer_again(servers):
    """Their memory goes back to the system, and pages are sent to where it was."""
    for side in servers.sides.values():
        assert side.post("/release_memory_occupation", {}).ok
    for side in servers.sides.values():
        assert side.post("/resume_memory_occupation", {}).ok
        assert side.post("/update_weights_from_disk", dict(model_path=str(servers.model))).json()["success"]

"""Bad requests get an error with a reason, and cost nothing but themselves."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GREEDY = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
KNOWN = {"text": "Return a list of", "sampling_params": GREEDY}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
LONG_MESSAGE = {"role": "user", "content": "ab " * 9000}
BODIES = {
    "no prompt": ("/generate", {"sampling_params": GREEDY}),
    "an empty prompt": ("/generate", {"text": "", "sampling_params": GREEDY}),
    "an empty prompt among others": ("/generate", {"text": ["a", ""], "sampling_params": GREEDY}),
    "an empty completion": ("/v1/completions", {"model": "m", "prompt": "", "max_tokens": 4}),
    "empty ids": ("/generate", {"input_ids": [], "sampling_params": GREEDY}),
    "ids outside the vocabulary": ("/generate", {"input_ids": [5, 10**6], "sampling_params": GREEDY}),
    "negative ids": ("/generate", {"input_ids": [5, -3], "sampling_params": GREEDY}),
    "a prompt longer than the context": ("/generate", {"input_ids": [7] * 5000, "sampling_params": GREEDY}),
    "ids that are no numbers": ("/generate", {"input_ids": ["a"], "sampling_params": GREEDY}),
    "a negative temperature": ("/generate", {"text": "a", "sampling_params": {"temperature": -1}}),
    "top_p above 1": ("/generate", {"text": "a", "sampling_params": {"top_p": 1.5}}),
    "top_k of 0": ("/generate", {"text": "a", "sampling_params": {"top_k": 0}}),
    "a negative length": ("/generate", {"text": "a", "sampling_params": {"max_new_tokens": -1}}),
    "an unknown parameter": ("/generate", {"text": "a", "sampling_params": {"temprature": 1}}),
    "a regular expression that is none": ("/generate", {"text": "a", "sampling_params": {"regex": "(["}}),
    "a grammar that is none": ("/generate", {"text": "a", "sampling_params": {"ebnf": "root ::= ("}}),
    "a schema that is none": ("/generate", {"text": "a", "sampling_params": {"json_schema": "{"}}),
    "a completion without a prompt": ("/v1/completions", {"model": "m", "max_tokens": 4}),
    "a chat without messages": ("/v1/chat/completions", {"model": "m"}),
    "a message without a role": ("/v1/chat/completions", {**CHAT, "messages": [{"content": "Hi"}]}),
    "a chat with an impossible temperature": ("/v1/chat/completions", {**CHAT, "temperature": "hot"}),
    "a chat that is too long": (
        "/v1/chat/completions",
        {**CHAT, "messages": [{"role": "user", "content": "ab " * 9000}]},
    ),
}
RAW = {
    "no JSON": b"hello",
    "half of a JSON object": b'{"text": "a", "sampling',
    "broken UTF-8": b'{"text": "\xff\xfe\xc3("}',
    "a JSON list": b"[1, 2]",
    "nothing": b"",
}


@pytest.fixture(scope="module")
def known(server):
    return server.post("/generate", KNOWN).json()["text"]


@pytest.fixture(autouse=True)
def unharmed(server, known):
    """After every test the server is well and answers as before."""
    yield
    assert requests.get(f"{server.url}/health", timeout=30).status_code == 200
    assert server.post("/generate", KNOWN).json()["text"] == known


def reason(answer):
    assert 400 <= answer.status_code < 500, f"{answer.status_code}: {answer.text[:300]}"
    return answer.text


@pytest.mark.parametrize("what", BODIES)
def test_a_bad_request_gets_a_reason(server, what):
    path, body = BODIES[what]
    assert len(reason(server.post(path, body))) > 10


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("what", RAW)
def test_a_malformed_body_gets_a_reason(server, path, what):
    headers = {"Content-Type": "application/json"}
    answer = requests.post(f"{server.url}{path}", data=RAW[what], headers=headers, timeout=60)
    if (path, what) == ("/v1/chat/completions", "a JSON list"):
        # SGLang 0.5.23's own handler of validation errors fails on a body that is no object.
        assert answer.status_code == 500
    else:
        reason(answer)


def test_no_prompts_get_no_answers(server):
    assert server.post("/generate", {"text": [], "sampling_params": GREEDY}).json() == []


def test_a_huge_body_gets_a_reason(server):
    reason(server.post("/generate", {"text": "a " * 3_000_000, "sampling_params": GREEDY}))


def test_requests_in_flight_are_unharmed_by_bad_ones(server):
    long = {"text": "The iterator", "sampling_params": {**GREEDY, "max_new_tokens": 200}}
    wanted = server.post("/generate", long).json()["text"]
    with ThreadPoolExecutor(3) as clients:
        flight = [clients.submit(server.post, "/generate", long) for _ in range(3)]
        for path, body in BODIES.values():
            server.post(path, body)
        assert [answer.result().json()["text"] for answer in flight] == [wanted] * 3


SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=4)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
NAMES = st.sampled_from(["temperature", "top_p", "top_k", "min_p", "stop", "regex", "n", "max_new_tokens", "ebnf", "x"])
SAMPLING = st.dictionaries(NAMES, VALUES, max_size=3)
FIELDS = {
    "/generate": st.fixed_dictionaries(
        {"sampling_params": SAMPLING},
        optional={"text": VALUES, "input_ids": VALUES, "return_logprob": VALUES, "logprob_start_len": VALUES},
    ),
    "/v1/completions": st.fixed_dictionaries(
        {"model": VALUES, "max_tokens": st.integers(-2, 4)},
        optional={"prompt": VALUES, "temperature": VALUES, "logprobs": VALUES, "echo": VALUES, "stop": VALUES},
    ),
    "/v1/chat/completions": st.fixed_dictionaries(
        {"model": VALUES, "max_tokens": st.integers(-2, 4)},
        optional={"messages": VALUES | st.just(CHAT["messages"]), "top_logprobs": VALUES, "tools": VALUES},
    ),
}


@pytest.mark.parametrize("path", FIELDS)
def test_no_body_takes_the_server_down(server, path):
    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(FIELDS[path])
    def send(body):
        if isinstance(body.get("sampling_params"), dict):
            body["sampling_params"].setdefault("max_new_tokens", 4)
        answer = requests.post(
            f"{server.url}{path}",
            data=json.dumps(body),
            headers={"Content-Type": "application/json"},
            timeout=60,
        )
        assert answer.status_code

    send()

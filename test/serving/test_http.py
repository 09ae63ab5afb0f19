"""The HTTP server on the demo model, through SGLang's own API and the real openai client."""

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import requests

SECONDS = 25
ROOT = Path(__file__).parents[2]
PROMPT = "Return a list of"
GREEDY = {"temperature": 0, "max_new_tokens": 16}


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")


@pytest.fixture(scope="module")
def model(client):
    return client.models.list().data[0].id


@pytest.fixture(scope="module")
def wanted(reference):
    ids = reference.tokenizer(PROMPT)["input_ids"]
    return reference.tokenizer.decode(reference.greedy(ids, 16), skip_special_tokens=True)


def test_generate_answers_with_the_text_of_transformers(server, wanted):
    answer = server.post("/generate", {"text": PROMPT, "sampling_params": GREEDY})
    assert answer.status_code == 200
    assert answer.json()["text"] == wanted


def test_completions_whole_and_streamed(client, model, wanted):
    arguments = dict(model=model, prompt=PROMPT, temperature=0, max_tokens=16)
    whole = client.completions.create(**arguments)
    assert whole.choices[0].text == wanted
    assert whole.usage.completion_tokens <= 16
    pieces = [piece.choices[0].text for piece in client.completions.create(**arguments, stream=True)]
    assert len(pieces) > 2
    assert "".join(pieces) == wanted


def test_chat_whole_and_streamed(client, model, reference):
    messages = [{"role": "user", "content": "What does abc do?"}]
    arguments = dict(model=model, messages=messages, temperature=0, max_tokens=16)
    whole = client.chat.completions.create(**arguments).choices[0].message.content
    ids = reference.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert whole == reference.tokenizer.decode(reference.greedy(ids, 16), skip_special_tokens=True)
    stream = client.chat.completions.create(**arguments, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in stream) == whole


def test_completions_give_logprobs_and_several_answers(client, model):
    found = client.completions.create(model=model, prompt=PROMPT, temperature=1, max_tokens=4, n=3, logprobs=2)
    assert len(found.choices) == 3
    assert all(max(choice.logprobs.token_logprobs) <= 0 for choice in found.choices)


def test_clients_at_the_same_time_get_their_own_answers(server):
    prompts = [f"{PROMPT} {number}" for number in range(12)]

    def ask(prompt):
        return server.post("/generate", {"text": prompt, "sampling_params": GREEDY}).json()["text"]

    alone = [ask(prompt) for prompt in prompts]
    with ThreadPoolExecutor(12) as clients:
        assert list(clients.map(ask, prompts)) == alone


def test_a_client_that_hangs_up_ends_its_request(server):
    """/flush_cache succeeds only when no request is left; the log tells how many tokens were made for nobody."""
    decodes = server.log.read_text().count("mindspore forward: decode")
    long = {"text": PROMPT, "sampling_params": {**GREEDY, "max_new_tokens": 2000, "ignore_eos": True}, "stream": True}
    with server.post("/generate", long, stream=True) as answer:
        next(answer.iter_lines())
    end = time.monotonic() + 60
    while not server.post("/flush_cache").ok and time.monotonic() < end:
        time.sleep(0.2)
    assert server.post("/flush_cache").ok
    assert server.log.read_text().count("mindspore forward: decode") - decodes < 1900


def test_the_server_says_what_it_serves_and_how_it_is(server, model):
    assert model.endswith("demo_model")
    assert requests.get(f"{server.url}/health", timeout=30).status_code == 200
    assert requests.get(f"{server.url}/health_generate", timeout=60).status_code == 200
    metrics = requests.get(f"{server.url}/metrics", timeout=30).text
    assert re.search(r"^sglang[:_]generation_tokens_total\S* [1-9]", metrics, re.MULTILINE)


def test_nothing_is_compiled_while_serving(server):
    """SGLANG_MS_PROFILE's line of each forward ends with the number of graphs compiled so far in the process."""
    for length in (1, 2, 9, 60, 300):
        body = {"input_ids": [list(range(20, 20 + length))] * (1 + length % 4), "sampling_params": GREEDY}
        assert server.post("/generate", body).status_code == 200
    forwards = re.findall(r"mindspore forward: (\w+), .* graphs (\d+)", server.log.read_text())
    assert {kind for kind, _ in forwards} == {"extend", "decode"}
    assert len({graphs for _, graphs in forwards}) == 1


@pytest.mark.parametrize("example, shown", [("openai_client", "chat: "), ("frontend_language", "Added in version 3.")])
def test_the_examples_run(server, example, shown):
    script = ROOT / f"ms_example/{example}.py"
    done = subprocess.run([sys.executable, script, "--url", server.url], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_an_idle_server_leaves_the_cores_to_others(server):
    processes = {server.process, *server.family()}

    def busy():
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    time.sleep(1)  # the last test's requests end
    before = busy()
    time.sleep(3)
    assert busy() - before < 1


def test_a_prompt_is_scored_by_a_completion_of_no_tokens(server, client, model, reference):
    ids = reference.tokenizer(PROMPT).input_ids
    wanted = reference.logprobs(ids)
    for logprobs in (0, 1, 3):
        found = client.completions.create(
            model=model, prompt=PROMPT, max_tokens=0, echo=True, logprobs=logprobs, temperature=0
        )
        choice = found.choices[0]
        assert (choice.text, found.usage.completion_tokens) == (PROMPT, 0)
        first, *others = choice.logprobs.token_logprobs
        assert first is None
        assert others == pytest.approx([wanted[i, ids[i + 1]].item() for i in range(len(ids) - 1)], abs=1e-4)
        assert [len(top) for top in choice.logprobs.top_logprobs[1:]] == [logprobs] * len(others) * bool(logprobs)
    plain = client.completions.create(model=model, prompt=PROMPT, max_tokens=0)
    assert (plain.choices[0].text, plain.usage.completion_tokens) == ("", 0)
    stream = client.completions.create(model=model, prompt=PROMPT, max_tokens=0, echo=True, stream=True)
    assert "".join(piece.choices[0].text for piece in stream if piece.choices) == PROMPT

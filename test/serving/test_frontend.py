"""SGLang's frontend language on the server: the kinds of programs in SGLang's own introduction."""

import re

import pytest

import sglang

SECONDS = 8


@pytest.fixture(autouse=True, scope="module")
def backend(server):
    sglang.set_default_backend(sglang.RuntimeEndpoint(server.url))


@sglang.function
def conversation(s, first, second):
    s += sglang.user(first)
    s += sglang.assistant(sglang.gen("one", max_tokens=12, temperature=0))
    s += sglang.user(second)
    s += sglang.assistant(sglang.gen("two", max_tokens=12, temperature=0))


KINDS = ["list", "string", "number of things"]


@sglang.function
def choice(s, subject):
    s += f"{subject} is a "
    s += sglang.select("kind", choices=KINDS)


@sglang.function
def fork(s):
    s += "Two ways to sort a list.\n"
    branches = s.fork(2)
    for number, branch in enumerate(branches):
        branch += f"Way {number}: "
        branch += sglang.gen("way", max_tokens=8, temperature=0, stop="\n")
    s += branches[0]["way"] + " and " + branches[1]["way"]


@sglang.function
def year(s):
    s += "It was the year " + sglang.gen("year", max_tokens=8, temperature=0, regex=r"(19|20)[0-9]{2}")


@sglang.function
def continuation(s, text):
    s += text + sglang.gen("rest", max_tokens=8, temperature=0, ignore_eos=True)


def test_a_conversation_of_several_turns():
    state = conversation.run(first="What does abc do?", second="And textwrap?")
    messages = state.messages()
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[1]["content"].strip() == state["one"].strip()
    assert messages[3]["content"].strip() == state["two"].strip()


def test_select_takes_the_choice_whose_tokens_are_likeliest(reference):
    state = choice.run(subject="A str")
    means = []
    for kind, (first, *tokens) in zip(KINDS, state.get_meta_info("kind")["input_token_logprobs"], strict=True):
        assert first[0] is None  # SGLang's first place has no logprob
        whole = reference.tokenizer(f"A str is a {kind}")["input_ids"]
        logprobs, start = reference.logprobs(whole), len(whole) - len(tokens)
        wanted = [float(logprobs[place - 1, whole[place]]) for place in range(start, len(whole))]
        assert [value for value, *_ in tokens] == pytest.approx(wanted, abs=1e-3)
        means.append(sum(wanted) / len(wanted))
    assert state["kind"] == KINDS[means.index(max(means))]


def test_forks_go_their_own_ways_and_join():
    text = fork.run().text()
    assert text.startswith("Two ways to sort a list.\n") and " and " in text


def test_a_regular_expression_holds():
    assert re.fullmatch(r"(19|20)[0-9]{2}", year.run()["year"])


def test_a_batch_of_programs_gives_what_each_gives_alone():
    texts = ["Return the", "The list", "An object", "If no"]
    batch = continuation.run_batch([{"text": text} for text in texts])
    assert [state["rest"] for state in batch] == [continuation.run(text=text)["rest"] for text in texts]


def test_a_program_streams_its_text():
    state = continuation.run(text="Return the", stream=True)
    assert "".join(state.text_iter()) == state.text()

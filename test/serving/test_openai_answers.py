"""Answers of the /v1 routes, held to the openai client's types, and to what the request asked for."""

import itertools
import json

import jsonschema
import pytest
import requests
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from serving.conftest import MODEL

SECONDS = 15
PROMPT = "Return a list of"
MESSAGES = [{"role": "user", "content": "What does abc do?"}]
SCHEMAS = {
    "scalars": {"a": {"type": "integer"}, "b": {"type": "boolean"}, "c": {"enum": ["x", "yy"]}},
    "nested": {"a": {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]}},
    "list": {"a": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}},
    "text": {"a": {"type": "string", "maxLength": 5}, "b": {"type": "string", "pattern": "^[ab]{2}$"}},
    "bounded": {"a": {"type": "integer", "minimum": 3, "maximum": 7}},
}


def post(server, path, **body):
    answer = server.post(path, {"model": MODEL} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(server, path, **body):
    """The JSON of each event of a stream."""
    with server.post(path, {"model": MODEL, "stream": True} | body, stream=True) as answer:
        assert answer.status_code == 200, answer.text
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def check(kind, value):
    """A value against a type of the client's, which lets anything pass where it reads an answer itself."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_validate(value)
    return TypeAdapter(kind).validate_python(value)


def completion(value):
    """A completion whose types hold but for nulls where OpenAI has them too: before a first token, before an end."""
    filled = json.loads(json.dumps(value))
    for choice in filled["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        for name, nothing in (("token_logprobs", 0.0), ("top_logprobs", {})) if choice["logprobs"] else ():
            choice["logprobs"][name] = [nothing if one is None else one for one in choice["logprobs"][name]]
    return check(Completion, filled)


def test_models(server):
    listed = requests.get(f"{server.url}/v1/models", timeout=30).json()["data"]
    for one in listed:
        check(Model, one)
        check(Model, requests.get(f"{server.url}/v1/models/{one['id']}", timeout=30).json())


@pytest.mark.parametrize("more", [{}, {"logprobs": 2, "echo": True}, {"n": 2, "temperature": 1, "stop": "e"}])
def test_completions(server, more):
    asked = dict(prompt=PROMPT, max_tokens=8, **more)
    whole = completion(post(server, "/v1/completions", **asked))
    assert [choice.index for choice in whole.choices] == list(range(more.get("n", 1)))
    usage = {"stream_options": {"include_usage": True}}
    pieces = [completion(event) for event in events(server, "/v1/completions", **asked, **usage)]
    assert pieces[-1].usage.total_tokens > 0 and not pieces[-1].choices


@pytest.mark.parametrize("more", [{}, {"logprobs": True, "top_logprobs": 2}, {"n": 2, "temperature": 1}])
def test_chat(server, more):
    asked = dict(messages=MESSAGES, max_tokens=8, **more)
    whole = check(ChatCompletion, post(server, "/v1/chat/completions", **asked))
    assert [choice.message.role for choice in whole.choices] == ["assistant"] * more.get("n", 1)
    pieces = [check(ChatCompletionChunk, event) for event in events(server, "/v1/chat/completions", **asked)]
    assert {choice.finish_reason for piece in pieces for choice in piece.choices} >= {None}


def test_responses(server):
    asked = dict(input="What does abc do?", max_output_tokens=12, temperature=0)
    whole = check(Response, post(server, "/v1/responses", **asked))
    came = [check(ResponseStreamEvent, event) for event in events(server, "/v1/responses", **asked)]
    assert (came[0].type, came[-1].type) in [
        ("response.created", "response.completed"),
        ("response.created", "response.incomplete"),
    ]
    assert came[-1].response.output_text == whole.output_text
    assert [event.sequence_number for event in came] == list(range(len(came)))


def tool(properties):
    parameters = {"type": "object", "properties": properties, "required": sorted(properties)}
    parameters["additionalProperties"] = False
    return {"type": "function", "function": {"name": "act", "description": "Acts", "parameters": parameters}}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "act"}}])
@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_arguments_of_a_forced_call_fit_its_schema(server, schema, choice):
    forced = tool(SCHEMAS[schema])
    asked = dict(
        messages=MESSAGES, tools=[forced], tool_choice=choice, max_tokens=200, temperature=0, parallel_tool_calls=False
    )
    answer = check(ChatCompletion, post(server, "/v1/chat/completions", **asked)).choices[0]
    assert answer.finish_reason == "tool_calls"
    for call in answer.message.tool_calls:
        assert call.function.name == "act"
        jsonschema.validate(json.loads(call.function.arguments), forced["function"]["parameters"])
    pieces = [check(ChatCompletionChunk, event) for event in events(server, "/v1/chat/completions", **asked)]
    deltas = [call for piece in pieces for one in piece.choices for call in one.delta.tool_calls or ()]
    for _, calls in itertools.groupby(deltas, key=lambda call: call.index):
        arguments = "".join(call.function.arguments or "" for call in calls)
        jsonschema.validate(json.loads(arguments), forced["function"]["parameters"])


def test_a_forced_call_of_anthropics_messages(server):
    parameters = tool(SCHEMAS["list"])["function"]["parameters"]
    tools = [{"name": "act", "description": "Acts", "input_schema": parameters}]
    for choice in ({"type": "any"}, {"type": "tool", "name": "act"}):
        choice |= {"disable_parallel_tool_use": True}
        body = dict(messages=MESSAGES, max_tokens=200, temperature=0, tools=tools, tool_choice=choice)
        answer = post(server, "/v1/messages", **body)
        (used,) = [block for block in answer["content"] if block["type"] == "tool_use"]
        jsonschema.validate(used["input"], parameters)
        assert answer["stop_reason"] == "tool_use"


def texts(server, **asked):
    """What three routes answer, whole and streamed."""
    generated = dict(text=PROMPT, sampling_params=dict(temperature=0, max_new_tokens=40, **asked))
    yield server.post("/generate", generated).json()["text"]
    openais = dict(prompt=PROMPT, temperature=0, max_tokens=40, **asked)
    yield post(server, "/v1/completions", **openais)["choices"][0]["text"]
    yield "".join(event["choices"][0]["text"] for event in events(server, "/v1/completions", **openais))


def test_text_ends_before_a_stop_string_wherever_tokens_end(server):
    (whole,) = set(texts(server))
    stops = {whole[start : start + size] for start in range(1, len(whole) - 8, 5) for size in (1, 3, 8)}
    for stop in sorted(stops):
        assert set(texts(server, stop=stop)) == {whole[: whole.index(stop)]}, stop


def test_the_first_of_several_stop_strings_ends_the_text(server):
    (whole,) = set(texts(server))
    stops = [whole[20:23], whole[10:14], "nowhere", whole[12]]
    first = min(whole.index(stop) for stop in stops if stop in whole)
    assert set(texts(server, stop=stops)) == {whole[:first]}

"""Every route of /openapi.json with values that are wrong, missing or impossible: the server answers, and goes on."""

from urllib.parse import quote

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving.conftest import MODEL

SECONDS = 1, 120
KNOWN = {"input_ids": [5, 6, 7], "sampling_params": {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True}}
SECONDS_TO_ANSWER = 60
EXAMPLES = 6  # of each route
NOWHERE = "/proc/none/x"  # a folder that nobody can make
FOLDERS = ("output_dir", "dump_requests_folder", "crash_dump_folder", "file_path", "model_path", "lora_path")
# Values that are no answer to any field.
WRONG = [None, True, -1, 0, 3, 2**31, 2**63, 10**30, -0.5, 1e300, "", "wat", "\0", "x" * 5000, [], ["wat"], [[]], {}]
WRONG += [[-1], [10**9], {"wat": 1}, [{"role": "wat", "content": [1]}], [{"type": "wat"}]]
# Routes where SGLang 0.5.23 itself answers with 500, or breaks off, for some values; the server goes on.
SGLANG_FAILS: set[str] = {"/api/chat", "/api/generate", "/vertex_generate"}
BROKEN_OFF = 599
# What undoes that a server pauses, or sleeps before each step.
AFTERWARDS = [("/continue_generation", {}), ("/slow_down", {"forward_sleep_time": None}), ("/stop_profile", None)]


@pytest.fixture(scope="module")
def swept(serve):
    return serve(MODEL, "--max-running-requests", "8", "--constrained-json-disable-any-whitespace")


@pytest.fixture(scope="module")
def specification(swept):
    return requests.get(f"{swept.url}/openapi.json", timeout=60).json()


def resolved(specification, schema):
    """A schema without references at its top."""
    while "$ref" in schema:
        found = specification
        for name in schema["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        schema = found
    for kind in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(kind, ()):
            inner = resolved(specification, one)
            if "properties" in inner:
                return inner
    return schema


def good(specification, schema, name=""):
    """A value that the schema allows, or nearly."""
    if name in FOLDERS:
        return NOWHERE
    schema = resolved(specification, schema)
    if "default" in schema:
        return schema["default"]
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    for one in schema.get("anyOf", ()):
        return good(specification, one, name)
    if "properties" in schema:
        wanted = schema.get("required", ())
        return {key: good(specification, schema["properties"][key], key) for key in wanted}
    if schema.get("type") == "array":
        return [good(specification, schema.get("items", {}))]
    least = schema.get("minimum", 1)
    values = {"string": "a", "integer": least, "number": least, "boolean": False, "object": {}}
    return values.get(schema.get("type"))


def bodies(specification, schema):
    """Bodies of a route: a good one of which some fields are replaced, added or left out; or no object at all."""
    schema = resolved(specification, schema)
    fields = sorted(schema.get("properties", ()))
    if not fields:
        return st.sampled_from(WRONG)
    whole = good(specification, schema)

    @st.composite
    def changed(draw):
        body = {name: value for name, value in whole.items() if draw(st.integers(0, 9))}
        for name in draw(st.lists(st.sampled_from(fields), max_size=3)):
            value = draw(st.sampled_from(WRONG))
            body[name] = NOWHERE if name in FOLDERS and isinstance(value, str) and value not in ("", "\0") else value
        return body

    return changed() | changed() | changed() | st.sampled_from(WRONG)


def routes(specification):
    """Of every route: path, method, bodies, and names of the values in its query and its path."""
    for path, methods in sorted(specification["paths"].items()):
        for method, described in sorted(methods.items()):
            content = described.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema")
            given_names = [(one["name"], one["in"]) for one in described.get("parameters", ())]
            yield path, method, bodies(specification, schema) if schema else st.none(), given_names


def send(server, method, path, body, values):
    """The status and the text of an answer to a request, with values in its query or its path."""
    query = {}
    for (name, place), value in values.items():
        if place == "path":
            path = path.replace(f"{{{name}}}", quote(str(value), safe="") or "%20")
            path = path.replace(f"{{{name}:path}}", quote(str(value), safe="") or "%20")
        elif place == "query" and value is not None:
            query[name] = value
    options = dict(params=query, timeout=SECONDS_TO_ANSWER) | ({} if body is None else dict(json=body))
    try:
        answer = requests.request(method, server.url + path, **options)
        return answer.status_code, answer.text
    except requests.exceptions.ChunkedEncodingError:
        return BROKEN_OFF, "broken off"


def check_route(server, path, method, body_strategy, names, examples):
    failed = []

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(body_strategy, st.fixed_dictionaries({name: st.sampled_from(WRONG) for name in names}))
    def ask(body, values):
        status, text = send(server, method, path, body, values)
        assert server.alive(), server.log.read_text()[-2000:]
        if status >= 500 and path not in SGLANG_FAILS:
            failed.append(f"{method} {path} {str(body)[:300]} {values}: {status} {text[:200]}")

    ask()
    for undo, body in AFTERWARDS:
        server.post(undo, body)
    assert server.post("/generate", KNOWN).json()["output_ids"], path
    return failed[:2]


@pytest.mark.slow  # test_control_requests.py has the values that are likeliest to end a server
def test_every_route_answers_whatever_it_is_given(swept, specification):
    wanted, failed = swept.post("/generate", KNOWN).json()["output_ids"], []
    found = list(routes(specification))
    assert len(found) > 80
    for route in found:
        failed += check_route(swept, *route, EXAMPLES)
    assert not failed, "\n".join(failed)
    assert swept.post("/generate", KNOWN).json()["output_ids"] == wanted

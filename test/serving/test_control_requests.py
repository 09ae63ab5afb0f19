"""Control requests with wrong, missing and impossible values, on a server that was not started for them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from serving.conftest import MODEL

SECONDS = 15
KNOWN = {"input_ids": [5, 6, 7], "sampling_params": {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True}}
UPDATE = "/update_weights_from_disk"
LONG = "x" * 300
REFUSED = {
    "a path that is too long": (UPDATE, {"model_path": f"/tmp/{LONG}"}),
    "a path with a NUL": (UPDATE, {"model_path": "/tmp/a\0b"}),
    "a path that is a file": (UPDATE, {"model_path": "/etc/passwd"}),
    "a path that is nothing": (UPDATE, {"model_path": ""}),
    "no path": (UPDATE, {}),
    "a format that is none": (UPDATE, {"model_path": "/tmp", "load_format": "wat"}),
    "a record of experts that nobody keeps": ("/start_expert_distribution_record", {}),
    "the end of such a record": ("/stop_expert_distribution_record", {}),
    "a dump of such a record": ("/dump_expert_distribution_record", {}),
    "memory that cannot be released": ("/release_memory_occupation", {}),
    "memory of a kind that is none": ("/release_memory_occupation", {"tags": ["wat"]}),
    "memory that was not released": ("/resume_memory_occupation", {"tags": ["kv_cache"]}),
    "a sleep for ever": ("/slow_down", {"forward_sleep_time": 1e300}),
    "a sleep of an hour": ("/slow_down", {"forward_sleep_time": 3600}),
    "an argument that cannot be set": ("/set_internal_state", {"server_args": {"tp_size": 4}}),
    "a size that is text": ("/set_internal_state", {"server_args": {"pp_max_micro_batch_size": "many"}}),
    "a size of nothing": ("/set_internal_state", {"server_args": {"pp_max_micro_batch_size": None}}),
    "no arguments to set": ("/set_internal_state", {}),
    "a profile that is not there": ("/stop_profile", None),
    "a profile of stages without steps": ("/start_profile", {"profile_by_stage": True}),
    "a profile of a GPU's memory": ("/start_profile", {"activities": ["CPU", "MEM"]}),
    "a profile of nothing": ("/start_profile", {"activities": []}),
    "a profile of fewer steps than none": ("/start_profile", {"num_steps": -3}),
    "a profile in a folder that cannot be": ("/start_profile", {"output_dir": "/proc/none/x"}),
    "a profile in a file": ("/start_profile", {"output_dir": "/etc/passwd"}),
    "a profile whose name is a path": ("/start_profile", {"profile_id": "../../x"}),
    "a profile whose name is too long": ("/start_profile", {"profile_prefix": LONG}),
    "a profile from a step that is too large": ("/start_profile", {"start_step": 10**30}),
    "weights of a name that is none": ("/get_weights_by_name", {"name": "wat"}),
    "fewer rows of weights than one": ("/get_weights_by_name", {"name": "model.norm.weight", "truncate_size": -1}),
    "a check that is none": ("/weights_checker", {"action": "wat"}),
    "weights of another group": (
        "/init_weights_update_group",
        dict(master_address="a", master_port=1, rank_offset=0, world_size=2, group_name="g", backend="nccl"),
    ),
    "a group that is not there": ("/destroy_weights_update_group", {"group_name": "wat"}),
    "weights that come in no update": (
        "/update_weights_from_distributed",
        {"names": ["a"], "dtypes": ["wat"], "shapes": [[-1]]},
    ),
    "weights that are no tensors": ("/update_weights_from_tensor", {"serialized_named_tensors": ["AAAA"]}),
    "the end of no update": ("/end_weight_update", {}),
    "an update of parts that are none": ("/begin_weight_update", {"selector": "wat"}),
    "another instance's weights": (
        "/init_weights_send_group_for_remote_instance",
        dict(master_address="a", ports="1", group_rank=0, world_size=2),
    ),
    "an adapter": ("/load_lora_adapter", {"lora_name": "a", "lora_path": "/tmp"}),
    "an adapter that is not there": ("/unload_lora_adapter", {"lora_name": "a"}),
    "a role without disaggregation": ("/pd_role_switch", {"new_role": "decode"}),
    "a level of logs that is none": ("/configure_logging", {"log_level": "wat"}),
    "a stream of sessions": ("/open_session", {"capacity_of_str_len": 1, "streaming": True}),
    "a way to pause that is none": ("/pause_generation", {"mode": "wat"}),
    "a corpus without speculation": ("/add_external_corpus", {"documents": ["a"]}),
    "a storage that is not there": ("/hicache/storage-backend/clear", None),
    "a parser that is none": ("/parse_function_call", {"text": "a", "tools": [], "tool_call_parser": "wat"}),
    "a reasoning parser that is none": ("/separate_reasoning", {"text": "a", "reasoning_parser": "wat"}),
    "a session that was not opened": ("/generate", KNOWN | {"session_params": {"id": "wat", "rid": "x"}}),
    "a place in a session that is text": ("/generate", KNOWN | {"session_params": {"id": "a", "offset": "x"}}),
}
GOOD = {
    "a profile of two steps": ("/start_profile", {"num_steps": 2, "activities": ["CPU"]}),
    "a short sleep": ("/slow_down", {"forward_sleep_time": 0.001}),
    "no sleep": ("/slow_down", {"forward_sleep_time": None}),
    "an abort of nothing": ("/abort_request", {"rid": "wat"}),
    "the end of no pause": ("/continue_generation", {}),
    "the end of a session that was not opened": ("/close_session", {"session_id": "wat"}),
    "frozen garbage": ("/freeze_gc", None),
    "weights of a name": ("/get_weights_by_name", {"name": "model.embed_tokens.weight"}),
    "a checksum of weights": ("/weights_checker", {"action": "checksum"}),
}


@pytest.fixture(scope="module")
def known(server):
    return server.post("/generate", KNOWN).json()["output_ids"]


@pytest.fixture(autouse=True)
def goes_on(server, known):
    """After every test the server answers as before."""
    yield
    assert server.post("/generate", KNOWN).json()["output_ids"] == known


@pytest.mark.parametrize("what", REFUSED)
def test_a_control_request_that_cannot_be_done_is_refused_with_a_reason(server, what):
    path, body = REFUSED[what]
    answer = server.post(path, body)
    assert 400 <= answer.status_code < 500, f"{answer.status_code}: {answer.text[:300]}"
    assert len(answer.text) > 20 or path == "/hicache/storage-backend/clear"


@pytest.mark.parametrize("what", GOOD)
def test_a_control_request_that_can_be_done_is_done(server, what, tmp_path):
    path, body = GOOD[what]
    if path == "/start_profile":
        body = body | {"output_dir": str(tmp_path)}
    assert server.post(path, body).status_code == 200
    if path == "/start_profile":
        server.post("/generate", KNOWN)
        assert list(tmp_path.glob("*.trace.json.gz"))


def test_a_reason_says_what_is_wrong_and_what_there_is(server):
    said = {path: server.post(path, {}).json()["error"]["message"] for path in ("/release_memory_occupation",)}
    assert "--enable-memory-saver" in said["/release_memory_occupation"]
    answer = server.post("/start_profile", {"activities": ["MEM"]})
    assert answer.json()["error"]["message"].endswith("profiles CPU and GPU")


@pytest.mark.parametrize("mode", ["retract", "in_place", "abort"])
def test_a_pause_ends(server, mode):
    for path in ("/pause_generation", "/pause_generation", "/continue_generation"):
        assert server.post(path, {"mode": mode} if "pause" in path else {}).status_code == 200


def test_a_second_profile_waits_for_the_end_of_the_first(server, tmp_path):
    body = {"activities": ["CPU"], "output_dir": str(tmp_path)}
    assert server.post("/start_profile", body).ok
    assert "in progress" in server.post("/start_profile", body).text
    assert server.post("/stop_profile").ok
    assert requests.get(f"{server.url}/health_generate", timeout=30).ok


def test_two_updates_of_a_paused_server_are_both_answered(server):
    server.post("/pause_generation", {"mode": "retract"})
    with ThreadPoolExecutor(2) as clients:
        asked = [clients.submit(server.post, UPDATE, {"model_path": MODEL}) for _ in range(2)]
        found = [answer.result().json()["success"] for answer in asked]
    server.post("/continue_generation", {})
    assert found == [True, True]

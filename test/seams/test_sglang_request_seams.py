"""What we rely on in SGLang 0.5.23 where it reads requests, and what we work around; a test names one seam.

A workaround's test is expected to fail: where it passes, with a later SGLang, the workaround can go.
"""

import asyncio
import functools
import importlib
import inspect
import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from seams.contract import assert_in_order, names, parameters, works_around

from sglang.srt.entrypoints.openai.protocol import CompletionRequest, Tool, ToolChoice, ToolChoiceFuncName
from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from sglang.srt.managers import io_struct
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.model_executor_ms.seams import requests
from sglang.srt.sampling.sampling_params import SamplingParams

SECONDS = 6
MANAGER = "srt.managers.tokenizer_manager"
SCHEDULER = "srt.managers.scheduler"


def test_one_answer_is_asked_for_by_one_method_and_n_answers_share_their_parameters():
    """requests.seed_with"""
    assert parameters(TokenizerManager._send_one_request) == ["self", "tokenized_obj"]
    assert "parallel_sample_num" in names(MANAGER, "TokenizerManager._handle_batch_request")
    assert SamplingParams(n=3).n == 3


@works_around("sends an abort once, also before its request: requests.repeat_early_aborts")
def test_an_abort_that_comes_before_its_request_is_sent_after_it():
    assert "abort_sent" in names(MANAGER, "TokenizerManager._send_one_request")


def test_whether_an_abort_was_sent_is_known_where_its_request_is_sent():
    """requests.repeat_early_aborts"""
    assert parameters(TokenizerManager.abort_request) == ["self", "rid", "abort_all"]
    assert "abort_sent" in names(MANAGER, "TokenizerManager.abort_request")
    found = names(MANAGER, "TokenizerManager.generate_request")
    assert_in_order(found, "_init_req_state", "is_pause_cond", "reader_lock", "_send_one_request")
    sent = []

    async def send(_manager, tokenized):
        sent.append(tokenized)

    states = {rid: SimpleNamespace(abort_sent=rid == "aborted") for rid in ("aborted", "wanted")}
    manager = SimpleNamespace(rid_to_state=states, _dispatch_to_scheduler=sent.append)
    asked = [SimpleNamespace(rid=rid) for rid in ("wanted", "aborted", "ended")]
    for one in asked:
        asyncio.run(requests.send_and_abort(send, manager, one))
    assert sent[:2] == asked[:2] and sent[3:] == asked[2:]
    assert isinstance(sent[2], io_struct.AbortReq) and (sent[2].rid, sent[2].abort_all) == ("aborted", False)


@works_around("looks into input_embeds that have nothing in them: requests.check_prompts_with")
@pytest.mark.parametrize("rows", [[], [[]]])
def test_a_prompt_of_no_embeddings_is_the_clients_fault(rows):
    try:
        inspect.unwrap(io_struct.GenerateReqInput._determine_batch_size)(io_struct.GenerateReqInput(input_embeds=rows))
    except ValueError:
        return
    except IndexError as error:
        raise AssertionError("it is the server's") from error


def test_whether_a_request_is_one_prompt_is_seen_before_all_else():
    """requests.check_prompts_with"""
    found = names("srt.managers.io_struct", "GenerateReqInput.normalize_batch_and_arguments")
    assert_in_order(found, "_determine_batch_size", "_normalize_single_inputs")
    assert parameters(io_struct.GenerateReqInput._determine_batch_size) == ["self"]
    assert "normalize_batch_and_arguments" in names(MANAGER, "TokenizerManager.generate_request")


@works_around("looks into positional_embed_overrides of any kind: requests.check_prompts_with")
@pytest.mark.parametrize("kind", [io_struct.GenerateReqInput, io_struct.EmbeddingReqInput])
def test_overrides_that_are_none_are_the_clients_fault(kind):
    """requests.keep_overrides"""
    request = kind(text=["a"], positional_embed_overrides={"embeds": [], "positions": []})
    try:
        request._get_positional_embed_overrides_item(0)
    except ValueError:
        return
    except KeyError as error:
        raise AssertionError("it is the server's") from error


def test_requests_for_embeddings_are_taken_apart_by_one_method():
    """requests.check_prompts_with"""
    assert parameters(io_struct.EmbeddingReqInput.normalize_batch_and_arguments) == ["self"]


@works_around("refuses max_tokens=0 of completions, which OpenAI serves: requests.accept_completions_of_no_tokens")
def test_completions_of_no_tokens_are_accepted():
    code = "from sglang.srt.entrypoints.openai.protocol import CompletionRequest as C; C(model='m', prompt='a', "
    code += "max_tokens=0)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_completion_of_no_tokens_is_accepted_once_its_check_is_replaced(monkeypatch):
    """requests.accept_completions_of_no_tokens"""
    read = []
    field = SimpleNamespace(field_info=SimpleNamespace(annotation=CompletionRequest))
    field.__post_init__ = lambda: read.append(TypeAdapter(CompletionRequest))
    route = SimpleNamespace(body_field=field, dependant=SimpleNamespace(body_params=[]))
    monkeypatch.setitem(sys.modules, requests.SERVER, SimpleNamespace(app=SimpleNamespace(routes=[route])))
    requests.accept_completions_of_no_tokens()
    asked = dict(model="m", prompt="a")
    assert read[0].validate_python(asked | dict(max_tokens=0)).max_tokens == 0
    with pytest.raises(ValidationError, match="max_tokens is 0 or more"):
        read[0].validate_python(asked | dict(max_tokens=-1))


def test_what_a_request_shows_is_read_where_it_is_tokenized():
    """requests.refuse_media_with"""
    assert parameters(TokenizerManager._tokenize_one_request) == ["self", "obj"]
    assert inspect.iscoroutinefunction(inspect.unwrap(TokenizerManager._tokenize_one_request))
    assert "process_mm_data_async" in names(MANAGER, "TokenizerManager._tokenize_one_request")


@pytest.mark.parametrize("shows, raised", [(True, ValueError), (False, RuntimeError)])
def test_what_cannot_be_read_is_the_clients_fault_if_there_is_something_to_read(monkeypatch, shows, raised):
    """requests.refuse_media_with"""
    hooked = []
    monkeypatch.setattr(requests.hooks, "around", lambda target, hook: hooked.append(hook))
    requests.refuse_media_with(lambda error: f"unreadable: {error}", None)

    async def broken(_manager, _asked):
        raise RuntimeError("no PNG")

    asked = SimpleNamespace(contains_mm_input=lambda: shows)
    with pytest.raises(raised, match="unreadable: no PNG" if shows else "^no PNG"):
        asyncio.run(hooked[0](broken, None, asked))


def test_what_sglang_makes_of_what_a_request_shows_is_checked(monkeypatch):
    """requests.refuse_media_with"""
    hooked, seen = [], []
    monkeypatch.setattr(requests.hooks, "around", lambda target, hook: hooked.append(hook))
    requests.refuse_media_with(str, lambda asked, items: seen.append((asked, items)))

    async def tokenize(_manager, asked):
        return SimpleNamespace(mm_inputs=asked)

    shown = SimpleNamespace(mm_items=["image"])
    assert asyncio.run(hooked[0](tokenize, None, shown)).mm_inputs is shown
    asyncio.run(hooked[0](tokenize, None, None))
    assert seen == [(shown, ["image"]), (None, ())]  # of images without a place in the prompt nothing is made


@works_around("pins frames of videos without an accelerator: requests.leave_videos_unpinned")
def test_frames_of_videos_are_not_pinned():
    assert "pin_memory" not in names("srt.multimodal.processors.qwen_vl", "preprocess_video")


def test_frames_of_videos_are_pinned_where_there_is_no_cpu_backend():
    """requests.leave_videos_unpinned"""
    pytest.importorskip("decord", reason="an optional package, by which SGLang decodes videos")
    assert_in_order(names("srt.multimodal.processors.qwen_vl", "preprocess_video"), "is_cpu", "pin_memory")
    requests.leave_videos_unpinned()
    decoder = importlib.import_module("sglang.srt.utils.video_decoder").VideoDecoderWrapper
    shown, file = [Image.new("RGB", (56, 56), color) for color in ("red", "green")], io.BytesIO()
    shown[0].save(file, "GIF", save_all=True, append_images=shown[1:], duration=100)
    preprocess = sys.modules["sglang.srt.multimodal.processors.qwen_vl"].preprocess_video
    frames, _ = asyncio.run(preprocess(decoder(file.getvalue())))
    assert len(frames) == 2 and not frames.is_pinned()


def test_no_logprobs_beside_the_tokens_own_are_told_from_no_logprobs_by_their_truth():
    """requests.echo_logprobs_of_no_others"""
    asked = SimpleNamespace(top_logprobs_num=None)

    def original(serving, request):
        asked.top_logprobs_num = request.logprobs
        return asked, request

    found, request = requests._convert(original, None, SimpleNamespace(echo=True, logprobs=0))
    assert request.logprobs == 0 and request.logprobs
    assert type(found.top_logprobs_num) is int
    convert = names(
        "srt.entrypoints.openai.serving_completions", "OpenAIServingCompletion._convert_to_internal_request"
    )
    assert_in_order(convert, "echo", "logprobs")


def test_logprobs_become_part_of_an_answer_in_one_method():
    """requests.trim_logprobs"""
    assert parameters(TokenizerManager.add_logprob_to_meta_info)[:3] == ["self", "meta_info", "state"]
    meta = {"output_token_logprobs": [], "output_top_logprobs": [[1]], "output_token_ids_logprobs": [[2]]}
    requests._trim(None, None, meta)
    assert meta == {"output_token_logprobs": [], "output_top_logprobs": [], "output_token_ids_logprobs": [[2]]}


@pytest.mark.parametrize(
    "parser, choice, active", [(None, "required", True), (None, "auto", False), ("x", "auto", False)]
)
def test_whether_an_answer_is_parsed_for_calls_is_asked_of_one_method(parser, choice, active):
    """requests.parse_forced_calls"""
    assert parameters(OpenAIServingChat._tool_call_parsing_active) == ["self", "request"]
    serving = SimpleNamespace(tool_call_parser=parser, _effective_tools=lambda request: ["a tool"])
    request = SimpleNamespace(tool_choice=choice, _response_parser_json_response_format=False)
    assert requests._is_forced(False, serving, request) is active


@works_around("reads forced calls with --tool-call-parser only: requests.parse_forced_calls")
def test_forced_calls_are_read_without_a_parser():
    active = inspect.unwrap(OpenAIServingChat._tool_call_parsing_active)
    serving = SimpleNamespace(tool_call_parser=None, _effective_tools=lambda request: ["a tool"])
    assert active(serving, SimpleNamespace(tool_choice="required", _response_parser_json_response_format=False))


TOOL = Tool.model_validate(
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
)


def constraint(choice, held):
    """What a forced call may be, as SGLang has it and `held` to the schema."""
    parser = FunctionCallParser([TOOL], "qwen25")
    if held:
        requests._constrain_arguments(parser, choice)
    return json.dumps(inspect.unwrap(FunctionCallParser.get_structure_constraint)(parser, choice), default=str)


@pytest.mark.parametrize("choice", ["required", ToolChoice(function=ToolChoiceFuncName(name="weather"))], ids=str)
def test_arguments_of_a_forced_call_are_constrained_where_a_parser_has_a_format(choice):
    """requests.hold_forced_calls_to_their_schema"""
    assert parameters(FunctionCallParser.get_structure_constraint)[:2] == ["self", "tool_choice"]
    assert "city" in constraint(choice, held=True)


def test_arguments_are_left_alone_where_the_model_chooses():
    parser = FunctionCallParser([TOOL], "qwen25")
    before = parser.tool_strict_level
    requests._constrain_arguments(parser, "auto")
    assert parser.tool_strict_level == before


@works_around("constrains a forced call's arguments for strict tools only: requests.hold_forced_calls_to_their_schema")
def test_arguments_of_a_forced_call_are_constrained_by_sglang():
    assert "city" in constraint("required", held=False)


@pytest.fixture
def processors(monkeypatch):
    """SGLang's function that imports processors, and what it fills, which the test may change."""
    module = importlib.import_module(requests.PROCESSORS)
    monkeypatch.setattr(module, "PROCESSOR_MAPPING", {})
    return inspect.unwrap(module.import_processors), module.PROCESSOR_MAPPING


OWN_PROCESSORS = "sglang.srt.model_executor_ms.processors"


def start_engine(importer):
    importer("sglang.srt.multimodal.processors")
    importer(OWN_PROCESSORS, overwrite=True)


def of_llava(known):
    return [one.__module__ for model, one in known.items() if model.__name__ == "LlavaForConditionalGeneration"]


def test_a_second_engine_of_a_process_has_the_added_processors_too(processors):
    """requests.keep_added_processors"""
    original, known = processors
    for _ in range(3):
        start_engine(functools.partial(requests._import_processors, original))
        assert of_llava(known) == [f"{OWN_PROCESSORS}.llava"]
    assert len(known) > 20


@works_around("lets its own processors return with a second engine: requests.keep_added_processors")
def test_sglang_keeps_added_processors_for_a_second_engine(processors):
    original, known = processors
    start_engine(original)
    start_engine(original)
    assert of_llava(known) == [f"{OWN_PROCESSORS}.llava"]

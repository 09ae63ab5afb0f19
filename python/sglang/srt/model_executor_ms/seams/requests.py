"""SGLang's requests, in the process of the tokenizer: what they may ask for, and how they are sent."""

import copy
import sys
from collections.abc import Callable, Sequence

import torch

from sglang.srt.environ import ToolStrictLevel
from sglang.srt.model_executor_ms.seams import hooks

SERVER = "sglang.srt.entrypoints.http_server"
COMPLETIONS = "sglang.srt.entrypoints.openai.serving_completions.OpenAIServingCompletion"
CHAT = "sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat"
CALLS = "sglang.srt.function_call.function_call_parser.FunctionCallParser"
PROCESSORS = "sglang.srt.managers.multimodal_processor"
INPUTS = "sglang.srt.managers.io_struct"
DECODER = "sglang.srt.utils.video_decoder.VideoDecoderWrapper"
TOKENIZER = "sglang.srt.managers.tokenizer_manager.TokenizerManager"


def seed_with(seed_of: Callable[..., int | None]) -> None:
    """seed_of(sampling_params) before one answer is asked for: its seed, or None to leave it.

    The copies of a request for n answers share their parameters. That which gets a seed has its own ones then.
    """

    def before(_tokenizer_manager, tokenized) -> None:
        seed = seed_of(tokenized.sampling_params)
        if seed is not None:
            tokenized.sampling_params = copy.copy(tokenized.sampling_params)
            tokenized.sampling_params.sampling_seed = seed

    hooks.before(f"{TOKENIZER}._send_one_request", before)


def repeat_early_aborts() -> None:
    """Send an abort again that came before its request.

    Requests wait in the tokenizer's process while it is paused and while weights are updated. SGLang 0.5.23 sends their
    aborts meanwhile, to schedulers that do not know them yet, and sends none a second time.
    """
    hooks.around(f"{TOKENIZER}._send_one_request", send_and_abort)


async def send_and_abort(original, tokenizer_manager, tokenized) -> None:
    """Around TokenizerManager._send_one_request."""
    from sglang.srt.managers.io_struct import AbortReq

    await original(tokenizer_manager, tokenized)
    state = tokenizer_manager.rid_to_state.get(tokenized.rid)
    if state is not None and state.abort_sent:
        tokenizer_manager._dispatch_to_scheduler(AbortReq(rid=tokenized.rid))


def refuse_media_with(explain: Callable[[Exception], str], check: Callable[[object, Sequence], None]) -> None:
    """Answer with 400 and explain(error) where what a request shows cannot be read; SGLang does for ValueError only.

    check(asked, items): raises ValueError for what SGLang has made of it, an item an image; none where nothing is.
    """

    async def tokenize(original, tokenizer_manager, asked, *others, **more):
        try:
            tokenized = await original(tokenizer_manager, asked, *others, **more)
            made = getattr(tokenized, "mm_inputs", None)
            check(asked, () if made is None else made.mm_items)
            return tokenized
        except ValueError:
            raise
        except Exception as error:  # whatever libraries of images and videos, and servers of them, come up with
            if not asked.contains_mm_input():
                raise
            raise ValueError(explain(error)) from error

    hooks.around(f"{TOKENIZER}._tokenize_one_request", tokenize)


def leave_videos_unpinned() -> None:
    """Let frames of Qwen's videos lie in any memory.

    SGLang 0.5.23 pins those of files unless its own backend for CPUs runs, and torch refuses that where there is no
    accelerator. Nothing here sends them to a device from there.
    """
    from sglang.srt.multimodal.processors import qwen_vl

    qwen_vl.is_cpu = lambda: True
    hooks.replace(f"{DECODER}.get_frames_as_tensor", _frames)


def _frames(decoder, indices) -> torch.Tensor:
    """In the place of VideoDecoderWrapper.get_frames_as_tensor: [frames, height, width, 3]."""
    return torch.from_numpy(decoder.get_frames_at(indices))


def check_prompts_with(check: Callable) -> None:
    """check(asked) before SGLang tells a request of one prompt from one of several; raises ValueError for 400.

    SGLang 0.5.23 looks into `input_embeds` there, and later into `positional_embed_overrides` of each prompt. Where
    these are something else it answers with 500.
    """
    hooks.before(f"{INPUTS}.GenerateReqInput._determine_batch_size", check)
    hooks.before(f"{INPUTS}.EmbeddingReqInput.normalize_batch_and_arguments", check)


def accept_completions_of_no_tokens() -> None:
    """Let `max_tokens` of /v1/completions be 0, as OpenAI does: the prompt's logprobs are the answer.

    SGLang 0.5.23 serves that in /generate, and refuses it where it reads an OpenAI request.
    """
    if SERVER not in sys.modules:
        return
    from sglang.srt.entrypoints.openai.protocol import CompletionRequest

    checks = CompletionRequest.__pydantic_decorators__.field_validators
    checks["validate_max_tokens_positive"].func = _not_negative
    CompletionRequest.model_rebuild(force=True)
    for route in sys.modules[SERVER].app.routes:
        fields = getattr(getattr(route, "dependant", None), "body_params", [])
        for field in (*fields, getattr(route, "body_field", None)):
            if field is not None and field.field_info.annotation is CompletionRequest:
                field.__post_init__()  # it holds what checked the class before


def _not_negative(value):
    if value is not None and value < 0:
        raise ValueError("max_tokens is 0 or more")
    return value


class _Zero(int):
    """0, which is true: SGLang 0.5.23 takes logprobs=0 with echo for no logprobs of the prompt."""

    def __bool__(self):
        return True


def echo_logprobs_of_no_others() -> None:
    """Let /v1/completions with echo and logprobs=0 answer with the logprobs of the prompt's tokens."""
    hooks.around(f"{COMPLETIONS}._convert_to_internal_request", _convert)


def _convert(original, serving, request, *others, **more):
    if request.echo and request.logprobs == 0:
        request.logprobs = _Zero()
    asked, request = original(serving, request, *others, **more)
    asked.top_logprobs_num = int(asked.top_logprobs_num)
    return asked, request


def parse_forced_calls() -> None:
    """Answer with tool calls where a request forces one, also without --tool-call-parser.

    SGLang 0.5.23 makes such a call JSON by a grammar, and needs no parser to read it, but leaves it in the text then.
    """
    hooks.after(f"{CHAT}._tool_call_parsing_active", _is_forced)


def _is_forced(active, serving, request) -> bool:
    forced = request.tool_choice == "required" or not isinstance(request.tool_choice, str | None)
    own_format = serving.tool_call_parser or request._response_parser_json_response_format
    return active or bool(forced and not own_format and serving._effective_tools(request))


def hold_forced_calls_to_their_schema() -> None:
    """Let the arguments of a forced call fit the tool's schema with every --tool-call-parser.

    In a model's own format SGLang 0.5.23 constrains only the arguments of tools that are `strict`.
    """
    hooks.before(f"{CALLS}.get_structure_constraint", _constrain_arguments)


def _constrain_arguments(parser, tool_choice, *_, **__) -> None:
    if tool_choice == "required" or not isinstance(tool_choice, str):
        parser.tool_strict_level = ToolStrictLevel.PARAMETER


def keep_overrides(request, overrides) -> None:
    """Give a request what its positional_embed_overrides, which JSON may have as anything, have become."""
    request.positional_embed_overrides = overrides


def keep_added_processors() -> None:
    """Let the processors of an added package serve every engine of a process.

    SGLang 0.5.23 puts its own processors before them again when a second engine starts.
    """
    hooks.around(f"{PROCESSORS}.import_processors", _import_processors)


def _import_processors(original, package_name: str, overwrite: bool = False) -> None:
    original(package_name, overwrite)
    known = sys.modules[PROCESSORS].PROCESSOR_MAPPING
    added = [model for model, processor in known.items() if processor.__module__.startswith(f"{package_name}.")]
    names = {model.__name__ for model in added} if overwrite else set()
    for model in [model for model in known if model.__name__ in names and model not in added]:
        del known[model]


def trim_logprobs() -> None:
    """Give no alternatives to a token that an answer does not have: SGLang does for an answer of no tokens.

    Logprobs of chosen tokens stay: /v1/score reads those of an answer of no tokens.
    """
    hooks.after(f"{TOKENIZER}.add_logprob_to_meta_info", _trim)


def _trim(_result, _tokenizer_manager, meta_info, *_, **__) -> None:
    tokens = len(meta_info["output_token_logprobs"])
    if len(meta_info.get("output_top_logprobs") or ()) > tokens:
        meta_info["output_top_logprobs"] = meta_info["output_top_logprobs"][:tokens]

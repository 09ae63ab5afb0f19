"""Refuses requests that SGLang accepts and that cannot be computed. Only their client gets the error.

SGLang 0.5.23 does not check the ranges below. A value out of range would end its scheduler, and with it the server.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np

from sglang.srt.model_executor_ms.seams import requests

SOURCE = "--framework mindspore"
OVERRIDES = "positional_embed_overrides"
MEDIA = ("image_data", "video_data", "audio_data")


def check_request(tokenizer_manager, request, input_ids) -> None:
    """Raise ValueError, which SGLang answers with 400, for the tokenized `request` if anything is wrong with it."""
    from sglang.srt.managers.io_struct import GenerateReqInput
    from sglang.srt.runtime_context import get_model

    if get_model().model_impl != "mindspore":
        return
    if isinstance(request, GenerateReqInput) and not tokenizer_manager.is_generation:
        raise ValueError(
            "This server gives embeddings or scores, and generates no text: its model is of that kind, or it was "
            "started with --is-embedding"
        )
    vocab_size = tokenizer_manager.model_config.vocab_size
    model_config = tokenizer_manager.model_config
    problems = _override_problems(request, input_ids or [], model_config) + _bootstrap_problems(request)
    if tokenizer_manager.mm_processor is None:
        problems += [
            f"{name} is given, and this server takes text only" for name in MEDIA if _count(_of(request, name))
        ]
    embeds = _of(request, "input_embeds")
    if embeds is not None:
        problems += _embedding_problems("input_embeds", request, embeds, model_config)
    if not problems and not input_ids and embeds is None:
        problems.append("The prompt has no tokens: give text or input_ids with at least one")
    problems += _token_problems("input_ids", input_ids, vocab_size)
    problems += _range_problem("top_logprobs_num (logprobs in /v1)", _of(request, "top_logprobs_num"), 0, vocab_size)
    problems += _range_problem("logprob_start_len", _of(request, "logprob_start_len"), -1, len(input_ids or []))
    if problems:
        raise ValueError("; ".join(problems))
    _leave_out_stop_tokens(request.sampling_params, vocab_size)


def check_prompt(request) -> None:
    """Raise ValueError for a `request`, not tokenized yet, that SGLang could not take apart into its prompts.

    `input_embeds` is its prompt and has nothing in it, or it has tensors, which JSON gives SGLang as anything. Or an
    image, or a video, is a device or a folder: SGLang would read a device for ever.
    """
    from sglang.srt.managers.io_struct import GenerateReqInput
    from sglang.srt.runtime_context import get_model

    if get_model().model_impl != "mindspore":
        return
    problems = _read_overrides(request) + [
        f"{name} has {path}, which is no file" for name in MEDIA for path in _no_files(_of(request, name))
    ]
    if problems:
        raise ValueError("; ".join(problems))
    if not isinstance(request, GenerateReqInput) or request.text is not None or request.input_ids is not None:
        return
    embeds = request.input_embeds
    if not embeds or not embeds[0]:
        raise ValueError(f"input_embeds is {embeds}: give one row or more, one row a token")


def _read_overrides(request) -> list[str]:
    """Make of JSON what SGLang has as rows in the place of single tokens -> what is wrong with it."""
    import torch

    from sglang.srt.managers.embed_types import PositionalEmbeds
    from sglang.srt.managers.io_struct import GenerateReqInput

    if not isinstance(request, GenerateReqInput):  # pooled
        given = [name for name in (OVERRIDES, "embed_overrides") if _of(request, name) is not None]
        return [f"{name} is not supported by {SOURCE} without text to generate: give input_ids" for name in given]
    given = getattr(request, OVERRIDES)
    alone = isinstance(given, dict | PositionalEmbeds)

    def read(one):
        if one is None or isinstance(one, PositionalEmbeds):
            return one
        return PositionalEmbeds(torch.tensor(one["embeds"], dtype=torch.float32), list(one["positions"]))

    try:
        made = [read(one) for one in ([given] if alone else given or ())]
        if given is not None and not made:
            raise ValueError("there is none")
    except (TypeError, ValueError, KeyError, RuntimeError, IndexError):
        form = '{"embeds": rows of numbers, "positions": of the tokens that they replace}'
        return [f"{OVERRIDES} is {form}, or a list of these or null, one a prompt"]
    requests.keep_overrides(request, made[0] if alone else given and made)
    return []


def _bootstrap_problems(request) -> list[str]:
    """Of where two servers meet for a request. SGLang keeps a room as int64, of which 0 says that nothing has come."""
    from sglang.srt.disaggregation.utils import FAKE_BOOTSTRAP_HOST
    from sglang.srt.runtime_context import get_disagg

    mode, host = get_disagg().disaggregation_mode, _of(request, "bootstrap_host")
    if mode == "null" or host == FAKE_BOOTSTRAP_HOST:  # as SGLang asks whether a server is healthy
        return []
    problems = _range_problem("bootstrap_room", _of(request, "bootstrap_room"), 1, 2**63 - 1)
    problems += _range_problem("bootstrap_port", _of(request, "bootstrap_port"), 1, 65535)
    if mode == "decode" and not host:
        problems.append("bootstrap_host is not given: it is where the prefill server is met")
    return problems


def _override_problems(request, input_ids, model_config) -> list[str]:
    """Of rows in the place of some of a prompt's tokens, as `_read_overrides` has made them."""
    overrides = _of(request, OVERRIDES)
    if overrides is None:
        return []
    places, rows = overrides.positions, overrides.embeds
    fit = len(set(places)) == len(places) == len(rows) and all(type(one) is int for one in places)
    if not fit or not all(0 <= place < len(input_ids) for place in places):
        return [f"{OVERRIDES} has positions {places[:8]} for {len(rows)} rows, of a prompt of {len(input_ids)} tokens"]
    return _embedding_problems(f"{OVERRIDES}.embeds", request, rows, model_config)


def _embedding_problems(name, request, embeds, model_config) -> list[str]:
    """Of rows of embeddings in the place of a prompt's tokens."""
    from sglang.srt.managers.io_struct import GenerateReqInput
    from sglang.srt.runtime_context import get_device, get_spec

    if not isinstance(request, GenerateReqInput):
        return [f"{name} is served for texts to generate, and not for embeddings"]
    if get_device().device != "cpu" or get_spec().speculative_algorithm:
        return [f"{name} is served by {SOURCE} on CPUs, without speculative decoding: give text or input_ids"]
    if getattr(model_config.hf_text_config, "hidden_size_per_layer_input", 0):
        return [f"{name} is not served of a model with per-layer embeddings, which tokens alone have: give input_ids"]
    width = model_config.hidden_size
    try:
        with np.errstate(over="ignore"):
            rows = np.asarray(embeds, np.float64).astype(np.float32)  # as SGLang hands them on
    except (TypeError, ValueError):
        rows = np.empty(0)
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != width or not np.isfinite(rows).all():
        return [f"{name} is a list of one row or more of {width} finite numbers each, one row a token"]
    return []


def unreadable(error: Exception) -> str:
    """Why a request with images or videos is refused that nothing could read."""
    decoder = "; pip install decord2: SGLang decodes files of videos by it" if "'decord'" in str(error) else ""
    return f"An image or a video of the request cannot be read: {type(error).__name__}: {error}{decoder}"


def check_media(request, items) -> None:
    """Raise ValueError where a prompt has fewer places than images, videos or sounds: SGLang would leave some out.

    items: what SGLang has made of them, one or more an image.
    """
    videos = _of(request, "video_data")
    videos = videos if isinstance(videos, list) else [videos]  # of which each may be a list of frames
    given = {
        "images": (_count(_of(request, "image_data")), "image_data", "is_image"),
        "videos": (sum(video is not None for video in videos), "video_data", "is_video"),
        "sounds": (_count(_of(request, "audio_data")), "audio_data", "is_audio"),
    }
    for kind, (count, name, is_one) in given.items():
        shown = sum(getattr(item, is_one)() for item in items)
        if count > shown:
            raise ValueError(f"The prompt has places for {shown} {kind}, and {name} has {count}")


def _no_files(media) -> Iterator[str]:
    """Paths in what is shown that lead to something else than a file."""
    if isinstance(media, list | tuple):
        for one in media:
            yield from _no_files(one)
        return
    given = media.get("url") if isinstance(media, dict) else getattr(media, "url", media)
    if not isinstance(given, str) or not given.startswith(("/", "file://")):
        return
    path = unquote(urlparse(given).path) if given.startswith("file://") else given
    try:
        strange = Path(path).exists() and not Path(path).is_file()
    except (OSError, ValueError):
        return  # no name of a file: SGLang says so
    if strange:
        yield path


def _count(media) -> int:
    """How much is given: SGLang keeps lists of nothing too."""
    return sum(map(_count, media)) if isinstance(media, list) else int(media is not None)


def _of(request, name):
    return getattr(request, name, None)  # requests for embeddings have fewer fields


def _token_problems(name, tokens, vocab_size):
    # SGLang itself refuses values that are no list of numbers.
    tokens = tokens if isinstance(tokens, Iterable) else ()
    strange = [token for token in tokens if isinstance(token, int) and not 0 <= token < vocab_size]
    return [f"{name} has {strange[:5]}: a token is from 0 to {vocab_size - 1}"] if strange else []


def _leave_out_stop_tokens(sampling_params: dict, vocab_size: int) -> None:
    """Leave out stop tokens that the model does not have: none is generated, and SGLang would index logits by it."""
    tokens = sampling_params.get("stop_token_ids")
    if isinstance(tokens, Iterable):
        sampling_params["stop_token_ids"] = [token for token in tokens if not _beyond(token, vocab_size)]


def _beyond(token, vocab_size: int) -> bool:
    """Whether SGLang, which makes a number of it, has a number that is no token."""
    try:
        return not 0 <= int(token) < vocab_size
    except OverflowError:
        return True
    except (TypeError, ValueError):
        return False  # SGLang itself refuses it, or takes None for nothing


def _range_problem(name, value, least, most):
    # Requests of several prompts have a list, one value a prompt. SGLang has split it by now.
    fits = value is None or isinstance(value, int) and least <= value <= most
    return [] if fits else [f"{name} is {value}: it is a number from {least} to {most}"]

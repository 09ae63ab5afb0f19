"""Semantics of attention over gathered keys: windows, sinks, ALiBi and soft caps, of models that equal Hugging Face."""

import dataclasses
import math

import mindspore as ms
import numpy as np
import pytest
from ascend.doubles import wrapped
from models.harness import Requests, assert_logits_close
from models.test_config import NAMES, SAME, SEEING
from models.test_logits import LIMITS, WAYS, mixed_batch, prompts
from models.test_ranks import STATES  # which test_states.py and test_recurrent.py have
from models.tiny import TINY, reference_logits, save

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.ascend import blockwise_attention, host
from sglang.srt.model_executor_ms.npu.build import blockwise
from sglang.srt.models_ms.registry import MODELS

from . import test_exact, test_semantics, test_semantics_experts
from .model import PAGE, NpuModel

SECONDS = 20

# Windows of a few tokens and of more than a page, of all layers and of some, with ropes of their own.
WINDOWED = [
    *("mistral-window@16", "mistral-wide-window@16", "ministral@16", "qwen3-window@16", "gemma2-uncapped@16"),
    *("gemma3@16", "cohere2@16", "exaone4@16", "phi3-window@h96", "qwen3_moe-window@16", "olmo3@h96"),
    *("cwm@16", "dots1@16", "exaone_moe@16", "afmoe@16", "gemma4-shared@16", "gemma3n@16", "gemma4-experts@16"),
    *("step3p5@32", "cohere2_moe@16", "granite_swa@h96"),
]
# Soft caps with and without windows, sinks with and without them, and slopes.
BLOCKWISE = ["gemma2@16", "vaultgemma@16", "grok@16", "grok-residual@16", "gpt_oss@16", "baichuan-13b@h96"]
BLOCKWISE += ["bloom@h96", "mpt@h96"]

READ_CACHES = ("gather",)  # their first argument may be a cache


@pytest.fixture
def small_blocks(monkeypatch):
    """Pieces and blocks of which a prompt has many."""
    monkeypatch.setattr(host, "QUERY_BLOCK", 8)
    monkeypatch.setattr(blockwise_attention, "KEYS", 16)
    monkeypatch.setattr(blockwise_attention, "PLAIN_KEYS", 8)


def compare(found, variant, ids, dtype="float16"):
    wanted = {request: reference_logits(variant, ids[request], dtype) for request in found}
    assert_logits_close(found, wanted, LIMITS[dtype])


def test_every_architecture_that_generates_equals_hugging_face_in_this_net():
    here = [*test_semantics.VARIANTS, *test_semantics_experts.ALL_WAYS, *test_semantics_experts.ONE_WAY]
    here += [*WINDOWED, *BLOCKWISE, *test_exact.MIXED]
    kinds = {TINY[variant.partition("@")[0]]["model_type"] for variant in [*here, *STATES]}
    found = {NAMES[kind] for kind in kinds if kind not in SEEING}
    assert found | set(SAME) == {name for name, model in MODELS.items() if model.generates and not model.sees}


@pytest.mark.parametrize("variant", [*WINDOWED, *BLOCKWISE])
def test_pieces_and_blocks_of_a_mixed_batch(model_of, small_blocks, variant):
    ids = prompts()
    compare(mixed_batch(Requests(model_of(variant), PAGE), ids), variant, ids)


def test_what_a_token_sees_does_not_depend_on_its_rotary_position(model_of, small_blocks, monkeypatch):
    """Of a model that turns nothing: all tokens at one position see what they see at their places."""
    model, ids = model_of("baichuan-13b@h96"), prompts()
    made, modes = model.graph.runner.host_arrays, set()

    def answers(rotary):
        def moved(step):
            modes.add(step.forward_mode)
            return made(dataclasses.replace(step, rotary_positions=rotary(step.places)))

        monkeypatch.setattr(model.graph.runner, "host_arrays", moved)
        requests = Requests(model, PAGE)
        return mixed_batch(requests, ids) | {"on": requests.step({"long": ids["one"]})["long"]}

    wanted = answers(lambda places: None)
    for rotary in (np.zeros_like, lambda places: places + 11):
        for name, logits in answers(rotary).items():
            np.testing.assert_array_equal(logits, wanted[name])
    assert modes == {host.FRESH, host.CHUNK, host.DECODE}


@pytest.mark.parametrize("way", ["one_piece", "cached_prefix"])
@pytest.mark.parametrize("variant", ["mistral-wide-window@16", "gpt_oss@16"])
def test_prompts_shorter_than_a_piece_and_a_block(model_of, variant, way):
    ids = prompts()
    compare(WAYS[way](Requests(model_of(variant), PAGE), ids), variant, ids)


# No experts: whom a token goes to may change with the last bits.
@pytest.mark.parametrize("variant", ["gemma2@16", "baichuan-13b@h96"])
def test_rounds_in_bfloat16(model_of, small_blocks, variant):
    ids = prompts()
    compare(WAYS["cached_prefix"](Requests(model_of(variant, "bfloat16"), PAGE), ids), variant, ids, "bfloat16")


@pytest.mark.parametrize("variant", ["gemma2@16", "baichuan-13b@h96", "mistral-wide-window@16", "minicpm3@16"])
def test_a_310p_gathers_and_attends_with_plain_operators(chip_310p, small_blocks, tmp_path, calls, variant):
    model, ids = NpuModel(save(variant, tmp_path, "float16"), "float16", PAGE), prompts()
    compare(mixed_batch(Requests(model, PAGE), ids), variant, ids)
    used = {name for name, _ in calls}
    assert not used & {"fused_attention", "mla_paged_attention"} and blockwise(model.network)
    products = [arguments[0].dtype for name, arguments in calls if name == "multiply_stacks"]
    assert products and set(products) == {ms.float16}


def test_what_a_window_gathers_does_not_grow_with_the_context(model_of, calls):
    requests = Requests(model_of("mistral-wide-window@16"), PAGE)  # of 23 tokens
    layers = 2
    for context in (40, 100, 200):
        calls.clear()
        requests.step({f"{context} tokens": np.arange(context) % 131})
        requests.step({f"{context} tokens": np.arange(1)})
        keys = [
            (arguments[0].shape[1], arguments[1].shape[:2]) for name, arguments in calls if name == "fused_attention"
        ]
        assert keys == [(host.QUERY_BLOCK, (1, host.QUERY_BLOCK + 22))] * layers + [(1, (1, 23))] * layers


@pytest.mark.parametrize("variant", ["mistral-wide-window@16", "gemma2@16", "gpt_oss@16", "baichuan-13b@h96"])
def test_nothing_is_as_large_as_tokens_times_their_context(model_of, small_blocks, calls, variant):
    requests, largest = Requests(model_of(variant), PAGE), {}
    for context in (24, 216):
        requests.step({context: np.arange(context) % 131})
        calls.clear()
        requests.step({context: np.arange(4)})
        inputs = [argument for name, arguments in calls for argument in arguments[name in READ_CACHES :]]
        largest[context] = max(one.size for one in inputs if isinstance(one, ms.Tensor) and one.ndim < 4)
    assert largest[24] == largest[216]


def test_masks_are_one_triangle_or_none(model_of, small_blocks, calls):
    model = model_of("gpt_oss@16")
    requests = Requests(model, PAGE)
    requests.step({"a": np.arange(100) % 131})
    requests.step({"a": np.arange(1)})
    masks = [arguments[4] for name, arguments in calls if name == "fused_attention"]
    assert {mask.shape for mask in masks if mask is not None} == {(2048, 2048)}
    full, windows = 1, model.config.num_hidden_layers - 1
    blocks = math.ceil(112 / 16)
    assert len(masks) == 2 * (windows + full * blocks)
    assert sum(mask is not None for mask in masks) == windows + full  # the first block of the prompt


def test_a_window_that_no_context_outgrows_is_none(model_of, monkeypatch):
    monkeypatch.setitem(TINY, "mistral-whole", dict(TINY["mistral"], sliding_window=256, head_dim=16))
    ids = prompts()
    compare(mixed_batch(Requests(model_of("mistral-whole"), PAGE), ids), "mistral-whole", ids)


@pytest.mark.parametrize(
    "variant, wanted", [("qwen3@16", False), ("mistral-window@16", False), ("gemma2@16", True), ("gpt_oss@16", True)]
)
def test_soft_caps_sinks_and_slopes_are_computed_in_rounds(model_of, variant, wanted):
    assert blockwise(model_of(variant).network) is wanted


def assert_at_once(tmp_path, calls, variant):
    """A request decodes in captured graphs, without a loop, until its context is too long for them."""
    model, longest = NpuModel(save(variant, tmp_path, "float16"), "float16", PAGE, (2, 4)), host.SINGLE_BLOCK_KEYS
    requests, runner = Requests(model, PAGE), model.graph.runner
    captured, shapes = runner.captured, []
    runner.captured = wrapped(captured, lambda arrays: shapes.append(len(arrays["seq_lens"])) or captured(arrays))
    ids = {"long": np.arange(longest + 2) * 7 % 131, "short": np.arange(5, 12)}
    found = [requests.step({"long": ids["long"][: longest - 2], "short": ids["short"][:-4]})]
    for place in range(4):  # of which the first two fit
        calls.clear()
        step = {"long": ids["long"][longest - 2 + place :][:1], "short": ids["short"][-4 + place :][:1]}
        found.append(requests.step(step))
        assert ("log_add" in {name for name, _ in calls}) == (place > 1)  # rounds that are merged
    assert shapes == [2, 2]
    compare({name: np.concatenate([step[name] for step in found]) for name in ids}, variant, ids)


@pytest.mark.parametrize("variant", BLOCKWISE)
def test_contexts_of_one_round_are_captured(checked, small_blocks, monkeypatch, tmp_path, calls, variant):
    monkeypatch.setattr(host, "SINGLE_BLOCK_KEYS", 40)
    monkeypatch.setattr(host, "_capabilities", host._capabilities.__wrapped__)  # which kept the number before
    assert_at_once(tmp_path, calls, variant)


PLAIN, WINDOW, SINKS, SLOPES = (
    (0, 0.0, False, False),
    (9, 0.0, False, False),
    (0, 0.0, True, False),
    (0, 0.0, False, True),
)


@pytest.mark.parametrize(
    "heads, head_dim, rotary_dim, features, lacking",
    [
        (65, 64, 64, SINKS, "65 query heads of one key/value head, at most 64"),
        (65, 64, 64, WINDOW, "65 query heads of one key/value head, at most 64"),
        (65, 64, 64, SLOPES, "65 query heads of one key/value head, at most 64"),
        (129, 64, 64, PLAIN, "129 query heads of one key/value head, at most 128"),
        (4, 272, 64, PLAIN, "heads of 272 values"),
        (4, 24, 16, PLAIN, "heads of 24 values"),
        (4, 64, 24, PLAIN, "rotary embedding of 24 values"),
    ],
)
def test_attention_that_the_kernels_do_not_have_is_refused(checked, heads, head_dim, rotary_dim, features, lacking):
    ops.check_attention(128, 1, 256, 256, *PLAIN, False)
    for kind in (WINDOW, SINKS, SLOPES):
        ops.check_attention(64, 1, 256, 16, *kind, False)
    with pytest.raises(NotImplementedError, match=lacking):
        ops.check_attention(heads, 1, head_dim, rotary_dim, *features, False)

"""Layers with a state on the path of an NPU: convolutions of stock kernels, models, and slots in runs of graphs."""

import mindspore as ms
import numpy as np
import pytest
import torch
from ascend.doubles import CHUNK, DECODE, FRESH, LEDGER, PAGE, Scheduler, fingerprint, on_device, on_host, wrapped
from ascend.doubles import runner as runner_of
from models.harness import Requests, assert_logits_close
from models.test_logits import LIMITS, WAYS, mixed_batch, prompts
from models.tiny import reference_logits, save
from ops.test_states import close, convolved, normal, pieces
from torch.nn import functional

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.layers_ms.ops.ascend_reference.memory import stored, tensor
from sglang.srt.layers_ms.ops.metadata import HostStep
from sglang.srt.model_executor_ms.npu import states as npu_states
from sglang.srt.model_executor_ms.npu.graph_runner import CaptureError
from sglang.srt.model_executor_ms.runner import bridge

from .model import PAGE as MODEL_PAGE
from .model import NpuModel

SECONDS = 4
SLOTS = 9
LENGTHS, IN_SLOTS = [1, 70, 2, 5], [3, 8, 1, 5]
F16, F32 = torch.float16, torch.float32


def as_tensor(x: torch.Tensor):
    return tensor(x.float().numpy(), getattr(ms, str(x.dtype).removeprefix("torch.")))


def compute(operator, weights, state, packed, lengths, slots, tracks=None, mode=CHUNK, more=()):
    """An operator of packed rows -> float32; `state` is torch's memory."""
    lengths, slots = np.asarray(lengths, np.int32), np.asarray(slots, np.int32)
    tracks = tuple(map(np.int32, tracks or (np.full_like(slots, -1), np.zeros_like(slots))))
    step = HostStep(lengths, lengths + 7, 16, mode, state_slots=slots, tracks=tracks)
    arrays = ops.build_metadata(step) | dict(state_slots=slots, track_slots=tracks[0], track_lens=tracks[1])
    arrays = {name: ms.Tensor(array) for name, array in arrays.items()} | dict(forward_mode=mode)
    view = ops.state_view(bridge.to_mindspore(state), "state")
    given = [None if one is None else as_tensor(one) for one in weights]
    found = operator(*map(as_tensor, packed), *given, view, arrays, *more)
    return torch.from_numpy(stored(found).copy()).float()


# ---- convolutions ----


def in_memory(states):
    """States [slots, C, K - 1] as the table keeps them: rows [K - 1, C], the latest value first, in such a shape."""
    return states.flip(2).transpose(1, 2).contiguous().view(states.shape)


def in_contract(memory):
    slots, channels, window = memory.shape
    return memory.view(slots, window, channels).transpose(1, 2).flip(2)


def conv_arguments(channels, width, biased):
    weight = normal(channels, 1, width, seed=1, dtype=F16)
    return [weight, normal(channels, seed=2, dtype=F16) if biased else None], normal(
        SLOTS, channels, width - 1, seed=3, dtype=F16
    )


@pytest.mark.parametrize("channels, width, biased", [(21, 4, False), (32, 3, True), (70, 2, False)])
@pytest.mark.parametrize("gated", [False, True])
def test_a_convolution_goes_on_from_each_requests_state_and_leaves_the_next_one(
    checked, channels, width, biased, gated
):
    (weight, bias), given = conv_arguments(channels, width, biased)
    x = normal(sum(LENGTHS), channels * (3 if gated else 1), seed=4, dtype=F16)
    state, operator = in_memory(given), ops.short_conv if gated else ops.causal_conv
    kept = [0, 64, 1, 0]
    found = compute(operator, [weight, bias], state, [x], LENGTHS, IN_SLOTS, ([-1, 2, 6, -1], kept))
    left_in = in_contract(state)
    for place, (rows, answer, slot) in enumerate(
        zip(pieces(x, LENGTHS), pieces(found, LENGTHS), IN_SLOTS, strict=True)
    ):
        before, after, values = rows.chunk(3, 1) if gated else (rows, rows, None)
        rows = before * values if gated else rows
        y, left = convolved(rows, weight, bias, given[slot])
        close(answer, after.float() * y if gated else functional.silu(y), 4e-3)
        torch.testing.assert_close(left_in[slot].float(), left, rtol=0, atol=0)
        other = {1: 2, 2: 6}.get(place)
        if other:  # what it would leave behind those tokens alone
            _, left = convolved(rows[: kept[place]], weight, bias, given[slot])
            torch.testing.assert_close(left_in[other].float(), left, rtol=0, atol=0)
    untouched = [slot for slot in range(SLOTS) if slot not in (*IN_SLOTS, 2, 6)]
    torch.testing.assert_close(left_in[untouched], given[untouched], rtol=0, atol=0)


def test_steps_of_one_token_each_give_what_one_piece_does(checked):
    (weight, bias), given = conv_arguments(21, 4, True)
    x, states = normal(12, 63, seed=4, dtype=F16), [in_memory(given) for _ in range(2)]
    whole = compute(ops.short_conv, [weight, bias], states[0], [x], [12], [4])
    parts = []
    for token in range(12):
        second = ([6], [1]) if token == 8 else None
        parts.append(
            compute(ops.short_conv, [weight, bias], states[1], [x[[token, token]]], [1, 1], [4, 0], mode=DECODE)
            if second is None
            else compute(ops.short_conv, [weight, bias], states[1], [x[[token]]], [1], [4], second, DECODE)
        )
    assert torch.equal(torch.cat([part[:1] for part in parts]), whole)
    assert torch.equal(states[1][4], states[0][4])
    behind = in_memory(given)
    compute(ops.short_conv, [weight, bias], behind, [x[:9]], [9], [4])
    assert torch.equal(states[1][6], behind[4])


def test_what_is_not_computed_is_refused_by_name(checked, monkeypatch):
    ops.check_states(3)
    with pytest.raises(NotImplementedError, match="convolutions of 5 values, at most 4"):
        ops.check_states(4)
    monkeypatch.setattr(kernels, "soc", lambda: "ascend310p")
    with pytest.raises(NotImplementedError, match="what writes states on ascend310p"):
        ops.check_states(3)


# ---- models ----


def compare(found, variant, ids):
    wanted = {request: reference_logits(variant, ids[request], "float16") for request in found}
    assert_logits_close(found, wanted, LIMITS["float16"])


@pytest.mark.parametrize("way", WAYS)
def test_logits_equal_hugging_face_however_a_prompt_is_served(model_of, way):
    ids = prompts()
    compare(WAYS[way](Requests(model_of("lfm2@h96"), MODEL_PAGE), ids), "lfm2@h96", ids)


@pytest.mark.parametrize("variant", ["lfm2_moe@h96"])
def test_a_batch_of_fresh_chunked_and_decoding_requests_equals_hugging_face(model_of, variant):
    ids = prompts()
    compare(mixed_batch(Requests(model_of(variant), MODEL_PAGE), ids), variant, ids)


def test_captured_graphs_leave_states_of_nothing_and_go_on_from_those_of_their_requests(checked, tmp_path):
    variant, ids, sizes = "lfm2@h96", prompts(), []
    model = NpuModel(save(variant, tmp_path, "float16"), "float16", MODEL_PAGE, (2, 4))
    assert not any(conv.any() for conv in model.caches.states.convs.values())
    runner = model.graph.runner
    captured = runner.captured
    runner.captured = wrapped(captured, lambda arrays: sizes.append(len(arrays["state_slots"])) or captured(arrays))
    requests = Requests(model, MODEL_PAGE)
    first = requests.step({name: ids[name][:-1] for name in ("short", "long")})
    last = requests.step({"short": ids["short"][-1:], "long": ids["long"][-1:], "one": ids["one"]})
    assert sizes == [4]
    found = {name: np.concatenate([first[name], last[name]]) for name in first} | {"one": last["one"]}
    compare(found, variant, ids)


# ---- slots in runs of graphs ----


def check(made, prepared):
    batch, ids, wanted = prepared
    hidden_states = made.run({"input_ids": ids}, made.prepare(batch)).hidden_states
    np.testing.assert_array_equal(on_host(hidden_states), wanted)


def tracked(scheduler, prepared, slots, lens=None):
    """A step that is to leave states of its requests in these slots, -1: in none; lens: of prompts, of which all."""
    batch, *_ = prepared
    batch.mamba_track_mask = on_device([slot >= 0 for slot in slots], torch.bool)
    batch.mamba_track_indices = on_device(slots, torch.int64)
    if lens is not None:
        batch.mamba_prefill_track_mask_cpu = [slot >= 0 for slot in slots]
        batch.mamba_track_seqlens_cpu = lens
    return prepared


def test_runs_of_every_kind_are_given_their_requests_slots(monkeypatch):
    monkeypatch.setattr(npu_states, "mamba_cache_chunk_size", lambda: 4)
    scheduler = Scheduler(states=True)
    made = runner_of(scheduler)
    assert not scheduler.states, "states are zeros once graphs are captured"
    for rid, length in zip("abc", (9, 1, 6), strict=True):
        scheduler.start(rid, scheduler.random.integers(0, 99, length))
    # Prompts in two runs, of which the first is seen whole, and a second slot behind its first 8 tokens.
    check(made, tracked(scheduler, scheduler.batch(dict(a=9, b=1, c=6)), [90, -1, 92], [9, -1, 3]))
    kept = scheduler.states[90]
    assert kept == fingerprint(scheduler.tokens["a"][:8])
    assert 92 not in scheduler.states, "no token of it counts"
    for rids in ("abc", "ca", "b", "abc"):
        check(made, scheduler.decode(rids))
    check(made, tracked(scheduler, scheduler.decode("abc"), [-1, 91, -1]))
    assert scheduler.states[91] == fingerprint(scheduler.tokens["b"])
    assert scheduler.states[90] == kept
    scheduler.finish("a")
    scheduler.start("d", scheduler.random.integers(0, 99, 5))
    check(made, scheduler.batch(dict(d=5)))
    scheduler.tokens["d"] += [5, 7, 9]
    scheduler.tokens["b"].append(3)
    check(made, scheduler.batch(dict(d=3, b=1)))  # a later chunk, and a token beside it


def test_a_decode_step_costs_one_launch_more_or_two_and_no_copy():
    scheduler = Scheduler(states=True)
    made = runner_of(scheduler)
    for rid in "ab":
        scheduler.start(rid, scheduler.random.integers(0, 99, PAGE - 1))
    check(made, scheduler.batch(dict.fromkeys("ab", PAGE - 1)))
    for _ in range(3):
        check(made, scheduler.decode("ab"))
    for masked, launches in ((False, 4), (True, 5)):
        prepared = scheduler.decode("ab")
        prepared = tracked(scheduler, prepared, [-1, 20]) if masked else prepared
        LEDGER.begin()
        made.run({"input_ids": prepared[1]}, made.prepare(prepared[0]))
        assert not LEDGER.waits() and not LEDGER.strays(), dict(LEDGER)
        assert (LEDGER["copies to the device"], LEDGER["graphs"], LEDGER["launches"]) == (1, 1, launches)


def test_a_captured_graph_that_reads_other_slots_is_found_before_serving(monkeypatch):
    scheduler = Scheduler(states=True)
    put, first = npu_states.StateSlots.put_numbers, []

    def frozen(states, staged, slots):
        first.append(slots.clone()) if not first else None
        put(states, staged, first[0] if staged.sub_batch.bucket else slots)

    monkeypatch.setattr(npu_states.StateSlots, "put_numbers", frozen)
    with pytest.raises(CaptureError):
        runner_of(scheduler, buckets=(4,))


def test_more_requests_than_slots_of_states_are_captured_with_padding():
    made = runner_of(Scheduler(states=True), buckets=(2, 8))  # of six slots
    assert made.buckets == (2, 8)
    assert made.host_arrays and {FRESH, CHUNK, DECODE} == set(made.graphs)
    assert host.LARGEST_WINDOW == 3

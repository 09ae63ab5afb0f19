"""Operators of layers with a state, for every table, against torch's convolution and transformers' delta rules."""

import itertools

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import mutable, nn
from ops.numpy_reference import draw, tensor
from tiers import mostly_slow, of_dtypes
from torch.nn import functional
from transformers.models.kimi_linear import modeling_kimi_linear as kimi_linear
from transformers.models.mamba2 import modeling_mamba2 as mamba2
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.metadata import HostStep
from sglang.srt.model_executor_ms.runner import bridge

SECONDS = 45, 55
pytestmark = pytest.mark.usefixtures("table")
SLOTS = 9
LENGTHS = [1, 70, 2, 150, 5]  # tokens of each request of a step
LIMITS = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def dynamic(tensor):
    """Any number of packed rows; of integers, any shape."""
    shape = [None] * tensor.ndim if tensor.dtype == ms.int32 else [None, *tensor.shape[1:]]
    return ms.Tensor(shape=shape, dtype=tensor.dtype)


class Operator(nn.Cell):
    """One operator in a graph, with constants of its own."""

    def __init__(self, operator, names, weights, more, verifies):
        super().__init__()
        self.operator, self.names, self.weights, self.more = operator, tuple(names), weights, more
        self.verifies = verifies

    @ms.jit(fullgraph=True)
    def construct(self, packed, arrays, states):
        step = {}
        for place in range(len(self.names)):
            step[self.names[place]] = arrays[place]
        intermediate = states[1] if self.verifies else None
        return self.operator(*packed, *self.weights, states[0], step, *self.more, intermediate)


class Layer:
    """An operator with weights, and the states of its requests in torch's memory."""

    def __init__(self, operator, weights, state: torch.Tensor, *more):
        self.state, self.network, self.intermediate = state, None, None
        self.arguments = operator, [None if one is None else tensor(one) for one in weights], more
        view = ops.state_view(bridge.to_mindspore(state), "state")
        self.states = mutable((view, view))  # MindSpore gives what is alone in a tuple memory of its own

    def verify(self, rows: int, drafts: int) -> None:
        """From now on, before the first call, with intermediate states."""
        self.intermediate = torch.zeros(rows, drafts, *self.state.shape[1:], dtype=self.state.dtype)
        self.states = mutable((self.states[0], ops.state_view(bridge.to_mindspore(self.intermediate), "intermediate")))

    def __call__(self, lengths, slots, *packed: torch.Tensor, tracks=None, rows=()) -> torch.Tensor:
        """Rows of so many tokens of each request, whose states are in these slots.

        tracks: second slots, and behind how many tokens a state is left there; None: there are none. rows: of
        intermediate states, of each request; (): there are none.
        """
        lengths, slots = np.asarray(lengths, np.int32), np.asarray(slots, np.int32)
        host = HostStep(lengths, lengths, 1, state_slots=slots)
        nowhere = np.full_like(lengths, -1), np.zeros_like(lengths)
        others = zip(("track_slots", "track_lens"), tracks or nowhere, strict=True)
        arrays = {"state_slots": slots, "query_lens": lengths} | {name: np.int32(array) for name, array in others}
        arrays |= ops.build_metadata(host)
        if self.intermediate is not None:
            arrays["intermediate_rows"] = np.asarray(rows, np.int32)
        arrays = {name: ms.Tensor(array) for name, array in arrays.items()}
        given = [mutable(tuple(map(tensor, packed))), mutable(tuple(arrays.values()))]
        if self.network is None:
            operator, weights, more = self.arguments
            self.network = Operator(operator, arrays, weights, more, self.intermediate is not None)
            if not ops.capabilities().static_graphs:
                self.network.set_inputs(*(mutable(tuple(map(dynamic, one))) for one in given), self.states)
        return bridge.to_torch(self.network(*given, self.states)).float().clone()


def normal(*shape, seed=0, scale=1.0, dtype=torch.float32):
    return torch.from_numpy(draw(*shape, seed=seed, scale=scale)).to(dtype)


def pieces(rows, lengths=LENGTHS):
    return rows.split(list(lengths))


def close(found, wanted, limit):
    torch.testing.assert_close(found, wanted, rtol=0, atol=limit * float(wanted.abs().max()))


def convolved(x, weight, bias, before):
    """torch's, of rows [n, C] behind the earlier values [C, K - 1]; and what is left of them."""
    rows = torch.cat([before.float(), x.float().T], 1)
    y = functional.conv1d(rows[None], weight.float(), None if bias is None else bias.float(), groups=len(rows))
    return y[0].T, rows[:, rows.shape[1] - before.shape[1] :]


def conv_layer(operator, channels, width, biased, dtype):
    """The layer, its weights and bias, and its states as they were."""
    weight = normal(channels, 1, width, seed=1, dtype=dtype)
    bias = normal(channels, seed=2, dtype=dtype) if biased else None
    state = normal(SLOTS, channels, width - 1, seed=3, dtype=dtype)
    given = state.clone()
    computed = getattr(ms, ops.compute_dtype(str(dtype).removeprefix("torch.")))
    weights = [None if one is None else one.to(getattr(torch, str(computed).lower())) for one in (weight, bias)]
    return Layer(operator, weights, state), weight, bias, given


def as_computed(x, dtype):
    return x.to(getattr(torch, ops.compute_dtype(str(dtype).removeprefix("torch."))))


# Channels, of how many tokens each sees, with a bias.
@pytest.mark.parametrize("sizes, dtype", of_dtypes([(21, 4, False), (32, 3, True), (70, 2, False)], LIMITS), ids=str)
@pytest.mark.parametrize("gated", [False, True])
def test_a_convolution_goes_on_from_each_requests_state_and_leaves_the_next_one(sizes, gated, dtype):
    operator = ops.short_conv if gated else ops.causal_conv
    layer, weight, bias, given = conv_layer(operator, *sizes, dtype)
    x, slots = normal(sum(LENGTHS), sizes[0] * (3 if gated else 1), seed=4, dtype=dtype), [3, 8, 1, 5, 2]
    found = layer(LENGTHS, slots, as_computed(x, dtype))
    for rows, answer, slot in zip(pieces(x), pieces(found), slots, strict=True):
        if gated:
            before, after, values = rows.chunk(3, 1)
            y, left = convolved(before * values, weight, bias, given[slot])  # in the dtype, as states are
            close(answer, after.float() * y, LIMITS[dtype])
        else:
            y, left = convolved(rows, weight, bias, given[slot])
            close(answer, functional.silu(y), LIMITS[dtype])
        torch.testing.assert_close(layer.state[slot].float(), left, rtol=0, atol=LIMITS[dtype])
    untouched = [slot for slot in range(SLOTS) if slot not in slots]
    torch.testing.assert_close(layer.state[untouched], given[untouched], rtol=0, atol=0)


def in_chunks(layer, rows, cuts, slot=4):
    """The rows of one request, in pieces of so many tokens."""
    starts = np.cumsum([0, *cuts])
    ends = zip(starts[:-1], starts[1:], strict=True)
    found = [layer([end - start], [slot], *(one[start:end] for one in rows)) for start, end in ends]
    return torch.cat(found)


CUTS = [[40], [1] * 40, [3, 1, 17, 2, 16, 1], [39, 1]]


def assert_cuts_agree(made, rows, limit):
    """Answers to 40 tokens, and states behind them, are alike however they are cut. made: a layer, ..., its states."""
    (layer, *_, given), answers, states = made, [], []
    for cuts in CUTS:
        layer.state.copy_(given)
        answers.append(in_chunks(layer, rows, cuts))
        states.append(layer.state[4].clone())
    for answer, state in zip(answers[1:], states[1:], strict=True):
        torch.testing.assert_close(answer, answers[0], rtol=0, atol=limit)
        torch.testing.assert_close(state, states[0], rtol=0, atol=limit)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_chunks_of_any_cut_are_convolved_as_one_piece(table, dtype):
    rows = [as_computed(normal(40, 63, seed=4, dtype=dtype), dtype)]
    limit = 0 if table == "cpu" else 1e-6
    assert_cuts_agree(conv_layer(ops.short_conv, 21, 4, True, dtype), rows, limit)


SIZES = [(2, 6, 10, 14), (1, 1, 16, 3), (2, 4, 32, 8), (1, 2, 128, 70)]  # key heads, value heads, and the size of each


def delta_layer(keys, values, key_size, value_size):
    a_log, dt_bias = normal(values, seed=1), normal(values, seed=2)
    state = normal(SLOTS, values, value_size, key_size, seed=3)
    return Layer(ops.gated_delta, [a_log, dt_bias], state, key_size), a_log, dt_bias, state.clone()


def delta_inputs(keys, values, key_size, value_size, tokens, dtype=torch.float32):
    x = normal(tokens, 2 * keys * key_size + values * value_size, seed=4, dtype=dtype)
    return x, normal(tokens, 2 * values, seed=5, dtype=dtype)


def delta(function, sizes, x, gates, a_log, dt_bias, before):
    """transformers' rule for the rows of one request -> (answers, the state behind them, [H, V, K])."""
    keys, values, key_size, value_size = sizes
    q, k, v = x.float().split([keys * key_size, keys * key_size, values * value_size], 1)
    heads = [one.reshape(1, len(x), keys, key_size).repeat_interleave(values // keys, 2) for one in (q, k)]
    b, a = gates.float().chunk(2, 1)
    g = -a_log.exp() * functional.softplus(a + dt_bias)
    y, left = function(
        *heads,
        v.reshape(1, len(x), values, value_size),
        g=g[None],
        beta=b.sigmoid()[None],
        initial_state=before.transpose(1, 2)[None].clone(),
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    return y.reshape(len(x), -1), left[0].transpose(1, 2)


RULES = [qwen3_next.torch_recurrent_gated_delta_rule, qwen3_next.torch_chunk_gated_delta_rule]


@pytest.mark.parametrize("sizes, dtype", of_dtypes(SIZES, LIMITS), ids=str)
def test_the_delta_rule_goes_on_from_each_requests_state_and_leaves_the_next_one(sizes, dtype):
    layer, a_log, dt_bias, given = delta_layer(*sizes)
    (x, gates), slots = delta_inputs(*sizes, sum(LENGTHS), dtype), [3, 8, 1, 5, 2]
    found = layer(LENGTHS, slots, as_computed(x, dtype), as_computed(gates, dtype))
    requests = zip(pieces(x), pieces(gates), pieces(found), slots, strict=True)
    for number, (rows, gate, answer, slot) in enumerate(requests):
        y, left = delta(RULES[number % 2], sizes, rows, gate, a_log, dt_bias, given[slot])
        close(answer, y, LIMITS[dtype])
        close(layer.state[slot], left, 2 * LIMITS[torch.float32])
    untouched = [slot for slot in range(SLOTS) if slot not in slots]
    torch.testing.assert_close(layer.state[untouched], given[untouched], rtol=0, atol=0)


@pytest.mark.parametrize("sizes", SIZES)
def test_chunks_of_any_cut_follow_the_delta_rule_as_one_piece(table, sizes):
    limit = 0 if table == "cpu" else 1e-5
    assert_cuts_agree(delta_layer(*sizes), delta_inputs(*sizes, 40), limit)


KIMI_SIZES = [(6, 10, 14), (1, 16, 3), (4, 32, 23)]  # heads, and the size of their keys and values


def kimi_layer(heads, key_size, value_size):
    a_log, dt_bias = normal(heads, seed=1), normal(heads * key_size, seed=2)
    state = normal(SLOTS, heads, value_size, key_size, seed=3)
    return Layer(ops.kimi_delta, [a_log, dt_bias], state, key_size), a_log, dt_bias, state.clone()


def kimi_inputs(heads, key_size, value_size, tokens, dtype=torch.float32):
    widths = (heads * (2 * key_size + value_size), heads * key_size, heads)
    return [normal(tokens, width, seed=seed, dtype=dtype) for seed, width in enumerate(widths, 4)]


def kimi_delta(function, sizes, x, forget, beta, a_log, dt_bias, before):
    """transformers' rule for the rows of one request -> (answers, the state behind them, [H, V, K])."""
    heads, key_size, value_size = sizes
    q, k, v = x.float().split([heads * key_size, heads * key_size, heads * value_size], 1)
    rates = -a_log.exp()[:, None] * functional.softplus(forget.float() + dt_bias).reshape(1, len(x), heads, key_size)
    y, left = function(
        *(one.reshape(1, len(x), heads, key_size) for one in (q, k)),
        v.reshape(1, len(x), heads, value_size),
        g=rates,
        beta=beta.float().sigmoid()[None],
        initial_state=before.transpose(1, 2)[None].clone(),
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    return y.reshape(len(x), -1), left[0].transpose(1, 2)


KIMI_RULES = [kimi_linear.recurrent_kimi_delta_attention, kimi_linear.chunk_kimi_delta_attention]


KIMI_CASES = mostly_slow(itertools.product(KIMI_SIZES, LIMITS), lambda sizes, dtype: sizes == KIMI_SIZES[0])


@pytest.mark.parametrize("sizes, dtype", KIMI_CASES)
def test_kimis_delta_rule_goes_on_from_each_requests_state_and_leaves_the_next_one(sizes, dtype):
    layer, a_log, dt_bias, given = kimi_layer(*sizes)
    rows, slots = kimi_inputs(*sizes, sum(LENGTHS), dtype), [3, 8, 1, 5, 2]
    found = pieces(layer(LENGTHS, slots, *(as_computed(one, dtype) for one in rows)))
    requests = zip(*map(pieces, rows), found, slots, strict=True)
    for number, (x, forget, beta, answer, slot) in enumerate(requests):
        y, left = kimi_delta(KIMI_RULES[number % 2], sizes, x, forget, beta, a_log, dt_bias, given[slot])
        close(answer, y, LIMITS[dtype])
        close(layer.state[slot], left, 2 * LIMITS[torch.float32])
    untouched = [slot for slot in range(SLOTS) if slot not in slots]
    torch.testing.assert_close(layer.state[untouched], given[untouched], rtol=0, atol=0)


@pytest.mark.parametrize("sizes", mostly_slow([(sizes,) for sizes in KIMI_SIZES], lambda sizes: sizes == KIMI_SIZES[0]))
def test_chunks_of_any_cut_follow_kimis_delta_rule_as_one_piece(table, sizes):
    limit = 0 if table == "cpu" else 1e-5
    assert_cuts_agree(kimi_layer(*sizes), kimi_inputs(*sizes, 40), limit)


SPACES = [(2, 6, 10, 14), (1, 1, 3, 16), (2, 4, 23, 32)]  # groups, heads, values of each, size of a state
LOW, HIGH = 0.3, 2.1  # of a step


def space_layer(groups, heads, values, size):
    a_log, skip, dt_bias = (normal(heads, seed=seed) for seed in (1, 2, 6))
    state = normal(SLOTS, heads, values, size, seed=3)
    return Layer(ops.state_space, [a_log, skip, dt_bias], state, size, LOW, HIGH), a_log, skip, dt_bias, state.clone()


def space_inputs(groups, heads, values, size, tokens, dtype=torch.float32):
    x = normal(tokens, heads * values + 2 * groups * size, seed=4, dtype=dtype)
    return x, normal(tokens, heads, seed=5, dtype=dtype)


def spaced(sizes, x, dt, a_log, skip, dt_bias, before):
    """transformers' scan of one request -> (answers, the state behind them, [H, P, N])."""
    groups, heads, values, size = sizes
    v, b, c = x.float().split([heads * values, groups * size, groups * size], 1)
    y, left = mamba2.mamba2_chunk_scan(
        v.reshape(1, len(x), heads, values),
        dt.float()[None],
        -a_log.exp(),
        b.reshape(1, len(x), groups, size),
        c.reshape(1, len(x), groups, size),
        chunk_size=16,
        D=skip,
        dt_bias=dt_bias,
        dt_softplus=True,
        dt_limit=(LOW, HIGH),
        initial_states=before[None],
        return_final_states=True,
    )
    return y.reshape(len(x), -1), left[0]


@pytest.mark.parametrize("sizes, dtype", of_dtypes(SPACES, LIMITS), ids=str)
def test_a_state_space_goes_on_from_each_requests_state_and_leaves_the_next_one(sizes, dtype):
    layer, *weights, given = space_layer(*sizes)
    (x, dt), slots = space_inputs(*sizes, sum(LENGTHS), dtype), [3, 8, 1, 5, 2]
    found = layer(LENGTHS, slots, as_computed(x, dtype), as_computed(dt, dtype))
    for rows, width, answer, slot in zip(pieces(x), pieces(dt), pieces(found), slots, strict=True):
        y, left = spaced(sizes, rows, width, *weights, given[slot])
        close(answer, y, LIMITS[dtype])
        close(layer.state[slot], left, LIMITS[torch.float32])


@pytest.mark.parametrize("sizes", SPACES)
def test_chunks_of_any_cut_pass_a_state_space_as_one_piece(table, sizes):
    limit = 0 if table == "cpu" else 1e-4
    assert_cuts_agree(space_layer(*sizes), space_inputs(*sizes, 40), limit)


def verified(kind):
    """A layer of a kind, and what 8 tokens give it."""
    if kind in ("causal_conv", "short_conv"):
        layer, *_ = conv_layer(getattr(ops, kind), 21, 4, False, torch.float32)
        return layer, [normal(8, 63 if kind == "short_conv" else 21, seed=4)]
    if kind == "gated_delta":
        return delta_layer(*SIZES[0])[0], delta_inputs(*SIZES[0], 8)
    return space_layer(*SPACES[0])[0], space_inputs(*SPACES[0], 8)


@pytest.mark.parametrize("kind", ["causal_conv", "short_conv", "gated_delta", "state_space"])
def test_the_state_behind_each_draft_is_kept_apart_and_a_slot_as_it_was(kind):
    layer, rows = verified(kind)
    layer.verify(rows=2, drafts=4)
    lengths, slots, places = [3, 1, 4], [3, 8, 1], [1, -1, 0]
    if not ops.capabilities().intermediate_states:
        with pytest.raises((NotImplementedError, RuntimeError), match="intermediate states"):
            layer(lengths, slots, *rows, rows=places)
        return
    before = layer.state.clone()
    found = layer(lengths, slots, *rows, rows=places)
    other, _ = verified(kind)
    parts = zip(lengths, slots, places, pieces(found, lengths), *(pieces(one, lengths) for one in rows), strict=True)
    for length, slot, place, answer, *given in parts:
        for token in range(length):  # one by one, each to be kept
            one = other([1], [slot], *(part[token : token + 1] for part in given))
            torch.testing.assert_close(answer[token : token + 1], one, rtol=0, atol=0)
            if place >= 0:
                torch.testing.assert_close(layer.intermediate[place, token], other.state[slot], rtol=0, atol=0)
    torch.testing.assert_close(layer.state[8], other.state[8], rtol=0, atol=0)
    verifies = [3, 1, *range(4, 8)]
    torch.testing.assert_close(layer.state[verifies], before[verifies], rtol=0, atol=0)
    assert not layer.intermediate[1, 3].any()


KEEPING = {  # what makes a layer, and rows of it
    "conv": (lambda: conv_layer(ops.causal_conv, 21, 4, True, torch.float32), [(21, 4)]),
    "gated_delta": (lambda: delta_layer(*SIZES[0]), [(124, 4), (12, 5)]),
    "kimi_delta": (lambda: kimi_layer(*KIMI_SIZES[0]), [(204, 4), (60, 5), (6, 6)]),
    "state_space": (lambda: space_layer(*SPACES[0]), [(116, 4), (6, 5)]),
}


@pytest.mark.parametrize("kind", KEEPING)
def test_a_second_slot_is_left_the_state_behind_some_of_a_steps_tokens(kind):
    make, widths = KEEPING[kind]
    lengths, kept, slots, others = [9, 70, 1, 5], [4, 64, 1, 0], [3, 8, 1, 5], [2, 6, 7, -1]
    rows = [normal(sum(lengths), width, seed=seed) for width, seed in widths]
    layer, *_, given = make()
    answers, whole = layer(lengths, slots, *rows, tracks=(others, kept)), layer.state.clone()
    first = [torch.cat([part[:n] for part, n in zip(pieces(one, lengths)[:3], kept, strict=False)]) for one in rows]
    layer.state.copy_(given)
    layer(kept[:3], slots[:3], *first)
    for slot, other in zip(slots[:3], others, strict=False):
        torch.testing.assert_close(whole[other], layer.state[slot], rtol=0, atol=1e-5)
    torch.testing.assert_close(whole[[0, 4]], given[[0, 4]], rtol=0, atol=0)  # nobody's
    layer.state.copy_(given)
    torch.testing.assert_close(answers, layer(lengths, slots, *rows), rtol=0, atol=0)
    torch.testing.assert_close(whole[slots], layer.state[slots], rtol=0, atol=0)

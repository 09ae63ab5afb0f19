"""Operators of vision towers, of every table, against torch."""

import dataclasses
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.numpy_reference import call, close, draw
from transformers.activations import ACT2FN
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding, apply_rotary_pos_emb

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.rotary import Rope, mrope_axes, rotary_tables
from sglang.srt.model_executor_ms.runner import bridge

SECONDS = 12
pytestmark = pytest.mark.usefixtures("table")


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_pytorch_tanh", "quick_gelu", "tanh"])
def test_an_activation_is_that_of_transformers(kind):
    x = draw(5, 77, scale=3.0)
    wanted = ACT2FN[kind](torch.from_numpy(x).double()).float().numpy()
    close(call(ops.activate, [x], constants=(kind,)), wanted)


def test_rows_are_taken_by_their_index_and_minus_one_is_none():
    x, rows = draw(7, 13), np.array([6, -1, 0, 3, 3], np.int32)
    wanted = np.concatenate([x, np.zeros((1, 13), np.float32)])[rows]

    def take(rows, x):
        return ops.take_rows(x, rows)

    found = call(take, [rows], [x])
    np.testing.assert_array_equal(found.asnumpy(), wanted)


def test_masked_rows_are_others():
    x, rows, mask = draw(6, 21, seed=1), draw(6, 21, seed=2), np.array([0, 1, 0, 7, 1, 0], np.int32)
    found = call(ops.put_rows, [x, rows, mask])
    np.testing.assert_array_equal(found.asnumpy(), np.where(mask[:, None] != 0, rows, x))


def attended(qkv, angles, lengths, heads, scale):
    """By torch, segment by segment, in float64; angles [T, D / 2] or None."""
    q, k, v = torch.from_numpy(qkv).double().reshape(len(qkv), 3, heads, -1).unbind(1)
    if angles is not None:
        turn = torch.polar(torch.ones(1, dtype=torch.float64), torch.from_numpy(angles).double())[:, None]
        q, k = (_turned(x, turn) for x in (q, k))
    parts = zip(*(x.transpose(0, 1).split(lengths, 1) for x in (q, k, v)), strict=True)
    found = [torch.nn.functional.scaled_dot_product_attention(*part, scale=scale) for part in parts]
    return torch.cat(found, 1).transpose(0, 1).reshape(len(qkv), -1).numpy()


def _turned(x, turn):
    left, right = x.chunk(2, -1)
    turned = torch.complex(left, right) * turn
    return torch.cat([turned.real, turned.imag], -1)


def check_segments(lengths, heads, head_dim, rotated, seed=0):
    total = sum(lengths)
    qkv = draw(total, 3 * heads * head_dim, seed=seed, scale=1.5)
    angles = draw(total, head_dim // 2, seed=seed + 1, scale=4.0) if rotated else None
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)

    def attend(qkv, *rest):
        *tables, bounds = rest
        cos, sin = tables if tables else (None, None)
        return ops.segment_attention(qkv, cos, sin, bounds, heads, 0.3)

    tables = [] if angles is None else [np.cos(angles), np.sin(angles)]
    found, wanted = call(attend, [qkv, *tables], [bounds]).asnumpy(), attended(qkv, angles, lengths, heads, 0.3)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())  # scores are large


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("lengths, heads, head_dim", [([5], 1, 8), ([1, 16, 3], 3, 20), ([130, 257, 64], 2, 72)])
def test_rows_attend_within_their_segment(lengths, heads, head_dim, rotated):
    check_segments(lengths, heads, head_dim, rotated)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 12), st.integers(0, 99))
def test_rows_attend_within_segments_of_any_length(table, lengths, heads, quarters, seed):
    if table == "cpu":
        check_segments(lengths, heads, 4 * quarters, seed % 2 == 0, seed)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("lengths, heads, head_dim", [([1, 33, 16], 3, 20), ([600, 31], 2, 80), ([257], 1, 64)])
def test_rows_attend_in_bfloat16(table, lengths, heads, head_dim, rotated):
    if table != "cpu":
        pytest.skip("the reference computes in float32")
    total = sum(lengths)
    qkv = torch.from_numpy(draw(total, 3 * heads * head_dim)).bfloat16()
    angles = draw(total, head_dim // 2, seed=1, scale=4.0) if rotated else None
    tables = [ms.Tensor(table) for table in (np.cos(angles), np.sin(angles))] if rotated else (None, None)
    bounds = ms.Tensor(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    found = ops.segment_attention(bridge.to_mindspore(qkv), *tables, bounds, heads, head_dim**-0.5)
    wanted = attended(qkv.float().numpy(), angles, lengths, heads, head_dim**-0.5)
    error = np.abs(bridge.to_torch(found).float().numpy() - wanted).max()
    assert error < 2**-6 * np.abs(wanted).max()  # queries, keys, weights and results are rounded


def test_what_segments_do_not_cover_is_refused(table):
    if table != "cpu":
        pytest.skip("only the C++ operators look")

    def attend(qkv, bounds):
        return ops.segment_attention(qkv, None, None, bounds, 1, 1.0)

    with pytest.raises(RuntimeError):
        call(attend, [draw(4, 12)], [np.array([0, 3], np.int32)]).asnumpy()


KV_HEADS, HEADS, HEAD, EPS_OF_HEADS = 2, 3, 12, 2e-3


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("normed", [False, True])
def test_three_positions_turn_their_parts_of_each_head(interleaved, normed):
    rope = Rope("default", 100.0, HEAD, 64, mrope_section=(3, 2, 1) if not interleaved else (2, 2, 2))
    rope = dataclasses.replace(rope, mrope_interleaved=interleaved)
    qkv = draw(7, (HEADS + 2 * KV_HEADS) * HEAD)
    norms = [draw(HEAD, seed=1), draw(HEAD, seed=2)] if normed else []
    positions = np.random.default_rng(3).integers(0, 60, (3, 7)).astype(np.int32)
    cos, sin = rotary_tables(rope, 60)

    def turn(qkv, t, h, w, cos, sin, axes, *norms):
        step = {"mrope_t": t, "mrope_h": h, "mrope_w": w}
        q_norm, k_norm = norms if norms else (None, None)
        return ops.mrope(qkv, q_norm, k_norm, EPS_OF_HEADS, cos, sin, axes, step, KV_HEADS, HEAD)

    tables = [table.asnumpy() for table in (cos, sin)]
    found = call(turn, [qkv, *positions], [*tables, mrope_axes(rope), *norms])
    close(found, turned_by_transformers(qkv, positions, rope, norms))


def turned_by_transformers(qkv, positions, rope, norms, size=HEAD):
    """By the models' own code: Qwen3-VL's where the parts take turns, else Qwen2-VL's."""
    heads = torch.from_numpy(qkv).double().reshape(1, 7, -1, size).transpose(1, 2)
    q, k, v = heads.split([HEADS, KV_HEADS, KV_HEADS], 1)
    if norms:
        weights = [torch.from_numpy(weight).double() for weight in norms]
        pairs = zip((q, k), weights, strict=True)
        q, k = (torch.nn.functional.rms_norm(x, [size], weight, EPS_OF_HEADS) for x, weight in pairs)
    frequencies = rope.rope_theta ** -(torch.arange(0, size, 2).double() / size)
    angles = torch.from_numpy(positions).double()[:, None, :, None] * frequencies  # [3, 1, T, D / 2]
    model = Qwen3VLTextRotaryEmbedding if rope.mrope_interleaved else Qwen2VLRotaryEmbedding
    angles = model.recomposition_frequencies(SimpleNamespace(mrope_section=rope.mrope_section), angles)
    q, k = apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
    return torch.cat([q, k, v], 1).transpose(1, 2).reshape(7, -1).numpy()

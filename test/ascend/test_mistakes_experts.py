"""Mistakes that other backends for Ascend make with experts and latent attention, and what only these kernels do."""

import mindspore as ms
import numpy as np
import pytest
import torch
from models.harness import pool_of
from models.tiny import TINY
from ops.numpy_reference import draw
from ops.test_experts import ROUTERS, mixed, routed

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import MLASpec
from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.layers_ms.ops.ascend_reference.memory import ContractError, tensor, values
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches

from .model import PAGE

SECONDS = 1
pytestmark = pytest.mark.usefixtures("checked")
# experts, then as ROUTERS: what each kernel takes and does not, with constants that no model has
MORE_ROUTERS = {
    **{name: (20, constants) for name, constants in ROUTERS.items()},
    "256 in 8 groups": (256, (6, "sigmoid", 8, 3, 2, True, 1.9, 0.0)),
    "unscaled": (64, (5, "sigmoid", 8, 2, 1, False, 3.1, 0.0)),
    "160 in one group": (160, (7, "sigmoid", 1, 1, 2, True, 0.7, 0.0)),
    "384 in one group": (384, (8, "sigmoid", 1, 1, 1, True, 2.8, 0.0)),
    "72 in 4 groups": (72, (6, "sigmoid", 4, 2, 3, True, 1.3, 0.0)),
    "160 in 8 groups": (160, (6, "softmax", 8, 3, 1, False, 16.0, 0.0)),
}


def correction_of(bias):
    packed = tensor(bias, ms.float32)
    ops.prepack_correction_bias(packed)
    return packed


def assert_routed(logits, bias, constants):
    packed = None if bias is None else correction_of(bias)
    weights, experts = (values(found) for found in ops.route(tensor(logits, ms.float32), packed, *constants))
    assert (weights.dtype, experts.dtype) == (np.float32, np.int32)
    for token, row in enumerate(logits):
        wanted = routed(row, bias, *constants)
        assert list(experts[token]) == list(wanted)
        np.testing.assert_allclose(weights[token], list(wanted.values()), rtol=2e-5)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("router", MORE_ROUTERS)
def test_every_constant_of_a_router_comes_from_its_model(router, corrected):
    count, constants = MORE_ROUTERS[router]
    assert_routed(draw(9, count, scale=2.0), draw(count, seed=1, scale=0.3) if corrected else None, constants)


def test_a_correction_below_zero_chooses_no_expert_of_another_group():
    constants = (6, "sigmoid", 8, 2, 2, True, 2.5, 0.0)
    assert_routed(draw(9, 256), -5.0 - np.abs(draw(256, seed=1)), constants)


def test_without_preparation_such_a_correction_is_an_error():
    logits, bias = tensor(draw(2, 256), ms.float32), tensor(-np.ones(256, np.float32), ms.float32)
    with pytest.raises(ContractError, match="FusedAddTopKDiv"):
        ops.route(logits, bias, 6, "sigmoid", 8, 2, 2, True, 2.5, 0.0)


SHAPES = dict(tokens=7, width=48, size=22, count=6, chosen=2)


def experts_of(dtype, biased):
    """Weights of SHAPES as float32 of dtype's precision, and packed tensors of them."""
    count, width, size = SHAPES["count"], SHAPES["width"], SHAPES["size"]
    shapes = [(count, 2, size, width), (count, 2, size), (count, width, size), (count, width)]
    stacks = [tensor(draw(*shape, seed=i, scale=0.2), dtype) for i, shape in enumerate(shapes)]
    known = [values(stack) for stack in stacks]
    for stack in stacks[::2]:
        ops.prepack_experts(stack)
    if not biased:
        known[1::2], stacks[1::2] = [None, None], [None, None]
    return known, stacks


@pytest.mark.parametrize("dtype, limit", [(ms.float16, 4e-3), (ms.bfloat16, 3e-2)])
@pytest.mark.parametrize("activation, biased", [("silu", False), ("clamped_silu", True), ("gelu", False)])
def test_tokens_get_the_weighted_sum_of_what_their_experts_make(activation, biased, dtype, limit):
    known, stacks = experts_of(dtype, biased)
    x = tensor(draw(SHAPES["tokens"], SHAPES["width"], seed=9), dtype)
    weights = np.abs(draw(SHAPES["tokens"], SHAPES["chosen"]))
    # Expert 3 has no token, expert 0 every one.
    chosen = np.array([[0, 1 + i % 5 + (i % 5 > 1)] for i in range(SHAPES["tokens"])], np.int32) % SHAPES["count"]
    found = mix(x, stacks, weights, chosen, activation)
    wanted = mixed(values(x), *known, weights, chosen, activation)
    assert found.dtype == dtype
    np.testing.assert_allclose(values(found), wanted, rtol=0, atol=limit * np.abs(wanted).max())


def test_experts_of_other_ranks_add_nothing():
    known, stacks = experts_of(ms.float16, False)
    x = tensor(draw(SHAPES["tokens"], SHAPES["width"], seed=9), ms.float16)
    weights = np.abs(draw(SHAPES["tokens"], SHAPES["chosen"]))
    first, count = 4, SHAPES["count"] * 3
    chosen = np.array([[first + i % 6, [1, 17][i % 2]] for i in range(SHAPES["tokens"])], np.int32)
    found = mix(x, stacks, weights, chosen, first=first, count=count)
    kept = weights * [1, 0]
    wanted = mixed(values(x), *known, kept, np.maximum(chosen - first, 0) % SHAPES["count"], "silu")
    np.testing.assert_allclose(values(found), wanted, rtol=0, atol=4e-3 * np.abs(wanted).max())


def test_rows_of_experts_of_other_ranks_are_not_multiplied(monkeypatch):
    multiplied, grouped = [], kernels.grouped_matmul

    def noted(rows, weights, bias, counts):
        multiplied.append(int(values(counts).sum()))
        return grouped(rows, weights, bias, counts)

    monkeypatch.setattr(kernels, "grouped_matmul", noted)
    _, stacks = experts_of(ms.float16, False)
    x = tensor(draw(SHAPES["tokens"], SHAPES["width"], seed=9), ms.float16)
    weights = np.ones((SHAPES["tokens"], 2), np.float32)
    for own, chosen in ((1, [2, 9]), (0, [0, 1])):  # also where a rank has none of a step's
        chosen = np.array([chosen] * SHAPES["tokens"], np.int32)
        found = values(mix(x, stacks, weights, chosen, first=2, count=3 * SHAPES["count"]))
        assert np.isfinite(found).all() and (own or not found.any())
        assert multiplied[-2:] == [own * SHAPES["tokens"]] * 2


@pytest.mark.parametrize("activation, wanted", [("gelu", "none"), ("gelu_pytorch_tanh", "tanh")])
def test_each_gelu_is_its_own(monkeypatch, activation, wanted):
    """They differ by less than half precision shows."""
    asked, gelu = [], kernels.gelu
    monkeypatch.setattr(kernels, "gelu", lambda x, approximate: asked.append(approximate) or gelu(x, approximate))
    _, stacks = experts_of(ms.float16, False)
    x = tensor(draw(2, SHAPES["width"]), ms.float16)
    mix(x, stacks, np.ones((2, 2), np.float32), np.array([[0, 1], [2, 0]], np.int32), activation)
    assert asked == [wanted]


def mix(x, stacks, weights, chosen, activation="silu", **held):
    chosen, weights = tensor(chosen, ms.int32), tensor(weights, ms.float32)
    gate_up, gate_up_bias, down, down_bias = stacks
    return ops.fused_experts(x, gate_up, gate_up_bias, down, down_bias, weights, chosen, activation, 1.3, 0.8, **held)


def test_what_padding_rows_hold_changes_no_other_row():
    _, stacks = experts_of(ms.float16, False)
    rows = draw(SHAPES["tokens"], SHAPES["width"], seed=9)
    padded = np.concatenate([rows, np.full((3, SHAPES["width"]), np.nan, np.float32)])

    def through(x):
        logits = np.concatenate([draw(SHAPES["tokens"], SHAPES["count"]), np.full((3, SHAPES["count"]), np.nan)])
        routing = (SHAPES["chosen"], "softmax", 1, 1, 1, True, 1.0, 0.0)
        weights, chosen = ops.route(tensor(logits[: len(x)], ms.float32), None, *routing)
        return values(mix(tensor(x, ms.float16), stacks, values(weights), values(chosen)))

    np.testing.assert_array_equal(through(padded)[: len(rows)], through(rows))


class Latent:
    """A decode step of latent attention whose sizes all differ, over a pool that requests share in pages."""

    heads, nope, rope, value, rank = 3, 48, 16, 32, 80

    def __init__(self):
        self.cache = tensor(draw(8, PAGE, 1, self.rank + self.rope), ms.float16)
        self.w_uk = tensor(draw(self.heads, self.nope, self.rank, seed=1, scale=0.1), ms.float16)
        self.w_uv = tensor(draw(self.heads, self.value, self.rank, seed=2, scale=0.1), ms.float16)
        self.norm = tensor(draw(self.rank, seed=3), ms.float16)
        angles = draw(64, self.rope // 2, seed=4)
        self.tables = ops.rotary_tables(np.cos(angles), np.sin(angles), ms.float16)

    def run(self, lengths, slots, pages):
        """One new token of each request; -> what attention gives, [B, H * V]."""
        size, tokens = self.nope + self.rope, len(lengths)
        arrays = dict(positions=np.maximum(np.array(lengths) - 1, 0), out_cache_loc=slots, query_lens=[1] * tokens)
        arrays |= dict(seq_lens=lengths, block_tables=pages)
        step = {name: tensor(np.array(array), ms.int32) for name, array in arrays.items()}
        step |= dict(forward_mode=host.DECODE)
        q, kv = (
            tensor(draw(5, width, seed=width)[:tokens], ms.float16)
            for width in (self.heads * size, self.rank + self.rope)
        )
        cos, sin = self.tables
        q, cache = ops.mla_to_cache(q, kv, self.norm, 1e-6, cos, sin, True, self.cache, step, self.heads)
        return values(ops.mla_attention(q, cache, self.w_uk, None, self.w_uv, step, 0.2))


def test_padding_requests_leave_the_cache_and_other_requests_alone():
    plain, padded = Latent(), Latent()
    found = padded.run([20, 3, 0, 0], [51, 66, -1, -1], [[2, 3], [4, 0], [0, 0], [0, 0]])[:2]
    np.testing.assert_array_equal(found, plain.run([20, 3], [51, 66], [[2, 3], [4, 0]]))
    assert not np.isnan(found).any()
    np.testing.assert_array_equal(values(padded.cache), values(plain.cache))


def test_values_have_their_own_head_size():
    latent = Latent()
    assert latent.run([20, 3], [51, 66], [[2, 3], [4, 0]]).shape == (2, Latent.heads * Latent.value)


def test_mla_attention_has_one_pool_and_no_copy_of_it():
    specs = dict.fromkeys(range(2), MLASpec(kv_lora_rank=80, qk_rope_head_dim=16))
    pool = pool_of(specs, torch.float16, PAGE)
    caches = KVCaches(pool, specs)
    for layer in specs:
        memory = pool.get_key_buffer(layer).data_ptr()
        assert [caches.k_caches[layer].data_ptr(), caches.v_caches[layer].data_ptr()] == [memory, memory]


@pytest.mark.parametrize(
    "sizes, complaint",
    [
        ((512, 60, 128, 128), "qk_rope_head_dim 60"),
        ((512, 64, 128, 120), "v_head_dim 120"),
        ((1024, 64, 128, 128), "rows of 1088"),
        ((512, 64, 208, 128), "keys of 272 and values of 128, at most 256"),
        ((512, 64, 128, 208), "keys of 192 and values of 208, .* no wider than keys"),
    ],
)
def test_sizes_that_no_kernel_has_are_refused_when_a_layer_is_built(sizes, complaint):
    ops.check_mla_attention(512, 64, 128, 128)
    with pytest.raises(NotImplementedError, match=complaint):
        ops.check_mla_attention(*sizes)


def test_contexts_beyond_what_sparse_attention_sees_are_refused_when_a_layer_is_built():
    with pytest.raises(NotImplementedError, match="contexts end at 2048 tokens there.* --context-length 2048"):
        ops.check_sparse_attention(2048)


def test_ranks_add_up_what_each_has():
    ops.init_group("pair", 0, 2, lambda mine: [mine, mine + 1])
    x = tensor(draw(3, 8), ms.bfloat16)
    np.testing.assert_allclose(values(ops.all_reduce(x, "pair")), 2 * values(x) + 1, rtol=2**-7)
    with pytest.raises(ContractError, match="nobody"):
        ops.all_reduce(x, "nobody")


def test_variants_of_the_semantics_net_leave_no_constant_at_its_usual_value():
    v3 = TINY["deepseek_v3"]
    usual = dict(n_group=8, topk_group=4, routed_scaling_factor=2.5, num_experts_per_tok=8)
    assert all(v3[key] != value for key, value in usual.items())

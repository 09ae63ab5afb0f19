"""What plain MLPs and gates compute value by value, against torch and transformers."""

import numpy as np
import pytest
import torch
from mindspore import Tensor
from transformers.activations import ACT2FN, XIELUActivation

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.runner import bridge

SECONDS = 3
STEP = {"query_lens": None}


def rows(*shape, seed=0, scale=4.0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * scale)


def step_of(x, **arrays):
    """What operators read of a step of as many tokens, all of which count."""
    from sglang.srt.layers_ms.ops.metadata import HostStep

    lengths = np.array([len(x)], np.int32)
    arrays |= ops.build_metadata(HostStep(lengths, lengths, 1))
    return {name: Tensor(np.asarray(array, np.int32)) for name, array in arrays.items()}


def run(operator, x, *arguments, **step):
    given = ops.with_valid_rows(bridge.to_mindspore(x), step_of(x, **step))
    return torch.from_numpy(ops.without_valid_rows(operator(given, *arguments)).asnumpy())


def gated(x, step):
    return ops.with_valid_rows(bridge.to_mindspore(x), step)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_pytorch_tanh", "relu", "relu2"])
def test_activations_are_transformers(table, activation):
    x = rows(7, 37)
    torch.testing.assert_close(run(ops.activate, x, activation), ACT2FN[activation](x), atol=2e-6, rtol=1e-5)


def test_xielu_is_transformers(table):
    x, made = rows(5, 37), XIELUActivation(1.3, 0.9, dtype=torch.float32)
    alphas = [bridge.to_mindspore(alpha.detach().clone()) for alpha in (made.alpha_p, made.alpha_n)]
    found = run(ops.xielu, x, *alphas, 0.5, -1e-6)
    torch.testing.assert_close(found, made._xielu_python(x).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 5, 32])
def test_heads_are_gated(table, width):
    x, gate = rows(6, 3 * width), rows(6, 3, seed=1)
    step = step_of(x)
    found = ops.without_valid_rows(ops.gate_heads(gated(x, step), gated(gate, step)))
    wanted = (x.view(6, 3, width) * torch.sigmoid(gate)[..., None]).view(6, -1)
    torch.testing.assert_close(torch.from_numpy(found.asnumpy()), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("columns", [40, 19, 0])
def test_columns_are_scaled_by_their_tokens_positions(table, columns):
    x, factors, positions = rows(4, 40), rows(9, seed=1), [8, 0, 3, 3]
    step = step_of(x, positions=positions)
    factor = bridge.to_mindspore(factors)
    found = ops.without_valid_rows(ops.scale_by_position(gated(x, step), factor, step, columns))
    wanted = x.clone()
    wanted[:, :columns] *= factors[positions][:, None]
    torch.testing.assert_close(torch.from_numpy(found.asnumpy()), wanted, atol=1e-6, rtol=1e-6)


def test_gates_are_bounded_behind_silu_and_values_on_both_sides(table):
    gate_up = rows(7, 38) * 3
    gate, up = gate_up.chunk(2, -1)
    wanted = torch.nn.functional.silu(gate).clamp(max=0.9) * up.clamp(-0.9, 0.9)
    found = run(ops.silu_and_mul_clamped, gate_up, 0.9)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_a_loaded_factor_scales(table):
    x, factor = rows(4, 19), rows(1, seed=1)
    found = run(ops.scale_by, x, bridge.to_mindspore(factor))
    torch.testing.assert_close(found, x * factor, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("half", [5, 9])
def test_queries_are_normalized_and_turned_by_their_positions(table, half):
    size, positions = 18, [8, 0, 3, 3]
    x, norm, angles = rows(4, 3 * size), rows(size, seed=1), rows(9, half, seed=2)
    step = step_of(x, positions=positions)
    given = [bridge.to_mindspore(tensor) for tensor in (norm, angles.cos(), angles.sin())]
    found = ops.without_valid_rows(ops.turn_queries(gated(x, step), given[0], 3e-3, *given[1:], step))
    wanted = torch.nn.functional.rms_norm(x.view(4, 3, size), (size,), norm, 3e-3)
    turned = torch.complex(wanted[..., :half], wanted[..., half : 2 * half]) * torch.polar(
        torch.ones(4, 1, half), angles[positions][:, None]
    )
    wanted = torch.cat([turned.real, turned.imag, wanted[..., 2 * half :]], -1).view(4, -1)
    torch.testing.assert_close(torch.from_numpy(found.asnumpy()), wanted, atol=1e-5, rtol=1e-5)

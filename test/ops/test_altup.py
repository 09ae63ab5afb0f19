"""Streams and sparse activations of every table against transformers' layers, or against numpy."""

import numpy as np
import pytest
import torch
from ops.numpy_reference import call, close, draw
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nTextConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextAltUp, Gemma3nTextMLP

from sglang.srt.layers_ms import ops

SECONDS = 5
pytestmark = pytest.mark.usefixtures("table")
SIZE, STREAMS, ACTIVE = 37, 3, 1


@pytest.fixture
def altup():
    sizes = dict(num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, intermediate_size=8)
    config = Gemma3nTextConfig(
        hidden_size=SIZE, altup_num_inputs=STREAMS, altup_active_idx=ACTIVE, num_kv_shared_layers=0, **sizes
    )
    layer = Gemma3nTextAltUp(config).double()
    torch.manual_seed(3)
    for parameter in layer.parameters():
        parameter.data.normal_()
    return layer


def modalities(altup, x):
    return altup.compute_router_modalities(torch.from_numpy(x).double()[None])


@torch.no_grad()
def test_streams_are_predicted_as_transformers_does_it(altup):
    x = draw(5, STREAMS * SIZE)
    streams = torch.from_numpy(x).double().reshape(5, STREAMS, SIZE).transpose(0, 1)[:, None]
    weights = altup.prediction_coefs(modalities(altup, x[:, SIZE : 2 * SIZE]))[0].float().numpy()
    wanted = altup.predict(streams)[:, 0].transpose(0, 1).reshape(5, -1).float().numpy()
    close(call(ops.mix_streams, [x, weights], (), (STREAMS,)), wanted)


@torch.no_grad()
def test_streams_are_corrected_as_transformers_does_it(altup):
    x, computed = draw(5, STREAMS * SIZE), draw(5, SIZE, seed=1)
    streams = torch.from_numpy(x).double().reshape(5, STREAMS, SIZE).transpose(0, 1)[:, None]
    weights = altup.correction_coefs(modalities(altup, computed))[0].float().numpy()
    innovation = computed - x[:, SIZE : 2 * SIZE]
    wanted = altup.correct(streams, torch.from_numpy(computed).double()[None])[:, 0].transpose(0, 1)
    found = call(ops.add_to_streams, [x, innovation, weights], (), (0, 1.0))
    close(found, wanted.reshape(5, -1).float().numpy())


def test_later_streams_alone_are_added_to():
    x, y = draw(5, STREAMS * SIZE), draw(5, SIZE, seed=1)
    wanted = x.reshape(5, STREAMS, SIZE).copy()
    wanted[:, 1:] += 0.5 * y[:, None]

    def later(x, y, first, offset):
        return ops.add_to_streams(x, y, None, first, offset)

    close(call(later, [x, y], (), (1, 0.5)), wanted.reshape(5, -1))


@pytest.mark.parametrize("index", range(STREAMS))
def test_a_stream_is_taken(index):
    x = draw(4, STREAMS * SIZE)
    found = call(ops.take_stream, [x], (), (SIZE, index))
    np.testing.assert_array_equal(found.asnumpy(), x[:, index * SIZE : (index + 1) * SIZE])


def test_columns_have_factors_of_their_own():
    x, factors = draw(4, SIZE), draw(SIZE, seed=1)
    close(call(ops.scale_columns, [x], [factors]), x * factors)


def test_rows_are_made_as_long_as_others():
    x, like = draw(4, SIZE), draw(4, SIZE, scale=3.0, seed=1)
    x[1] *= 1e-4  # less than what is divided by
    like[2] = 0.0
    found, wanted = np.square(x).mean(-1, keepdims=True), np.square(like).mean(-1, keepdims=True)
    wanted = x * np.sqrt(wanted / np.maximum(found, 1e-5))
    close(call(ops.match_magnitude, [x, like], (), (1e-5,)), wanted)


@torch.no_grad()
@pytest.mark.parametrize("sparsity", [0.3, 0.95])
def test_activations_are_cut_off_as_transformers_does_it(sparsity):
    gate, up = draw(6, 83) + 0.4, draw(6, 83, seed=1)
    config = Gemma3nTextConfig(hidden_size=83, intermediate_size=83, num_hidden_layers=1, num_attention_heads=1)
    config.activation_sparsity_pattern = [sparsity]
    mlp = Gemma3nTextMLP(config).double()
    left = mlp._gaussian_topk(torch.from_numpy(gate).double())
    wanted = torch.nn.functional.gelu(left, approximate="tanh").numpy() * up
    both = np.concatenate([gate, up], -1).astype(np.float32)
    moments = call(ops.gate_moments, [both])
    close(moments, np.stack([gate.sum(-1), np.square(gate).sum(-1)], -1))
    deviations = torch.distributions.Normal(0, 1).icdf(torch.tensor(sparsity)).item()
    found = call(ops.sparse_gelu_and_mul, [both, moments.asnumpy()], (), (83, deviations))
    close(found, wanted)
    assert 0 < (wanted != 0).mean() < 0.9

"""A method may wrap another one, as adapters do: what a layer multiplies by changes, and no layer."""

import numpy as np
import pytest
from models.harness import PagedModel, Requests, assert_logits_close
from models.test_logits import LIMITS, mixed_batch, prompts
from models.tiny import save

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.quantization import LINEAR, LinearMethod, QuantizationConfig
from sglang.srt.layers_ms.quantization.formats import F32, Encoding
from sglang.srt.layers_ms.quantization.unquantized import unquantized
from sglang.srt.model_loader_ms.weight_slice import parameter
from sglang.srt.models_ms.llama import LlamaForCausalLM

SECONDS = 8
RANK = 3


class WithDelta(LinearMethod):
    """method(x) + x A^T B^T"""

    def __init__(self, method):
        self.method = method

    def parameters(self, layer):
        return self.method.parameters(layer)

    def create_parameters(self, layer):
        self.method.create_parameters(layer)
        rows, columns = layer.matrix.shape
        layer.delta_a = parameter((RANK, columns), layer.matrix.dtype)
        layer.delta_b = parameter((rows, RANK), layer.matrix.dtype)

    def process_weights_after_loading(self, layer):
        self.method.process_weights_after_loading(layer)
        fill(layer, layer.delta_a, layer.delta_b)
        for weight in (layer.delta_a, layer.delta_b):
            ops.prepack_linear(weight)

    def apply(self, layer, x, bias):
        y = self.method.apply(layer, x, bias)
        return ops.add(y, ops.linear(ops.linear(x, layer.delta_a, None), layer.delta_b, None), 1.0)


class Merged(WithDelta):
    """The same in one matrix."""

    def create_parameters(self, layer):
        self.method.create_parameters(layer)

    def process_weights_after_loading(self, layer):
        rows, columns = layer.matrix.shape
        a, b = parameter((RANK, columns), layer.matrix.dtype), parameter((rows, RANK), layer.matrix.dtype)
        fill(layer, a, b)
        layer.weight.host[...] += b.host @ a.host
        self.method.process_weights_after_loading(layer)

    def apply(self, layer, x, bias):
        return self.method.apply(layer, x, bias)


def fill(layer, *weights):
    """With numbers that depend on the layer's shape and sources only."""
    seed = sum(map(ord, "".join(one.source for one in layer.matrix.slices))) + sum(layer.matrix.shape)
    generator = np.random.default_rng(seed)
    for weight in weights:
        weight.host[...] = generator.standard_normal(weight.shape) * 0.3


@pytest.fixture
def logits(table, tmp_path, monkeypatch):
    """Function of what wraps the method of each linear layer -> logits of a small Llama."""
    folder = save("llama-bias", tmp_path)

    def run(wrapper):
        def method(kind, _):
            plain = unquantized(kind)
            return wrapper(plain) if kind == LINEAR else plain

        scheme = QuantizationConfig("wrapped", lambda layer: Encoding(F32), method=method)
        monkeypatch.setattr(LlamaForCausalLM, "quantization", lambda *_: scheme)
        return mixed_batch(Requests(PagedModel(folder), 4), prompts())

    return run


def test_wrapped_methods_give_the_logits_of_merged_weights(logits):
    found, plain = logits(WithDelta), logits(lambda method: method)
    wanted = logits(Merged)
    assert_logits_close(found, wanted, LIMITS["float32"])
    assert all(np.abs(found[name] - plain[name]).max() > 0.1 for name in found)

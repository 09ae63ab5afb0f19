"""Operators stated in numpy, in float64 and in other words than a table's; and how to call a table's."""

import math

import mindspore as ms
import numpy as np
import torch
from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.runner import bridge

EPS = 3e-3
LIMITS = {"float32": 2e-6, "float16": 2**-10, "bfloat16": 2**-7}  # of the largest value; half an ulp is lost at least


def draw(*shape, seed=0, scale=1.0):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


class Compiled(nn.Cell):
    """One operator in a graph, where all of them are used; not all kernels exist outside of one."""

    def __init__(self, operator, constants):
        super().__init__()
        self.operator, self.constants = operator, constants

    @ms.jit(fullgraph=True)
    def construct(self, *tensors):
        return self.operator(*tensors, *self.constants)


def tensor(array):
    """A MindSpore tensor of an array's or a torch tensor's values, in memory of its own."""
    return bridge.to_mindspore(torch.as_tensor(array).clone(memory_format=torch.contiguous_format))


def call(operator, packed, fixed=(), constants=(), prepare=None):
    """Call with arrays whose first axis is that of the packed tokens, arrays of fixed shape, and plain values.

    `prepare` is called with the tensors of fixed shape, copies of the arrays, before.
    """
    network = Compiled(operator, constants)
    packed, fixed = ([tensor(array) for array in arrays] for arrays in (packed, fixed))
    if prepare is not None:
        prepare(*fixed)
    if not ops.capabilities().static_graphs:
        any_rows = [ms.Tensor(shape=[None, *tensor.shape[1:]], dtype=tensor.dtype) for tensor in packed]
        network.set_inputs(*any_rows, *fixed)
    return network(*packed, *fixed)


def close(found, wanted, dtype="float32"):
    """Of this dtype and within its limit of the largest value, shapes included."""
    assert found.dtype == getattr(ms, dtype)
    found = found.astype(ms.float32).asnumpy()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=LIMITS[dtype] * np.abs(wanted).max())


def normalized(x, weight, offset=0.0):
    weight = weight.astype(np.float64) + offset
    groups = x.astype(np.float64).reshape(-1, len(weight))
    return np.stack([row / math.sqrt(np.dot(row, row) / len(row) + EPS) * weight for row in groups]).reshape(x.shape)


def centered(x, weight):
    """Layer norm without bias, of every group."""
    groups = x.astype(np.float64).reshape(-1, len(weight))
    return np.stack([(row - row.mean()) / math.sqrt(row.var() + EPS) * weight for row in groups]).reshape(x.shape)


def embedded(ids, weight, first):
    rows = range(first, first + len(weight))
    return np.stack([weight[i - first] if i in rows else np.zeros(weight.shape[1]) for i in ids])


def product(x, weight):
    return np.einsum("ti,oi->to", x.astype(np.float64), weight)


def silu(x):
    return x / (1 + math.exp(-x))


def gelu(x):
    return x * 0.5 * math.erfc(-x / math.sqrt(2))


def gelu_tanh(x):
    return x * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {"silu_and_mul": silu, "gelu_and_mul": gelu, "gelu_tanh_and_mul": gelu_tanh}

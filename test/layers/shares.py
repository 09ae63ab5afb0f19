"""Layers of ranks, filled with slices of tensors that are the same for all of them."""

import zlib

import mindspore as ms
import numpy as np
from mindspore import nn

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import GatedMLP
from sglang.srt.layers_ms.quantization import MethodLayer, create_parameters
from sglang.srt.model_loader_ms.loader import tensors_of

HIDDEN, INTERMEDIATE, HEADS, HEAD_DIM, VOCAB = 20, 36, 8, 6, 131
SIZES = [2, 4]


def same(x, *_):
    return x


def to_all(x, weights, experts, *_):
    """Every rank has the rows of all, as it is."""
    return x, weights, experts, None


class Compiled(nn.Cell):
    """step: what the layer is given beside x, of which it reads nothing where all ranks have the same tokens."""

    def __init__(self, layer, step=None):
        super().__init__()
        self.layer, self.step = layer, step

    @ms.jit(fullgraph=True)
    def construct(self, x):
        return self.layer(x) if self.step is None else self.layer(x, self.step)


def draw(name, shape):
    """Random numbers that depend on a name and a shape only."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def fill(network, tensors=None):
    """Give every parameter its slices of checkpoint tensors that are the same for all ranks, and pack them."""
    load(network, tensors)
    for _, cell in network.cells_and_names():
        if hasattr(cell, "process_weights_after_loading"):
            cell.process_weights_after_loading()


def without_parameters(network) -> bool:
    """Whether its layers have no methods yet."""
    return not all(hasattr(cell, "method") for _, cell in network.cells_and_names() if isinstance(cell, MethodLayer))


def load(network, tensors=None):
    if without_parameters(network):
        create_parameters(network)
    for item in tensors_of(network):
        shape = item.whole or item.host.shape
        whole = (tensors or {}).get(item.source, draw(item.source, shape))
        assert whole.shape == shape
        item.host[...] = whole[item.read]


def run(layer, x, tensors=None):
    network = Compiled(layer, {} if isinstance(layer, GatedMLP) else None)
    fill(network, tensors)
    return network(ms.Tensor(x)).asnumpy()


def ranks(size, expert_size=1):
    return [Shard(rank, size, "ranks", expert_size) for rank in range(size)]


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())

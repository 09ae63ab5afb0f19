"""A parameter's storage is one numpy buffer that MindSpore computes on and the loader writes to."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

SECONDS = 1
DTYPES = [ms.float32, ms.float16, ms.bfloat16, ms.int8, ms.int32]
one_a_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


class Add(nn.Cell):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    @ms.jit(fullgraph=True)
    def construct(self, x):
        return x + self.weight


@one_a_dtype
def test_a_parameter_computes_on_its_host_buffer(dtype):
    param = parameter((5, 7), dtype)
    assert (param.shape, param.dtype) == ((5, 7), dtype)
    assert param.data_ptr() == param.host.ctypes.data


@one_a_dtype
def test_a_compiled_graph_sees_what_is_written_to_the_host_buffer_later(dtype):
    param, x = parameter((5, 7), dtype), ms.Tensor(np.full((5, 7), 1), dtype)
    net = Add(param)
    before = net(x).astype(ms.float32).asnumpy()
    param.host[3] = ms.Tensor([2.0], ms.float32).view(ms.int16).asnumpy()[1] if dtype == ms.bfloat16 else 2
    after = net(x).astype(ms.float32).asnumpy()
    np.testing.assert_array_equal(before, np.ones((5, 7)))
    np.testing.assert_array_equal(after, np.ones((5, 7)) + 2 * (np.arange(5) == 3)[:, None])
    assert param.data_ptr() == param.host.ctypes.data


@one_a_dtype
def test_a_new_parameter_reads_as_zeros(dtype):
    assert not parameter((130, 33), dtype).astype(ms.float32).asnumpy().any()


@pytest.mark.parametrize("shape", [(3,), (5, 7), (2, 3, 5)])
def test_storage_starts_at_a_cache_line(shape):
    assert [parameter(shape, dtype).data_ptr() % 64 for dtype in DTYPES] == [0] * len(DTYPES)


def test_a_parameter_remembers_its_pieces_and_takes_no_gradient():
    slices = WeightSlice("a.weight", (slice(None),)), WeightSlice("../b.weight", (slice(2, 4),), slice(1, 3), (9,))
    param = parameter((3,), ms.float32, *slices)
    assert param.slices == slices
    assert not param.requires_grad

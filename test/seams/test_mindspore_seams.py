"""What we rely on in MindSpore 2.10.0, and what we work around; each test names one seam.

A workaround's test is expected to fail: where it passes, with a later MindSpore, the workaround can go.
"""

from typing import NamedTuple

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor, mint, mutable, nn
from mindspore import ops as stock
from mindspore.graph.api import ms_compile_cache
from mindspore.utils.dlpack import from_dlpack, to_dlpack
from torch.utils import dlpack

SECONDS = 2
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int32, torch.int64]
one_a_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(scope="module", autouse=True)
def blocking():
    """As every server runs MindSpore."""
    ms.runtime.launch_blocking()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A graph that does not compile leaves its notes in the working directory."""
    monkeypatch.chdir(tmp_path)


def works_around(what, raises):
    return pytest.mark.xfail(strict=True, raises=raises, reason=f"MindSpore 2.10.0 {what}")


def test_the_version_is_the_one_these_seams_were_tried_with():
    assert ms.__version__ == "2.10.0"


# ---- memory ----


@one_a_dtype
def test_dlpack_takes_torch_memory(dtype):
    source = torch.zeros(3, 5).to(dtype)
    tensor = from_dlpack(dlpack.to_dlpack(source))
    assert tensor.data_ptr() == source.data_ptr()
    source[1, 2] = 1
    assert tensor.astype(ms.float32).asnumpy()[1, 2] == 1


@one_a_dtype
def test_dlpack_gives_memory_to_torch(dtype):
    source = from_dlpack(dlpack.to_dlpack(torch.ones(3, 5).to(dtype))) * 1
    tensor = dlpack.from_dlpack(to_dlpack(source))
    assert (tensor.dtype, tensor.data_ptr()) == (dtype, source.data_ptr())


@works_around("has no bool in DLPack", RuntimeError)
def test_dlpack_takes_bool():
    from_dlpack(dlpack.to_dlpack(torch.zeros(3, dtype=torch.bool)))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_])
def test_from_numpy_shares_memory(dtype):
    array = np.zeros((3, 5), dtype)
    tensor = Tensor.from_numpy(array)
    array[1, 2] = 1
    assert tensor.data_ptr() == array.ctypes.data
    assert tensor.asnumpy()[1, 2] == 1


def test_a_tensor_can_be_moved_and_keeps_its_bits():
    """Its documentation says that it goes after 2.9; weights move to a card by it."""
    tensor = Tensor.from_numpy(np.array([[0x3F80, -0x4000]], np.int16)).view(ms.bfloat16)
    moved = tensor.move_to("CPU")
    assert moved.dtype == ms.bfloat16
    np.testing.assert_array_equal(moved.astype(ms.float32).asnumpy(), [[1.0, -2.0]])
    with pytest.raises(ValueError, match="one of .*Ascend"):
        tensor.move_to("npu")


def test_view_reads_the_same_bits_as_another_dtype():
    array = np.array([[0x3F80, -0x4000]], np.int16)  # 1.0 and -2.0 as bfloat16
    tensor = Tensor.from_numpy(array).view(ms.bfloat16)
    assert tensor.data_ptr() == array.ctypes.data
    np.testing.assert_array_equal(tensor.astype(ms.float32).asnumpy(), [[1.0, -2.0]])


def test_assign_value_adopts_memory():
    array = np.zeros((3, 5), np.float32)
    parameter = Parameter(Tensor(np.zeros(1, np.float32)), name="adopting", requires_grad=False)
    parameter.assign_value(Tensor.from_numpy(array))
    array[1, 2] = 1
    assert parameter.data_ptr() == array.ctypes.data
    assert parameter.asnumpy()[1, 2] == 1


@works_around("copies the tensor that a Parameter is made of", AssertionError)
def test_a_parameter_shares_the_memory_of_its_tensor():
    tensor = Tensor.from_numpy(np.zeros((3, 5), np.float32))
    assert Parameter(tensor, name="made").data_ptr() == tensor.data_ptr()


# ---- order of writes ----


def test_launch_blocking_finishes_an_operator_before_torch_writes_to_its_input():
    source = torch.ones(512, 512)
    tensor, results = from_dlpack(dlpack.to_dlpack(source)), []
    for value in range(8):
        source.fill_(value)
        results.append(stock.matmul(tensor, tensor))
    source.fill_(-1)
    assert [float(result[0, 0]) for result in results] == [512.0 * value**2 for value in range(8)]


class Scatter(nn.Cell):
    """Rows written at slots of caches that are arguments, and the written rows read back."""

    @ms.jit(fullgraph=True)
    def construct(self, caches, slots, rows):
        written = stock.scatter_update(caches[1], slots, rows)
        return stock.gather(written, slots, 0) + 0.0


def test_scatter_update_writes_mutable_parameters_in_place_once_the_result_is_read():
    buffers = torch.zeros(2, 8, 3)
    caches = [Parameter(Tensor(np.zeros(1, np.float32)), name=f"seam_cache_{i}") for i in range(2)]
    for cache, buffer in zip(caches, buffers, strict=True):
        cache.assign_value(from_dlpack(dlpack.to_dlpack(buffer)))
    caches, network = mutable(tuple(caches)), Scatter()
    network.set_inputs(caches, Tensor(shape=[None], dtype=ms.int32), Tensor(shape=[None, 3], dtype=ms.float32))
    wanted = buffers.clone()
    for slots in ([5], [0, 7, 2]):
        rows = np.full((len(slots), 3), len(slots), np.float32)
        # A graph may return before it has run, blocking or not: reading its result is what waits.
        np.testing.assert_array_equal(network(caches, Tensor(np.array(slots, np.int32)), Tensor(rows)).asnumpy(), rows)
        wanted[1, slots] = torch.from_numpy(rows)
        assert buffers.equal(wanted)


# ---- compiling ----


class Twice(nn.Cell):
    @ms.jit(fullgraph=True)
    def construct(self, x):
        return x + x


def run(network, rows):
    return network(Tensor(np.ones((rows, 3), np.float32))).asnumpy()


def test_the_compile_cache_grows_with_every_shape_that_is_compiled():
    network, before = Twice(), len(ms_compile_cache)
    for rows, compiled in ((1, 1), (2, 2), (1, 2), (2, 2)):
        run(network, rows)
        assert len(ms_compile_cache) == before + compiled


def test_set_inputs_with_dynamic_axes_compiles_once_for_all_lengths():
    network, before = Twice(), len(ms_compile_cache)
    network.set_inputs(Tensor(shape=[None, 3], dtype=ms.float32))
    for rows in (1, 2, 7, 1, 64):
        np.testing.assert_array_equal(run(network, rows), np.full((rows, 3), 2.0))
    assert len(ms_compile_cache) == before + 1


class Nested(nn.Cell):
    """A tuple of tensors goes in, a dict is built inside."""

    @ms.jit(fullgraph=True)
    def construct(self, x, others):
        step = {"x": x, "others": others}
        return step["x"] + step["others"][1].sum()


def test_a_mutable_tuple_of_dynamic_tensors_and_a_dict_inside_compile_once():
    def any_shape(rank):
        return Tensor(shape=[None] * rank, dtype=ms.int32)

    network, before = Nested(), len(ms_compile_cache)
    network.set_inputs(any_shape(1), mutable((any_shape(1), any_shape(2))))
    for size in (1, 4, 9):
        x, square = np.arange(size, dtype=np.int32), np.ones((size, 2), np.int32)
        found = network(Tensor(x), mutable((Tensor(x), Tensor(square))))
        np.testing.assert_array_equal(found.asnumpy(), x + 2 * size)
    assert len(ms_compile_cache) == before + 1


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


class AddPair(nn.Cell):
    @ms.jit(fullgraph=True)
    def construct(self, pair):
        return pair.left + pair.right


@works_around("compiles again at each call with a NamedTuple", AssertionError)
def test_a_named_tuple_compiles_once():
    network, before = AddPair(), len(ms_compile_cache)
    for _ in range(3):
        network(Pair(Tensor(np.ones(3, np.float32)), Tensor(np.ones(3, np.float32)))).asnumpy()
    assert len(ms_compile_cache) == before + 1


class Unsupported(nn.Cell):
    @ms.jit(fullgraph=True)
    def construct(self, x):
        return x + np.random.default_rng(0).standard_normal(3)


def test_fullgraph_refuses_what_cannot_be_compiled():
    with pytest.raises(ValueError, match="in graph mode"):
        Unsupported()(Tensor(np.ones(3, np.float32)))


# ---- operators on a CPU ----


@works_around("has no bfloat16 matmul on a CPU", TypeError)
def test_bfloat16_is_computed():
    mint.matmul(Tensor(np.ones((3, 3)), ms.bfloat16), Tensor(np.ones((3, 3)), ms.bfloat16)).astype(ms.float32).asnumpy()


@works_around("cannot gather bfloat16 rows on a CPU", TypeError)
def test_bfloat16_rows_are_gathered():
    stock.gather(Tensor(np.ones((3, 3)), ms.bfloat16), Tensor([1]), 0).astype(ms.float32).asnumpy()


@works_around("cannot write bfloat16 rows on a CPU", TypeError)
def test_bfloat16_rows_are_written():
    cache = Parameter(Tensor(np.ones((3, 3)), ms.bfloat16), name="bfloat16_cache")
    stock.scatter_update(cache, Tensor([1]), Tensor(np.zeros((1, 3)), ms.bfloat16)).astype(ms.float32).asnumpy()


@works_around("has a tanh that is off by 1e-4", AssertionError)
def test_tanh_is_exact():
    x = np.linspace(-6, 6, 10001, dtype=np.float32)
    np.testing.assert_allclose(mint.tanh(Tensor(x)).asnumpy(), np.tanh(x.astype(np.float64)), atol=1e-6)


def test_sigmoid_is_exact():
    x = np.linspace(-12, 12, 10001, dtype=np.float32)
    np.testing.assert_allclose(mint.sigmoid(Tensor(x)).asnumpy(), 1 / (1 + np.exp(-x.astype(np.float64))), atol=2e-6)

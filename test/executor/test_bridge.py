"""Tensors cross between torch and MindSpore without a copy, whoever made them and whoever goes first."""

import gc

import mindspore as ms
import numpy as np
import pytest
import torch

from sglang.srt.model_executor_ms.runner import bridge
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

SECONDS = 1
pytestmark = pytest.mark.usefixtures("table")
DTYPES = {
    torch.float32: ms.float32,
    torch.float16: ms.float16,
    torch.bfloat16: ms.bfloat16,
    torch.int8: ms.int8,
    torch.uint8: ms.uint8,
    torch.int32: ms.int32,
    torch.int64: ms.int64,
    torch.bool: ms.bool_,
}
one_a_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def some(dtype, shape=(3, 5)):
    return (torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape) % 2 == 1).to(dtype)


def numbers(tensor):
    """The values of a tensor of either framework; float32 holds all that are used here."""
    if isinstance(tensor, torch.Tensor):
        return tensor.float().numpy().copy()
    return tensor.astype(ms.float32).asnumpy().copy()


@one_a_dtype
@pytest.mark.parametrize("shape", [(3, 5), (1,), (2, 1, 4)])
def test_torch_to_mindspore_keeps_shape_dtype_values_and_address(dtype, shape):
    tensor = some(dtype, shape)
    crossed = bridge.to_mindspore(tensor)
    assert (crossed.shape, crossed.dtype) == (shape, DTYPES[dtype])
    assert crossed.data_ptr() == tensor.data_ptr()
    np.testing.assert_array_equal(numbers(crossed), numbers(tensor))


@one_a_dtype
@pytest.mark.parametrize("shape", [(3, 5), (1,), (2, 1, 4)])
def test_mindspore_to_torch_keeps_shape_dtype_values_and_address(dtype, shape):
    tensor = ms.Tensor(some(torch.float32, shape).numpy()).astype(DTYPES[dtype])
    crossed = bridge.to_torch(tensor)
    assert (tuple(crossed.shape), crossed.dtype) == (shape, dtype)
    assert crossed.data_ptr() == tensor.data_ptr()
    np.testing.assert_array_equal(numbers(crossed), some(torch.float32, shape).numpy())


@one_a_dtype
def test_a_view_of_the_host_is_a_tensors_memory_and_keeps_it(dtype):
    tensor = some(dtype)
    view = bridge.host_view(tensor)
    assert (view.shape, view.dtype, view.data_ptr()) == ((3, 5), DTYPES[dtype], tensor.data_ptr())
    tensor[1] = tensor[0]
    wanted = numbers(tensor)
    del tensor
    gc.collect()
    np.testing.assert_array_equal(numbers(view), wanted)
    with pytest.raises(bridge.BridgeError, match="contiguous"):
        bridge.host_view(some(dtype).t())


def test_bools_of_a_device_are_refused_before_they_are_read_on_the_host():
    with pytest.raises(bridge.BridgeError, match="a bool tensor on meta: .* cast it first"):
        bridge.to_mindspore(torch.zeros(2, dtype=torch.bool, device="meta"))


@one_a_dtype
def test_a_write_of_torch_is_read_by_mindspore(dtype):
    tensor = torch.zeros(3, 5, dtype=dtype)
    crossed = bridge.to_mindspore(tensor)
    tensor[1, 2] = 1
    assert numbers(crossed)[1, 2] == 1
    assert numbers(crossed).sum() == 1


@one_a_dtype
def test_a_write_of_torch_reaches_the_mindspore_tensor_it_came_from(dtype):
    tensor = ms.Tensor(np.zeros((3, 5))).astype(DTYPES[dtype])
    bridge.to_torch(tensor)[1, 2] = 1
    assert numbers(tensor)[1, 2] == 1
    assert numbers(tensor).sum() == 1


@one_a_dtype
def test_a_write_of_mindspore_is_read_by_torch(dtype):
    tensor = torch.zeros(3, 5, dtype=dtype)
    bridge.to_mindspore(tensor).copy_(ms.Tensor(some(torch.float32).numpy()).astype(DTYPES[dtype]))
    np.testing.assert_array_equal(numbers(tensor), numbers(some(dtype)))


def churn():
    """Reuse freed memory, on both sides."""
    gc.collect(1)  # cycles among what was made lately
    for _ in range(20):
        torch.full((1 << 12,), 7.0)
        np.full(1 << 12, 9.0, np.float32)
        ms.Tensor(np.full(1 << 12, 8.0, np.float32)) + 1


@one_a_dtype
def test_what_mindspore_sees_outlives_the_torch_tensor(dtype):
    crossed = [bridge.to_mindspore(some(dtype, (64, 64))) for _ in range(8)]
    churn()
    for tensor in crossed:
        np.testing.assert_array_equal(numbers(tensor), numbers(some(dtype, (64, 64))))


@one_a_dtype
def test_what_torch_sees_outlives_the_mindspore_tensor(dtype):
    ones = some(torch.float32, (64, 64)).numpy()
    crossed = [bridge.to_torch(ms.Tensor(ones).astype(DTYPES[dtype])) for _ in range(8)]
    churn()
    for tensor in crossed:
        np.testing.assert_array_equal(numbers(tensor), ones)


@one_a_dtype
def test_dropping_a_crossed_tensor_leaves_its_source_usable(dtype):
    source = some(dtype, (64, 64))
    back = ms.Tensor(some(torch.float32, (64, 64)).numpy()).astype(DTYPES[dtype])
    for _ in range(8):
        bridge.to_mindspore(source)
        bridge.to_torch(back)
    churn()
    np.testing.assert_array_equal(numbers(source), numbers(some(dtype, (64, 64))))
    np.testing.assert_array_equal(numbers(back), some(torch.float32, (64, 64)).numpy())


@one_a_dtype
def test_there_and_back_is_the_same_memory(dtype):
    tensor = some(dtype)
    assert bridge.to_torch(bridge.to_mindspore(tensor)).data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize(
    "view", [lambda t: t.T, lambda t: t[:, ::2], lambda t: t[:, 1:3]], ids=["T", "step", "columns"]
)
def test_a_torch_tensor_that_is_not_contiguous_is_refused_with_its_shape_and_strides(view):
    tensor = view(torch.zeros(4, 6))
    with pytest.raises(bridge.BridgeError) as error:
        bridge.to_mindspore(tensor)
    assert f"shape {tuple(tensor.shape)} has strides {tensor.stride()}" in str(error.value)
    assert "contiguous()" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool], ids=str)
def test_a_contiguous_part_of_a_buffer_crosses_at_its_place(dtype):
    buffer = torch.zeros(8, 4, dtype=dtype)
    crossed = bridge.to_mindspore(buffer[2:5])
    buffer[2:5] = some(dtype, (3, 4))
    assert crossed.data_ptr() == buffer[2:].data_ptr()
    np.testing.assert_array_equal(numbers(crossed), numbers(some(dtype, (3, 4))))


def test_a_tensor_that_takes_gradients_crosses_as_its_values():
    tensor = torch.ones(3, requires_grad=True)
    assert bridge.to_mindspore(tensor).data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16, ms.bfloat16], ids=str)
def test_a_parameter_crosses_as_the_memory_that_the_loader_fills(dtype):
    param = parameter((3, 5), dtype, WeightSlice("weight", (slice(None), slice(None))))
    crossed = bridge.to_torch(param)
    param.host[1, 2] = 1
    assert crossed.data_ptr() == param.host.ctypes.data
    assert crossed.view(torch.uint8).count_nonzero() > 0
    assert crossed.count_nonzero() == 1


def test_int32_takes_integers_of_any_kind_and_shares_int32():
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert bridge.int32(array).data_ptr() == array.ctypes.data
    for other in (array.astype(np.int64), array.T, [[0, 1], [2, 3]], range(4)):
        crossed = bridge.int32(other)
        assert crossed.dtype == ms.int32
        np.testing.assert_array_equal(crossed.asnumpy(), np.asarray(other))

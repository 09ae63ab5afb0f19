"""Tensors as the kernels that check read them."""

import weakref

import mindspore as ms
import numpy as np

from sglang.srt.layers_ms.ops.ascend_reference import memory

SECONDS = 1


def test_memory_that_is_read_is_no_other_tensors_meanwhile():
    array = np.arange(6, dtype=np.int32)
    owner = weakref.ref(array)
    part = memory.stored(ms.Tensor.from_numpy(array)).reshape(2, 3)[1]  # the tensor itself is gone
    del array
    assert owner() is not None
    assert part.tolist() == [3, 4, 5]
    del part
    assert owner() is None

"""The Ascend table's collectives: MindSpore infers what they return, and simulated ranks get what they should."""

import mindspore as ms
import numpy as np
import pytest
from ascend.inference import Inferred, lacking, like
from mindspore.ops.operations import comm_ops

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.ascend import collectives as operators
from sglang.srt.layers_ms.ops.ascend import kernels_collectives as kernels
from sglang.srt.layers_ms.ops.ascend_reference import collectives
from sglang.srt.layers_ms.ops.ascend_reference.memory import ContractError, tensor, values

SECONDS = 1
RANKS, BF16, FP16, FP32, I32 = 2, ms.bfloat16, ms.float16, ms.float32, ms.int32
GROUP = "hccl_world_group"
COUNTS = [(I32, RANKS)] * 2
SUMMED = [(BF16, 6, 32), (BF16, 32, 64), (BF16, 64), (BF16, 1, 6, 64), (BF16, 64)]
KERNELS = {  # kernel: (MindSpore's name of it, tensors, constants)
    "all_reduce": ("AllReduce", [(BF16, 6, 64)], ()),
    "all_gather": ("AllGather", [(BF16, 6, 64)], ()),
    "reduce_scatter": ("ReduceScatter", [(BF16, 6, 64)], ()),
    "all_to_all": ("AlltoAllV", [(BF16, 6 * 64), *COUNTS], (64,)),
    "broadcast": ("Broadcast", [(BF16, 6, 64)], (1,)),
    "send": ("Send", [(BF16, 6, 64)], (1,)),
    "receive": ("Receive", [(BF16, 6, 64)], (1,)),
    "matmul_sum_norm": ("MatmulAllReduceAddRmsNorm", SUMMED, (1e-6,)),
}
WRONG = {  # what is wrong: (kernel, tensors, constants)
    "rows that ranks cannot share": ("reduce_scatter", [(BF16, 7, 64)], ()),
    "rows of two axes": ("all_to_all", [(BF16, 6, 64), *COUNTS], (64,)),
    "counts of floating point": ("all_to_all", [(BF16, 6 * 64), (FP32, RANKS), (FP32, RANKS)], (64,)),
    "rows of float32": ("matmul_sum_norm", [(FP32, *shape) for _, *shape in SUMMED], (1e-6,)),
    "a weight [out, in]": ("matmul_sum_norm", [SUMMED[0], (BF16, 64, 32), *SUMMED[2:]], (1e-6,)),
    "a bias of another size": ("matmul_sum_norm", [*SUMMED[:2], (BF16, 32), *SUMMED[3:]], (1e-6,)),
    "a bias of another dtype": ("matmul_sum_norm", [*SUMMED[:2], (FP16, 64), *SUMMED[3:]], (1e-6,)),
    "a residual of two axes": ("matmul_sum_norm", [*SUMMED[:3], (BF16, 6, 64), SUMMED[4]], (1e-6,)),
    "a residual of other rows": ("matmul_sum_norm", [*SUMMED[:3], (BF16, 1, 5, 64), SUMMED[4]], (1e-6,)),
    "a norm of another dtype": ("matmul_sum_norm", [*SUMMED[:4], (FP32, 64)], (1e-6,)),
    "an epsilon of zero": ("matmul_sum_norm", SUMMED, (0.0,)),
}
INFERRED = [
    "rows that ranks cannot share",
    "rows of float32",
]  # MindSpore 2.10 lets the others pass


@pytest.fixture(autouse=True)
def two_ranks(monkeypatch):
    """MindSpore believes that it is the first of two ranks, whose communication was started."""
    monkeypatch.setattr(comm_ops, "get_group_size", lambda *_: RANKS)
    monkeypatch.setattr(comm_ops, "get_rank", lambda *_: 0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_gets_through_inference_and_then_lacks_only_itself(kernel):
    name, shapes, constants = KERNELS[kernel]
    tensors = [like(*shape) for shape in shapes]
    assert lacking(getattr(kernels, kernel), (), tensors, (*constants, GROUP)) == name


def exchanged(x, sent, counted, back, own):
    """There and back, in a step with requests of several tokens."""
    step = {
        "dp_padded": False,
        "dp_sent_rows": sent,
        "dp_valid_rows": counted,
        "dp_returned_rows": back,
        "dp_own_rows": own,
    }
    return operators.reduce_scatter(operators.all_gather(x, step, RANKS, GROUP), step, RANKS, GROUP)


@pytest.mark.parametrize("dtype, name", [(FP32, "ReduceScatter"), (BF16, "Gather")], ids=str)
def test_an_exchange_of_any_numbers_of_rows_gets_through_inference(dtype, name):
    places = [like(I32, rows) for rows in (9, 11, 18, 6)]
    assert lacking(exchanged, [like(dtype, 6, 64), *places]) == name


@pytest.mark.parametrize("wrong", INFERRED)
def test_a_wrong_call_does_not_get_through_inference(wrong):
    kernel, shapes, constants = WRONG[wrong]
    with pytest.raises((Inferred, TypeError, ValueError)):
        lacking(getattr(kernels, kernel), (), [like(*shape) for shape in shapes], (*constants, GROUP))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_call_is_caught(checked, wrong):
    kernel, shapes, constants = WRONG[wrong]
    with pytest.raises(ContractError):
        getattr(collectives, kernel)(*map(small, shapes), *constants, joined(0, 2, lambda _: np.ones((7, 64))))


def small(shape):
    dtype, *sizes = shape
    return tensor(np.ones(sizes, np.float32), dtype)


def joined(rank, size, shared):
    """The name of a group of so many ranks, of which this is one; shared(rank): what each gives the others."""

    def gather(mine):
        found = [shared(each) for each in range(size)]
        found[rank] = mine
        return found

    ops.init_group(f"of rank {rank}", rank, size, gather)
    return f"of rank {rank}"


@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=str)
@pytest.mark.parametrize("rank", range(3))
def test_a_rank_gets_what_it_should_of_what_others_have(checked, rank, dtype):
    size, width = 3, 8
    x = np.random.default_rng(0).integers(-9, 9, (size, 6, width)).astype(np.float32)  # exact, and so are the sums
    counts = np.array([[1, 2, 3], [0, 4, 2], [3, 3, 0]])  # rows from each to each
    mine, group = tensor(x[rank], dtype), joined(rank, size, lambda each: x[each])
    found = [
        ops.all_reduce(mine, group),
        ops.all_gather(mine, {"dp_padded": True}, size, group),
        ops.reduce_scatter(mine, {"dp_padded": True}, size, group),
        ops.broadcast(mine, 2, group),
    ]
    joined(rank, size, lambda each: (x[each].reshape(-1), counts[each] * width))
    sent, received = (ms.Tensor(found.astype(np.int32)) for found in (counts[rank], counts[:, rank]))
    found.append(ops.all_to_all(mine, sent, received, 0, group))
    starts = np.concatenate([np.zeros((size, 1), int), counts.cumsum(1)], 1)
    pieces = [x[other, starts[other, rank] : starts[other, rank + 1]] for other in range(size)]
    wanted = [x.sum(0), x.reshape(-1, width), x.sum(0)[2 * rank : 2 * rank + 2], x[2], np.concatenate(pieces)]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(values(one), other)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_the_kernel_of_product_sum_and_norm_has_two_four_or_eight_ranks(checked, ranks):
    group = joined(0, ranks, lambda _: np.ones((6, 64), np.float32))
    arguments = [*map(small, SUMMED), 1e-6, group]
    if ranks != 3:
        norm, total = collectives.matmul_sum_norm(*arguments)
        assert norm.shape == total.shape == (1, 6, 64)
    else:
        with pytest.raises(ContractError, match="3 ranks"):
            collectives.matmul_sum_norm(*arguments)


@pytest.mark.parametrize("rank", range(3))
def test_replicas_of_uneven_numbers_of_rows_get_all_rows_and_their_own_sums(checked, rank):
    counts, width, generator = (2, 0, 5), 8, np.random.default_rng(0)
    rows = [generator.integers(-9, 9, (max(count, 1), width)).astype(np.float32) for count in counts]  # one is padding
    plans = [operators.exchange(counts, len(own)) for own in rows]
    step = {"dp_padded": False} | {name: ms.Tensor(array) for name, array in plans[rank].items()}
    group = joined(rank, 3, lambda each: rows[each][plans[each]["dp_sent_rows"]])
    found = ops.all_gather(tensor(rows[rank], FP32), step, 3, group)
    np.testing.assert_array_equal(values(found), np.concatenate([rows[0], rows[2]]))
    partial = [values(found) * (each + 1) for each in range(3)]
    group = joined(rank, 3, lambda each: partial[each][plans[each]["dp_returned_rows"]])
    found = ops.reduce_scatter(tensor(partial[rank], FP32), step, 3, group)
    assert found.shape == rows[rank].shape
    np.testing.assert_array_equal(values(found)[: counts[rank]], 6 * rows[rank][: counts[rank]])


def test_a_rank_receives_what_another_one_sends_to_it(checked):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    group = joined(1, 2, lambda _: (1, x))
    np.testing.assert_array_equal(values(ops.receive(tensor(0 * x, FP32), 0, group)), x)
    group = joined(1, 2, lambda _: (0, x))
    with pytest.raises(ContractError, match=r"rank 0 sends \(3, 4\) to 0"):
        ops.receive(tensor(x, FP32), 0, group)
    np.testing.assert_array_equal(values(ops.send(tensor(x, FP32), 0, group)), x)


def test_a_rank_that_sends_another_number_of_rows_is_caught(checked):
    x, counts = np.ones((2, 4), np.float32), ms.Tensor(np.array([1, 1], np.int32))
    group = joined(0, 2, lambda _: (x.reshape(-1), np.array([8, 0])))
    with pytest.raises(ContractError, match=r"ranks send \[4, 8\] values, \[4, 4\] are expected"):
        ops.all_to_all(tensor(x, FP32), counts, counts, 0, group)

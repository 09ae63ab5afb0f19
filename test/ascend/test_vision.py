"""Operators of vision towers on the Ascend table, whose kernels check what they are given, against the reference."""

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from ascend.model import PAGE, NpuModel
from models.harness import Requests
from models.tiny import save
from ops import test_vision
from ops.numpy_reference import draw
from ops.test_vision import attended

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.ascend_reference.memory import ContractError
from sglang.srt.layers_ms.rotary import Rope, mrope_axes, rotary_tables
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor_ms.npu.graph_runner import DECODE
from sglang.srt.model_executor_ms.runner import device
from sglang.srt.models_ms.vision import grids

SECONDS = 3
HEADS, HEAD = 3, 32
LIMIT = 2**-9  # of the largest value: float16, rounded at each step


@pytest.fixture(scope="module", autouse=True)
def table(checked):
    device.start("cpu", "ascend_reference")


def half(*shape, seed=0):
    return ms.Tensor(draw(*shape, seed=seed)).astype(ms.float16)


def close(found, wanted):
    found = found.astype(ms.float32).asnumpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=LIMIT * np.abs(wanted).max())


@pytest.mark.parametrize("rotated", [False, True])
def test_rows_attend_within_their_segment(rotated):
    lengths, qkv = [5, 1, 20], half(26, 3 * HEADS * HEAD)
    angles = draw(26, HEAD // 2, seed=1, scale=3.0) if rotated else None
    tables = (None, None) if angles is None else (ms.Tensor(np.cos(angles)), ms.Tensor(np.sin(angles)))
    bounds = ms.Tensor(grids.bounds(lengths))
    found = ops.segment_attention(qkv, *tables, bounds, HEADS, 0.3)
    close(found, attended(qkv.asnumpy().astype(np.float32), angles, lengths, HEADS, 0.3))


def test_three_positions_turn_their_parts_of_each_head():
    rope = Rope("default", 100.0, 16, 64, mrope_section=(4, 2, 2))
    qkv, positions = half(7, 7 * 16), np.random.default_rng(3).integers(0, 60, (3, 7)).astype(np.int32)
    norms = [half(16, seed=1), half(16, seed=2)]
    step = {name: ms.Tensor(row) for name, row in zip(("mrope_t", "mrope_h", "mrope_w"), positions, strict=True)}
    tables = rotary_tables(rope, 60, ms.float16)
    found = ops.mrope(qkv, *norms, test_vision.EPS_OF_HEADS, *tables, ms.Tensor(mrope_axes(rope)), step, 2, 16)
    given = [array.asnumpy().astype(np.float32) for array in (qkv, *norms)]
    close(found, test_vision.turned_by_transformers(given[0], positions, rope, given[1:], 16))


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("size", [24, 72])  # SigLIP's largest tower has heads of 72
def test_heads_that_the_kernel_does_not_take_grow(size, rotated):
    lengths, qkv = [5, 20], half(25, 3 * HEADS * size)
    angles = draw(25, size // 2, seed=1, scale=3.0) if rotated else None
    tables = (None, None) if angles is None else (ms.Tensor(np.cos(angles)), ms.Tensor(np.sin(angles)))
    found = ops.segment_attention(qkv, *tables, ms.Tensor(grids.bounds(lengths)), HEADS, 0.3)
    close(found, attended(qkv.asnumpy().astype(np.float32), angles, lengths, HEADS, 0.3))


def test_heads_that_the_kernel_does_not_take_are_refused():
    with pytest.raises(ContractError, match="heads of 784 values"):
        ops.segment_attention(half(4, 3 * 784), None, None, ms.Tensor(np.array([0, 4], np.int32)), 1, 1.0)


def test_segments_that_end_elsewhere_than_the_rows_are_refused():
    with pytest.raises(ContractError, match=r"segments that end at \(3,\) of 4 rows"):
        ops.segment_attention(half(4, 96), None, None, ms.Tensor(np.array([0, 3], np.int32)), 1, 1.0)


def test_captured_graphs_take_no_rows_in_the_place_of_tokens(tmp_path):
    folder = save("qwen3@16", tmp_path, "float16")
    takes = dict(buckets=(2,), change=lambda model: model.network.model.take_media(0))
    models = [NpuModel(folder, "float16", **more) for more in (dict(buckets=(2,)), takes)]
    runner = models[1].graph.runner
    names = [{field.name for field in graph.layout.model_inputs} for graph in (runner.captured, runner.graphs[DECODE])]
    assert names == [{"input_ids"}, {"input_ids", "media_mask", "media_rows"}]
    wanted, found = (Requests(model, PAGE) for model in models)
    for step in ({"one": np.arange(5), "other": np.arange(2)}, {"one": np.array([7]), "other": np.array([9])}):
        for one, other in zip(wanted.step(step).values(), found.step(step).values(), strict=True):
            np.testing.assert_array_equal(one, other)
    for shown, bucket in ((False, 2), (True, None)):  # a prompt's last token may be an image's
        batch = SimpleNamespace(forward_mode=ForwardMode.EXTEND, contains_mm_inputs=lambda shown=shown: shown)
        assert runner._bucket(DECODE, np.array([3]), batch) == bucket


def test_rows_are_taken_and_put():
    x, y = half(6, 16, seed=2), half(6, 16, seed=3)
    rows = np.array([5, -1, 2], np.int32)
    wanted = np.concatenate([x.asnumpy(), np.zeros((1, 16))])[rows]
    close(ops.take_rows(x, ms.Tensor(rows)), wanted)
    mask = np.array([0, 1, 0, 4, 0, 0], np.int32)
    close(ops.put_rows(x, y, ms.Tensor(mask)), np.where(mask[:, None] != 0, y.asnumpy(), x.asnumpy()))

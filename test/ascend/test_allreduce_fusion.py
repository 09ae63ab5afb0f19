"""Product, sum over the ranks, and norm in one kernel: which sums of a model that computes, and what."""

import json

import mindspore as ms
import numpy as np
import pytest
from ascend.inference import LACKING, lacking, like, tensors_of
from ascend.model import PAGE, NpuStage
from mindspore.ops.operations import comm_ops
from models.harness import Requests
from models.int8 import to_int8
from models.parts import network_of
from models.tiny import TINY, save
from ops.numpy_reference import draw

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.layers_ms import Attention, GatedMLP, MLAAttention, ops
from sglang.srt.layers_ms.fusion import AllReduceRMSNorm
from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.layers_ms.ops.ascend_reference import collectives
from sglang.srt.layers_ms.ops.ascend_reference.memory import ContractError, tensor, values
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.registry import model_class

SECONDS = 15
BF16, FP16 = ms.bfloat16, ms.float16
GROUP, EPS = "hccl_world_group", 1e-2
TOKENS, SIZES = (
    300,
    {  # hidden size, and the inner sizes of attention and MLP
        "Qwen3-32B": (5120, (64 * 128, 25600)),
        "Llama-3-70B": (8192, (64 * 128, 28672)),
    },
)
ONE = Stage()


# ---- MindSpore's inference ----


@pytest.fixture
def two_ranks(bound_before, monkeypatch, tmp_path):
    """MindSpore believes that it is the first of two ranks; it writes what it refuses into the current folder.

    What is bound now is bound again at the end: pytest runs tests of one variant together, wherever they stand.
    """
    for module, names in ((ops, (*ops.NAMES, "_bound")), (kernels, kernels._OWN)):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comm_ops, "get_group_size", lambda *_: 2)
    monkeypatch.setattr(comm_ops, "get_rank", lambda *_: 0)


def without_bias(x, weight, residual, gamma, eps, group):
    return kernels.matmul_sum_norm(x, weight, None, residual, gamma, eps, group)


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("model", SIZES)
def test_products_of_published_models_are_ones_that_only_the_device_is_lacking_for(two_ranks, model, tp, dtype):
    kernels.bind()
    hidden, inner = SIZES[model]
    for size in inner:
        x, weight = like(dtype, TOKENS, size // tp), like(dtype, size // tp, hidden)
        residual, vector = like(dtype, 1, TOKENS, hidden), like(dtype, hidden)
        constants, name = (1e-6, GROUP), "MatmulAllReduceAddRmsNorm"
        assert lacking(without_bias, [x], [weight, residual, vector], constants) == name
        assert lacking(kernels.matmul_sum_norm, [x], [weight, vector, residual, vector], constants) == name


class Uncaptured(NpuStage):
    buckets = ()


@pytest.mark.parametrize("variant", ["qwen3@16", "llama-bias@16", "qwen3_moe@16"])
def test_graphs_of_a_rank_compile_for_every_kind_of_steps(two_ranks, monkeypatch, tmp_path, variant):
    ops.select("ascend")
    ops.start([0])
    monkeypatch.setattr(kernels, "soc", lambda: "ascend910b")
    part = Uncaptured(save(variant, tmp_path, "bfloat16"), ONE, "bfloat16", Shard(0, 2, GROUP))
    assert part.network.model.fused.count
    requests, ids = Requests(part, PAGE), np.arange(40) % 131
    for step in ({"a": ids[:5], "b": ids[:20]}, {"a": ids[:3], "b": ids[:1]}, {"a": ids[:1], "b": ids[:1]}):
        with pytest.raises(TypeError) as error:  # the embedding is the first that a CPU has no kernel for
            requests.step(step)
        found = LACKING.search(str(error.value))
        assert found and found[2] == "Gather", str(error.value)


# ---- what it computes ----


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("kind", [host.FRESH, host.CHUNK, host.DECODE, host.SINGLE_BLOCK])
def test_the_sum_over_the_ranks_is_added_and_normalized(checked, calls, kind, biased, dtype):
    ranks, tokens, inner, out = 4, 5, 16, 24
    x, weight = draw(ranks, tokens, inner), draw(ranks, out, inner, scale=0.3)
    bias, residual, norm = draw(out, seed=1) * biased, draw(tokens, out, seed=2), draw(out, seed=3)
    halves = [values(tensor(array, dtype)) for array in (x, weight, bias, residual, norm)]
    x, weight, bias, residual, norm = (array.astype(np.float64) for array in halves)
    products = np.einsum("rti,roi->rto", x, weight)
    total = products.sum(0) + bias + residual
    wanted = total / np.sqrt((total**2).mean(-1, keepdims=True) + EPS) * norm
    for rank in range(ranks):  # the bias is the first one's

        def gather(mine, rank=rank):
            others = products + np.eye(1, ranks)[0][:, None, None] * bias
            return [mine if each == rank else others[each].astype(np.float32) for each in range(ranks)]

        ops.init_group(GROUP, rank, ranks, gather)
        packed = tensor(weight[rank], dtype)
        ops.prepack_row_linear(packed)
        assert packed.shape == (inner, out)
        own = tensor(bias * (rank == 0), dtype) if biased else None
        arguments = (tensor(x[rank], dtype), packed, own, tensor(residual, dtype), tensor(norm, dtype))
        found = ops.linear_add_rms_norm(*arguments, EPS, kind, GROUP)
        for one, other in zip(found, (wanted, total), strict=True):
            assert one.dtype == dtype and one.shape == (tokens, out)
            limit = {BF16: 2**-6, FP16: 2**-9}[dtype] * np.abs(other).max()
            np.testing.assert_allclose(values(one), other, rtol=0, atol=limit)
    used = {name for name, _ in calls}
    assert ("matmul_sum_norm" in used) != ("all_reduce" in used) == host.decodes(kind)


SHAPES = dict(x=(FP16, 5, 16), weight=(FP16, 16, 24), bias=(FP16, 24), residual=(FP16, 1, 5, 24), gamma=(FP16, 24))


@pytest.mark.parametrize(
    "wrong",
    [
        dict(x=(ms.float32, 5, 16)),
        dict(weight=(FP16, 24, 16)),
        dict(bias=(FP16, 16)),
        dict(residual=(FP16, 5, 24)),
        dict(residual=(FP16, 1, 4, 24)),
        dict(gamma=(BF16, 24)),
        dict(eps=1.0),
        dict(ranks=3),
    ],
    ids=str,
)
def test_what_the_kernel_would_misread_is_caught(checked, monkeypatch, wrong):
    def fuse_all_reduce(ranks=2, eps=EPS, **shapes):
        monkeypatch.setitem(collectives.groups, GROUP, (ranks, lambda mine: [mine] * ranks, 0))
        return collectives.matmul_sum_norm(*tensors_of([*shapes.values()]), eps, GROUP)

    for ranks in (2, 4, 8):
        assert fuse_all_reduce(ranks, **SHAPES)[0].shape == (1, 5, 24)
    with pytest.raises(ContractError, match="MatmulAllReduceAddRmsNorm"):
        fuse_all_reduce(**(SHAPES | wrong))


# ---- which sums of a model ----


@pytest.mark.parametrize(
    "soc, ranks", [("ascend910b", (2, 4, 8)), ("ascend910_93", ()), ("ascend310p", ())], ids=["910B", "910C", "310P"]
)
def test_the_kernel_is_asked_for_where_cann_has_it(monkeypatch, soc, ranks):
    monkeypatch.setattr(kernels, "soc", lambda: soc)
    assert tuple(size for size in range(1, 17) if size in host.capabilities().all_reduce_norm_fusion) == ranks


@pytest.fixture
def left_in(checked, monkeypatch, tmp_path):
    """Function of a variant, and what a rank differs in -> sums that are left to norms: attention's, the MLP's."""

    def left(variant, ranks=2, stage=ONE, prepare=None, allreduce_fusion=True, **shard):
        folder = save(variant, tmp_path / "float", "float16")
        if prepare:
            folder = prepare(folder)
        config = json.loads((folder / "config.json").read_text())
        runtime = Runtime(FP16, 256, Shard(0, ranks, "ranks", **shard), stage, allreduce_fusion)
        network = model_class(config["architectures"])(config, runtime)
        blocks = [cell.block for _, cell in network.cells_and_names() if isinstance(cell, AllReduceRMSNorm)]
        attention = sum(isinstance(block, (Attention, MLAAttention)) for block in blocks)
        return attention, sum(isinstance(block, GatedMLP) for block in blocks)

    return left


@pytest.mark.parametrize("ranks, left", [(1, (0, 0)), (2, (2, 2))])
def test_norms_behind_attention_and_mlp_add_up_what_ranks_have(left_in, ranks, left):
    assert left_in("qwen3@16", ranks) == left


def test_the_last_sum_of_a_stage_is_its_own(left_in):
    assert left_in("qwen3@16", stage=Stage(0, 2)) == (1, 0)
    assert left_in("qwen3@16", stage=Stage(1, 2)) == (1, 1)


@pytest.mark.parametrize(
    "variant", ["gemma@16", "gemma2@16", "glm4@32", "granite-even@16", "olmo2@16", "stablelm@h192"]
)
def test_other_norms_and_other_orders_add_up_as_ever(left_in, monkeypatch, variant):
    monkeypatch.setitem(TINY, "granite-even", TINY["granite"] | {"intermediate_size": 76})
    assert left_in(variant) == (0, 0)


@pytest.mark.parametrize("variant", ["qwen3_moe@16", "gpt_oss@16"])
def test_experts_add_up_as_ever(left_in, variant):
    attention, mlp = left_in(variant)
    assert attention and not mlp


def test_int8_weights_and_attention_replicas_add_up_as_ever_and_so_does_who_asks_for_it(left_in, tmp_path):
    def quantized(folder):
        to_int8(folder, tmp_path / "int8", "compressed-tensors")
        return tmp_path / "int8"

    assert left_in("qwen3@16", prepare=quantized) == (0, 1)  # of the one matrix that stays in float16
    assert left_in("qwen3@16", attn_dp_size=2) == (0, 0)
    assert left_in("qwen3@16", allreduce_fusion=False) == (0, 0)


def test_a_rank_loads_and_packs_its_rows_once(checked, tmp_path):
    collectives.groups["ranks"] = (2, lambda mine: [mine, mine], 0)
    folder = save("qwen3@16", tmp_path, "float16")
    network = network_of(folder, ONE, "float16", Shard(1, 2, "ranks"))
    layer = network.model.layers[0].mlp.down_proj
    shape, plain = layer.weight.shape, layer.weight.host.copy()
    network.process_weights_after_loading()
    assert layer.weight.shape == shape[::-1]
    np.testing.assert_array_equal(layer.weight.asnumpy(), plain.T)

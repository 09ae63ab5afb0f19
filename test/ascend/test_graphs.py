"""Type inference for whole models: the graphs of the Ascend table compile, of dynamic shapes and one for each kind of
steps."""

import numpy as np
import pytest
import torch
from mindspore.ops.operations import comm_ops
from models.harness import Requests, pool_of
from models.parts import network_of
from models.tiny import TINY, divisible, save
from tiers import SLOW, mostly_slow

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import cache_specs
from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.model_executor_ms.npu.build import batch_of
from sglang.srt.model_executor_ms.npu.graph_runner import DECODE
from sglang.srt.model_executor_ms.runner.graphs import compilations
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches
from sglang.srt.model_executor_ms.runner.step_inputs import first_pages

from .inference import LACKING
from .model import PAGE, NpuModel, NpuSteps

SECONDS = 46, 115


@pytest.fixture
def model_of(bound_before, monkeypatch, tmp_path):
    """Function of a variant -> it, on the operators of an NPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kernels, "soc", lambda: "ascend910b")
    ops.select("ascend")
    ops.start([0])

    def load(variant):
        return NpuModel(save(variant, tmp_path, "bfloat16"), "bfloat16", PAGE)

    return load


VARIANTS = [
    *("qwen3@32", "llama-gelu@16", "gemma@16", "stablelm-parallel@h192", "glm4@32", "olmo2@16", "granite@16"),
    *("gemma3@16", "gemma4-shared@16", "mistral-wide-window@16", "gemma2@16", "gpt_oss@16", "baichuan-13b@h96"),
    *("qwen3_moe@16", "deepseek_v3@16", "deepseek_v2@32", "minicpm3@16"),
    *("lfm2@h96", "qwen3_5@32", "kimi_linear@16", "granitemoehybrid@h96"),
]
FIRST = {"gemma4-shared@16": "Reshape"}  # of the mask that all its embeddings have
KINDS = ["qwen3@32", "stablelm-parallel@h192", "gemma2@16", "baichuan-13b@h96", "qwen3_moe@16", "deepseek_v3@16"]
KINDS += ["lfm2@h96", "qwen3_5@32"]


@pytest.mark.parametrize("variant", mostly_slow(VARIANTS, lambda variant: variant in KINDS))
def test_a_graph_for_every_kind_of_steps_passes_inference(model_of, variant):
    requests, before = Requests(model_of(variant), PAGE), compilations()
    ids = np.random.default_rng(0).integers(0, 131, 40)
    for step in ({"a": ids[:5], "b": ids[:20]}, {"a": ids[:3], "b": ids[:1]}, {"a": ids[:1], "b": ids[:1]}):
        check_lacking(lambda step=step: requests.step(step), FIRST.get(variant, "Gather"))
    assert compilations() == before


def check_lacking(run, first="Gather"):
    """The embedding, the graph's first operator, is the first that a CPU has no kernel for."""
    with pytest.raises(TypeError) as error:
        run()
    found = LACKING.search(str(error.value))
    assert found and found[2] == first, str(error.value)


DECODED = [pytest.param("gemma2@16", marks=SLOW), "gpt_oss@16", pytest.param("baichuan-13b@h96", marks=SLOW)]


@pytest.mark.parametrize("variant", DECODED)
def test_a_graph_that_decodes_in_one_round_passes_inference(model_of, variant):
    requests = Requests(model_of(variant), PAGE)
    requests.model.graph.runner.split_by_forward_mode = lambda queries, *_: [
        (host.SINGLE_BLOCK, np.arange(len(queries)))
    ]
    check_lacking(lambda: requests.step({"a": np.arange(1), "b": np.arange(1)}))


PLACES = ((*range(8), 0, 3),) * 2  # of eight experts of each layer


def batch(query_lens, seq_lens, counts, extends):
    slots = first_pages(query_lens, seq_lens, PAGE)[1] if seq_lens else np.zeros(0, np.int32)
    return batch_of(query_lens, seq_lens, slots, "cpu", counts, extends)


@pytest.mark.parametrize(
    "variant, replicas, places", [pytest.param("qwen3_moe", 4, PLACES, marks=SLOW), ("deepseek_v3", 2, ())]
)
def test_graphs_of_attention_replicas_pass_inference(model_of, tmp_path, monkeypatch, variant, replicas, places):
    """Each kind beside others, an idle one, and one that is captured; replicas of one rank and of two."""
    monkeypatch.setattr(comm_ops, "get_group_size", lambda group: replicas if "replicas" in group else 4)
    monkeypatch.setattr(comm_ops, "get_rank", lambda *_: 0)
    monkeypatch.setitem(TINY, f"{variant}-even", divisible(TINY[variant]))
    folder = save(f"{variant}-even@16", tmp_path, "bfloat16")
    shard = Shard(0, 4, "tp", expert_size=2, physical_to_logical_map=places, attn_dp_size=replicas)
    network = network_of(folder, Stage(), "bfloat16", shard)
    network.process_weights_after_loading()
    specs = cache_specs(network)
    caches = KVCaches(pool_of(specs, torch.bfloat16, PAGE), specs)
    made = NpuSteps(network, caches, PAGE).runner
    steps = [((3, 2), (3, 2)), ((2, 3), (5, 7)), ((1, 3, 1), (7, 3, 4)), ((1, 1), (1, 7)), ((), ())]
    for queries, lengths in steps:
        others = (9, *[0] * (replicas - 2))
        step = batch(queries, lengths, (sum(queries), *others), True)
        check_lacking(
            lambda step=step: made.run({"input_ids": torch.zeros(len(step.out_cache_loc))}, made.prepare(step))
        )
    made.buckets, made.captured = (4,), made.graphs.make(DECODE, captured=True)
    check_lacking(lambda: made.run({"input_ids": torch.arange(2)}, made.prepare(batch((1, 1), (1, 7), (2, 3), False))))

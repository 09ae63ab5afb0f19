"""A model cut into pipeline stages gives what the whole one gives, and its stages have exactly its tensors."""

import mindspore as ms
import numpy as np
import pytest
import torch
from models.harness import PagedModel, Requests, assert_logits_close
from models.test_logits import LIMITS, WAYS, prompts
from models.tiny import PLAIN, reference_logits, save
from safetensors.torch import load_file, save_file

from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.layers_ms import ops
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.model_executor_ms.graphs import Limits, forward_graph, passed_on
from sglang.srt.model_executor_ms.kv_caches import KVCaches
from sglang.srt.model_executor_ms.lm_head import LMHead
from sglang.srt.model_loader_ms import loader
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.registry import model_class
from sglang.srt.utils.hf_transformers_utils import get_config, get_context_length

SLOTS = 1024


def network_of(folder, stage: Stage, dtype="float32"):
    """The part of a checkpoint's model that a stage computes, loaded."""
    config = get_config(str(folder), trust_remote_code=True)
    positions = get_context_length(config)
    runtime = Runtime(dtype=getattr(ms, ops.compute_dtype(dtype)), max_positions=positions, stage=stage)
    network = model_class(config.architectures)(config.to_dict(), runtime)
    loader.load(network, folder, progress=False, **network.checkpoint())
    return network


class StageOfModel:
    """A stage on a pool of its own layers' caches, as SGLang makes it."""

    page_size = 1

    def __init__(self, folder, stage, dtype):
        self.network = network_of(folder, stage, dtype)
        self.network.pack()
        config = self.network.config
        held = config.held
        shared = dict(size=SLOTS - self.page_size, page_size=self.page_size, layer_num=len(held), device="cpu")
        shared |= dict(
            dtype=getattr(torch, dtype), enable_memory_saver=False, start_layer=held.start, end_layer=held.stop
        )
        if hasattr(config, "kv_lora_rank"):
            latent = dict(kv_lora_rank=config.kv_lora_rank, qk_rope_head_dim=config.qk_rope_head_dim)
            self.pool = MLATokenToKVPool(**latent, **shared)
        else:
            self.pool = MHATokenToKVPool(head_num=config.num_key_value_heads, head_dim=config.head_dim, **shared)
        self.graph = self._graph(KVCaches(self.pool, len(held), held.start))
        self.captured = False

    def _graph(self, caches):
        limits = Limits(tokens=200, requests=8, blocks=SLOTS)
        return forward_graph(self.network, caches.k_caches, caches.v_caches, limits, passed_on(self.network.config))

    def run(self, inputs, step):
        if not self.captured:
            assert self.graph.capture([(inputs, step)]) == ops.static_graphs()
            self.captured = True
        return self.graph.run(inputs, step)


class StagedModel:
    """All stages of a model in one process, in the place of a PagedModel."""

    stage_class = StageOfModel

    def __init__(self, folder, count=2, dtype="float32"):
        self.stages = [self.stage_class(folder, Stage(rank, count), dtype) for rank in range(count)]
        last = self.stages[-1].network
        self.config = last.config
        self.head = LMHead(last.head(), self.config.logit_scale, self.config.final_logit_softcapping)

    def forget(self):
        for stage in self.stages:
            for layer in stage.network.config.held:
                stage.pool.get_key_buffer(layer).fill_(100.0)

    def logits(self, ids, step):
        passed_on = np.asarray(ids)
        for stage in self.stages:
            passed_on = stage.run(passed_on, step)
        return self.head.apply(self.head, passed_on)[:, : self.config.vocab_size].numpy()


# Layers that end in different ways, tied and scaled heads, tensors by other names, latent caches, experts.
CUT = ["qwen3-tied", "llama", "olmo2", "gemma2", "cohere", "chatglm", "deepseek_v3", "qwen3_moe", "grok"]
CASES = [("cpu", variant) for variant in CUT] + [("reference", "qwen3-tied")]


@pytest.mark.parametrize("table, variant", CASES, indirect=["table"])
def test_two_stages_give_the_logits_of_hugging_face(table, variant, tmp_path):
    ids = prompts()
    found = WAYS["mixed_batch"](Requests(StagedModel(save(variant, tmp_path)), 4), ids)
    wanted = {request: reference_logits(variant, ids[request]) for request in found}
    assert_logits_close(found, wanted, LIMITS["float32"])


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
def test_stages_change_no_bit_of_an_answer(table, tmp_path):
    folder = save("qwen3", tmp_path, "bfloat16")
    whole, cut = PagedModel(folder, "bfloat16"), StagedModel(folder, dtype="bfloat16")
    found = [WAYS["chunks"](Requests(model, 4), prompts()) for model in (whole, cut)]
    for request, logits in found[0].items():
        np.testing.assert_array_equal(found[1][request], logits)


def values(network) -> dict:
    """What a loaded model has of each part of each tensor, by the checkpoint's names."""
    options = network.checkpoint()
    names = loader._placed(options["names"], options["renumbered"])
    return {(want.source, str(want.read)): want.host.copy() for want in loader.tensors_of(network, names=names)}


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
@pytest.mark.parametrize("variant", [*PLAIN, "qwen3-tied"])
def test_stages_have_the_tensors_of_the_whole_model_and_each_only_its_own(table, variant, tmp_path):
    folder = save(variant, tmp_path)
    whole, first, last = (values(network_of(folder, stage)) for stage in (Stage(), Stage(0, 2), Stage(1, 2)))
    tied = network_of(folder, Stage()).config.tie_word_embeddings
    assert len(set(first) & set(last)) == tied  # the head is the embedding
    assert set(first) | set(last) == set(whole)
    for part, wanted in whole.items():
        for stage in (first, last):
            np.testing.assert_array_equal(stage.get(part, wanted), wanted)


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
def test_a_tensor_of_no_stage_is_still_unexpected(table, tmp_path):
    folder = save("qwen3", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.extra.weight"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    network_of(folder, Stage(0, 2))
    with pytest.raises(loader.CheckpointError, match=r"unexpected: model\.layers\.1\.extra\.weight"):
        network_of(folder, Stage(1, 2))

"""Parts of a model, as pipeline stages and tensor-parallel ranks have them, on a pool of their own layers and heads."""

import mindspore as ms
import numpy as np
import torch
from models.adapters import with_adapters
from models.harness import (
    SLOTS,
    STALE,
    TOKENS,
    Uncompiled,
    UncompiledWithRoom,
    captured,
    pool_of,
    start_state,
    states_of,
)

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import cache_specs, state_specs
from sglang.srt.model_executor_ms.runner.device_layout_cache import pool_class
from sglang.srt.model_executor_ms.runner.graphs import Limits, forward_graph
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches
from sglang.srt.model_executor_ms.runner.lm_head import LMHead
from sglang.srt.model_executor_ms.runner.step import step_layout
from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights
from sglang.srt.model_loader_ms import loader
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.registry import model_class
from sglang.srt.utils.hf_transformers_utils import get_config, get_context_length


def network_of(folder, stage: Stage, dtype="float32", shard: Shard | None = None):
    """The part of a checkpoint's model that a rank computes, loaded."""
    network = built(folder, stage, dtype, shard)
    loader.load(network, folder, progress=False, **network.checkpoint())
    return network


def built(folder, stage: Stage, dtype="float32", shard: Shard | None = None):
    config = get_config(str(folder), trust_remote_code=True)
    positions = get_context_length(config)
    computed = getattr(ms, ops.compute_dtype(dtype))
    runtime = Runtime(computed, positions, shard or Shard(), stage, max_prefill_tokens=TOKENS)
    return model_class(config.architectures)(config.to_dict(), runtime)


class Part:
    """What a rank has of a model. compiled: into a static graph that is captured, where the table has such."""

    page_size = 1

    def __init__(self, folder, stage: Stage, dtype="float32", shard: Shard | None = None, compiled=True):
        self.network = built(folder, stage, dtype, shard)
        load_weights(self.network, check_weights(self.network, folder), progress=False)
        self.adapters = with_adapters(self.network, folder)
        self.config = config = self.network.config
        specs = cache_specs(self.network)
        self.pool = pool_of(specs, getattr(torch, dtype), self.page_size, pool_class(specs))
        of_sglang = get_config(str(folder), trust_remote_code=True)
        ranks = config.shard.attention.size
        states = states_of(of_sglang, state_specs(self.network), getattr(torch, dtype), ranks)
        self.caches = KVCaches(self.pool, specs, states=states)
        self.graph = self._graph(compiled)
        self.captured = not compiled
        scaled = (config.logit_scale, config.final_logit_softcapping)
        self.head = None if self.network.head() is None else LMHead(self.network, *scaled)

    def _graph(self, compiled):
        k_caches, v_caches = self.caches.k_caches, self.caches.v_caches
        shared = dict(dp_size=self.config.shard.attn_dp_size)
        shared["optional"] = (*self.network.optional_fields, *self.caches.optional_fields)
        layout = step_layout(self.network.model_inputs(), **shared)
        limits = Limits(tokens=TOKENS, requests=8, blocks=SLOTS)
        if not compiled and self.config.shard.attn_dp_size > 1:  # whose tensors are as large, whatever each of them has
            return UncompiledWithRoom(self.network, k_caches, v_caches, layout, limits)
        if not compiled:
            return Uncompiled(self.network, k_caches, v_caches, layout)
        return forward_graph(self.network, k_caches, v_caches, limits, layout)

    def forget(self):
        """Make the cache one that other requests have used."""
        for layer in self.caches.specs:
            self.pool.get_key_buffer(layer).fill_(STALE)
        self.caches.forget_states()

    def run(self, inputs, step) -> torch.Tensor:
        """ids [T], or what the stage before gave -> hidden states [T, hidden_size]."""
        (field,) = self.network.model_inputs()
        inputs = {field.name: inputs}
        if not self.captured:
            assert captured(self.graph, self.caches, inputs, step) == ops.capabilities().static_graphs
            self.captured = True
        return self.graph.run(inputs, step).hidden_states

    def logits(self, inputs, step) -> np.ndarray:
        """Of what this rank has of the vocabulary, padding included: float32 [T, part of vocab_size]."""
        return self.head.apply(self.head, self.run(inputs, step)).numpy()


class StagedModel:
    """All stages of a model in one process, in the place of a PagedModel."""

    part_class = Part

    def __init__(self, folder, count=2, dtype="float32"):
        self.stages = [self.part_class(folder, Stage(rank, count), dtype) for rank in range(count)]
        self.config, self.head = self.stages[-1].config, self.stages[-1].head
        self.keeps_states = any(stage.caches.states for stage in self.stages)

    def forget(self):
        for stage in self.stages:
            stage.forget()

    def start_state(self, slot, source=None):
        for stage in self.stages:
            start_state(stage.caches, slot, source)

    def logits(self, ids, step):
        begun = np.asarray(ids)
        for stage in self.stages:
            begun = stage.run(begun, step)
        return self.head.apply(self.head, begun)[:, : self.config.vocab_size].numpy()

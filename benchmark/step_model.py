"""A network of random weights, on a pool of random keys and values: single steps, without a server or a prompt."""

import time

import mindspore as ms
import numpy as np
import torch

from sglang.srt.layers_ms.cache_spec import MLASpec, cache_specs
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.model_executor_ms.environment import read_environment
from sglang.srt.model_executor_ms.parallel.cpu_affinity import processors
from sglang.srt.model_executor_ms.runner import device
from sglang.srt.model_executor_ms.runner.graphs import Limits, forward_graph
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches
from sglang.srt.model_executor_ms.runner.lm_head import LMHead
from sglang.srt.model_executor_ms.runner.step import step_layout
from sglang.srt.model_executor_ms.runner.step_inputs import first_pages, step_inputs
from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.registry import model_class


def start() -> None:
    """Start MindSpore, on the processors that a server would have."""
    device.start("cpu", "cpu", processors(read_environment()))


def pool_of(specs, slots: int):
    """SGLang's pool of layers of one kind, of random values."""
    spec = next(iter(specs.values()))
    sizes = dict(layer_num=len(specs), page_size=1, size=slots, dtype=torch.bfloat16)
    sizes |= dict(device="cpu", enable_memory_saver=False)
    if isinstance(spec, MLASpec):  # with keys of an indexer behind the rotated values, where there is one
        rank = spec.kv_lora_rank
        pool = MLATokenToKVPool(kv_lora_rank=rank, qk_rope_head_dim=spec.row[1] - rank, **sizes)
    else:
        pool = MHATokenToKVPool(head_num=spec.num_kv_heads, head_dim=spec.head_dim, **sizes)
    for layer, spec in specs.items():
        pool.get_key_buffer(layer).normal_()
        if spec.separate_values:
            pool.get_value_buffer(layer).normal_()
    return pool


class StepModel:
    """The network of a config whose layers are all of one kind."""

    def __init__(self, config: dict, slots: int, tokens: int, requests: int):
        """slots: of the pool. tokens, requests: of the largest step."""
        network = model_class(config["architectures"])(config, Runtime(dtype=ms.bfloat16, max_positions=slots))
        load_weights(network, check_weights(network, "", "dummy"), progress=False)
        specs = cache_specs(network)
        caches = KVCaches(pool_of(specs, slots), specs)
        layout = step_layout(network.model_inputs(), optional=(*network.optional_fields, *caches.optional_fields))
        self.vocab_size, limits = config["vocab_size"], Limits(tokens, requests, slots)
        self.graph = forward_graph(network, caches.k_caches, caches.v_caches, limits, layout)
        self.graph.capture([self.step(1, 1, 7)])
        self.head = LMHead(network, network.config.logit_scale, network.config.final_logit_softcapping)

    def step(self, requests: int, tokens: int, context: int):
        """The last tokens of requests with so many cached before them."""
        lengths = [context + tokens] * requests
        table, slots = first_pages([tokens] * requests, lengths, 1)
        ids = np.random.default_rng(0).integers(0, self.vocab_size, len(slots), np.int32)
        return {"input_ids": ids}, step_inputs([tokens] * requests, lengths, slots, table, 1)

    def seconds(self, step) -> float:
        began = time.perf_counter()
        self.head.apply(self.head, self.graph.run(*step).hidden_states)
        return time.perf_counter() - began

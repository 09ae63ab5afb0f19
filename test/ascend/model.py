"""Models of models/harness.py, whole and in stages, whose steps the runner of NPUs prepares and runs."""

import torch
from models.harness import SLOTS, STALE, TOKENS, PagedModel
from models.parts import Part, StagedModel

from sglang.srt.layers_ms.ops.ascend_reference.memory import stored
from sglang.srt.model_executor_ms.npu.build import batch_of, npu_runner
from sglang.srt.model_executor_ms.npu.link import DeviceLink, OneOrder
from sglang.srt.model_executor_ms.runner.device_layout_cache import MetaKVPool
from sglang.srt.model_executor_ms.runner.graphs import Limits

REQUESTS = 8
PAGE = 16
VOCABULARY = 100  # ids below it are in that of every model


class NpuSteps:
    """The runner of a network and its caches, in the place of their graph.

    buckets: sizes of decode graphs, which are captured as far as a graph that is not compiled can be.
    """

    def __init__(self, network, caches, page_size, buckets=()):
        self.page_size, self.req_to_token = page_size, torch.zeros(REQUESTS, SLOTS, dtype=torch.int32)
        link, limits = DeviceLink("cpu", OneOrder(), pin_memory=False), Limits(TOKENS, REQUESTS, SLOTS // page_size)
        self.runner = npu_runner(network, caches, limits, self.req_to_token, page_size, link, buckets)
        self.runner.capture(SLOTS // page_size - 1, VOCABULARY)
        self.states = caches.states
        self.extends = None  # whether any of several attention replicas has more than single tokens

    def run(self, inputs, step):
        host, pool = step.host, step.arrays["attn"]["full"]
        tables = torch.from_numpy(pool["block_tables"])
        self.req_to_token[: len(tables), : tables.shape[1] * self.page_size : self.page_size] = tables * self.page_size
        batch = batch_of(host.query_lens, host.seq_lens, pool["out_cache_loc"], "cpu", host.dp_tokens, self.extends)
        batch.lora_slots = host.lora_slots
        if self.states:
            self.states.slots_of_requests[: len(tables)] = torch.from_numpy(host.state_slots)
        inputs = {name: torch.as_tensor(array) for name, array in inputs.items()}
        return self.runner.run(inputs, self.runner.prepare(batch))

    def capture(self, steps, forget=None):
        return False


class NpuModel(PagedModel):
    def __init__(self, folder, dtype, page_size=PAGE, buckets=(), change=None):
        """change: called with the model before its graphs are made."""
        super().__init__(folder, dtype, page_size)
        if change is not None:
            change(self)
        self.graph = NpuSteps(self.network, self.caches, page_size, buckets)

    def forget(self):
        super().forget()
        for place, buffer in enumerate(self.pool.k_buffer if isinstance(self.pool, MetaKVPool) else ()):
            if buffer.is_meta:
                stored(self.caches.k_caches[place])[:] = STALE
                stored(self.caches.v_caches[place])[:] = -STALE


class NpuStage(Part):
    page_size, buckets = PAGE, (2, 4)

    def _graph(self, compiled):
        return NpuSteps(self.network, self.caches, self.page_size, self.buckets)


class NpuStages(StagedModel):
    part_class = NpuStage

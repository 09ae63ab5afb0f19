"""A model of models/harness.py whose steps the runner of NPUs prepares and runs."""

import torch
from models.harness import SLOTS, PagedModel

from sglang.srt.model_executor_ms.graphs import Limits
from sglang.srt.model_executor_ms.npu.build import batch_of, npu_runner
from sglang.srt.model_executor_ms.npu.link import DeviceLink, OneOrder

REQUESTS = 8


class NpuModel(PagedModel):
    """buckets: sizes of decode graphs; those are captured, as far as a graph that is not compiled can be."""

    def __init__(self, folder, dtype, page_size, buckets=()):
        super().__init__(folder, dtype, page_size)
        self.page_size, self.req_to_token = page_size, torch.zeros(REQUESTS, SLOTS, dtype=torch.int32)
        link, limits = DeviceLink("cpu", OneOrder(), pin_memory=False), Limits(200, REQUESTS, SLOTS // page_size)
        self.runner = npu_runner(self.network, self.caches, limits, self.req_to_token, page_size, link, buckets)
        self.runner.capture(SLOTS // page_size - 1)

    def hidden_states(self, ids, step):
        tables = torch.from_numpy(step.block_tables)
        self.req_to_token[: len(tables), : tables.shape[1] * self.page_size : self.page_size] = tables * self.page_size
        batch = batch_of(step.query_lens, step.seq_lens, step.slots, "cpu")
        return self.runner.run(torch.from_numpy(ids), self.runner.prepare(batch))

"""A card that is out of memory from when a file exists, which the environment names: for servers of warm.py."""

import os
from pathlib import Path

import torch

from sglang.srt.model_executor_ms.npu.graph_runner import NPUGraphRunner

TRIGGER = "SERVING_TESTS_FAULT"


def prepare() -> None:
    """Let steps of the second rank fail, which SGLang connects to no client."""
    run, trigger = NPUGraphRunner.run, Path(os.environ[TRIGGER])

    def failing(self, *inputs):
        if torch.distributed.get_rank() == 1 and trigger.exists():
            raise RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB")
        return run(self, *inputs)

    NPUGraphRunner.run = failing

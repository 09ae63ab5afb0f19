"""A rank among others of its host."""

import os

import torch

from sglang.srt.model_executor_ms.parallel import groups

SECONDS = 1


def test_a_rank_stays_on_its_processors_and_torch_has_no_more_threads_than_these():
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        groups.pin_threads([min(before)])
        assert os.sched_getaffinity(0) == {min(before)}
        assert torch.get_num_threads() == 1
    finally:
        os.sched_setaffinity(0, before)
        torch.set_num_threads(threads)

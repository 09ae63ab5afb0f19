"""Two processes that are the ranks of one group of this backend's operators, with a core each."""

import multiprocessing
import os
from collections.abc import Callable

RANKS, GROUP = 2, "ranks"


def on_both(measure: Callable, *given) -> list:
    """What measure(rank, *given), a function of a module, gives on each rank, in any order."""
    context = multiprocessing.get_context("spawn")
    boards, found, barrier = [context.Queue() for _ in range(RANKS)], context.Queue(), context.Barrier(RANKS)
    cores = sorted(os.sched_getaffinity(0))
    met = (cores, boards, barrier, found)
    ranks = [context.Process(target=_rank, args=(rank, *met, measure, given), daemon=True) for rank in range(RANKS)]
    for rank in ranks:
        rank.start()
    results = [found.get(timeout=600) for _ in ranks]
    for rank in ranks:
        rank.join()
    return results


def _rank(rank: int, cores: list[int], boards: list, barrier, found, measure: Callable, given: tuple) -> None:
    from sglang.srt.layers_ms import ops
    from sglang.srt.model_executor_ms.runner import device

    def gather(value):
        for board in boards:
            board.put((rank, value))
        values = dict(boards[rank].get(timeout=60) for _ in boards)
        barrier.wait(60)  # so that no value of the next call comes before the last of this one
        return [values[each] for each in range(RANKS)]

    core = cores[rank % len(cores)]
    os.sched_setaffinity(0, {core})
    device.start("cpu", "cpu", [core])
    ops.init_group(GROUP, rank, RANKS, gather)
    found.put(measure(rank, *given))

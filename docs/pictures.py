"""Draws the pictures of README and docs/ into docs/images/, from docs/speed.json and the packages of this repository.

    make pictures

Each file says what it was drawn from, as a digest in its metadata: `stale()` compares it with what there is now.
"""

import hashlib
import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATA, IMAGES = ROOT / "docs/speed.json", ROOT / "docs/images"
INK, QUIET, OURS, THEIRS, PALE = "#1f2933", "#7b8794", "#0b7285", "#f08c00", "#e6f4f7"
SHADE = "#fff4e0"
KEY = "Source"  # of the metadata
EXECUTOR = "model_executor_ms"
# The packages of python/sglang/srt and their jobs, in rows: each imports only from rows below (test/test_layout.py).
ROOMS = (
    {EXECUTOR: "what SGLang enters by: plugin, platform, model_runner"},
    {f"{EXECUTOR}.server": "flags, frameworks, checks", f"{EXECUTOR}.npu": "uploads, captures, streams"},
    {f"{EXECUTOR}.runner": "a step: graphs, caches, weights, sampling"},
    {f"{EXECUTOR}.parallel": "groups, hosts, watchdogs, cores"},
    {f"{EXECUTOR}.seams": "every assignment into SGLang"},
    {"models_ms": "what is special about each architecture"},
    {"layers_ms": "the blocks that models are made of"},
    {
        "layers_ms.ops": "operators, a table a device",
        "model_loader_ms": "files to parameters",
        "distributed_ms": "shards and stages",
    },
)


def digest() -> str:
    """Of everything that the pictures are made of."""
    return hashlib.sha256(Path(__file__).read_bytes() + DATA.read_bytes()).hexdigest()[:16]


def stale(images: Path = IMAGES) -> list[str]:
    """The names of pictures that are missing, or were drawn from other data or by another version of this file."""
    from PIL import Image

    wanted = digest()

    def source(file: Path) -> str | None:
        if not file.exists():
            return None
        with Image.open(file) as picture:
            return picture.text.get(KEY)

    return [name for name in PICTURES if source(images / f"{name}.png") != wanted]


def canvas(width: float, height: float):
    """A figure of one set of axes without a frame, in inches."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height))
    axes.axis("off")
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
    return figure, axes


def box(axes, at, size, title, lines="", face="white", edge=INK) -> None:
    """A rounded box with its lower left corner `at`: a bold title and quieter lines below it."""
    from matplotlib.patches import FancyBboxPatch

    (x, y), (width, height) = at, size
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08", fc=face, ec=edge, lw=1.1)
    axes.add_patch(shape)
    middle = y + height / 2
    axes.text(x + width / 2, middle + (0.11 if lines else 0), title, ha="center", va="center", weight="bold", size=9)
    if lines:
        axes.text(x + width / 2, middle - 0.12, lines, ha="center", va="center", size=7.5, color=QUIET)


def arrow(axes, start, end, color=INK) -> None:
    axes.annotate("", xy=end, xytext=start, arrowprops=dict(arrowstyle="-|>", color=color, lw=1.2))


def speed(data: dict):
    """Bars of ratios, this backend over each peer: README's picture."""
    from matplotlib import pyplot

    measured = data["tables"]["peers"]
    rows = [measured["rows"][row] for row in measured["in_picture"]]
    figure, axes = pyplot.subplots(figsize=(8, 4))
    for number, (peer, color) in enumerate(zip(measured["peers"], (OURS, THEIRS), strict=True)):
        for place, (_, _, *peers) in enumerate(rows):
            if peers[number]:
                ratio, height = peers[number][1], place + 0.4 * number
                axes.barh(height, ratio, 0.38, color=color, label=peer)
                axes.text(ratio + 0.02, height, f"{ratio:.2f}", va="center", size=8)
    names = [name.removesuffix(" *").removesuffix(" (tok/s)") for name, *_ in rows]
    axes.set_yticks([place + 0.2 for place in range(len(rows))], names, size=9)
    axes.invert_yaxis()
    axes.axvline(1, color=INK, lw=1)
    axes.set_xlabel(f"tokens a second, {measured['ours']} / peer (right of the line: faster)", size=9)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique, frameon=False, fontsize=9, loc="lower right")
    figure.tight_layout()
    return figure


def capture(data: dict):
    """Where the time of one step goes, run by MindSpore's runtime and replayed."""
    step = data["step"]
    operators = step["milliseconds"] - step["runtime"]
    launches = step["runtime"] - step["graph_start"]
    figure, axes = canvas(8, 2.5)
    scale, left = 5.6 / step["milliseconds"], 1.9
    rows = (
        ("compiled graph", 1.55, ((step["graph_start"], "start"), (launches, "launches")), THEIRS),
        ("captured and replayed", 0.75, ((step["replay"], ""),), OURS),
    )
    for name, y, parts, color in rows:
        axes.text(left - 0.15, y + 0.2, name, ha="right", va="center", size=9, weight="bold")
        x = left
        for length, label in (*parts, (operators, "operators")):
            width = length * scale
            shade = PALE if label == "operators" else color
            axes.barh(y + 0.2, width, 0.4, left=x, color=shade, edgecolor=INK, lw=0.8)
            text = f"{label} {length} ms" if width > 1 else label if width > 0.6 else ""
            axes.text(x + width / 2, y + 0.2, text, ha="center", va="center", size=7.5)
            x += width
        axes.text(x + 0.1, y + 0.2, f"{(x - left) / scale:.0f} ms", va="center", size=9)
    start, once = f"{step['graph_start']} ms to start the graph", f"{step['replay']} ms to replay its calls"
    axes.text(left, 2.15, start, size=7.5, color=QUIET)
    axes.text(left, 0.48, once, size=7.5, color=QUIET)
    axes.text(left, 0.12, step["of"], size=7.5, color=QUIET)
    return figure


def parallel(data: dict):
    """Eight processes: two replicas of two stages of two ranks."""
    figure, axes = canvas(8, 3.6)
    box(axes, (3.0, 3.0), (2.0, 0.45), "SGLang's controller", face=SHADE)
    for replica, x in enumerate((0.2, 4.2)):
        box(axes, (x, 0.15), (3.6, 2.5), "", face=PALE)
        axes.text(x + 0.15, 2.42, f"replica {replica}", size=9, weight="bold")
        axes.text(x + 3.45, 2.42, "--dp-size 2", size=7.5, color=QUIET, ha="right")
        arrow(axes, (4.0, 3.0), (x + 1.8, 2.65))
        for stage, y in enumerate((1.35, 0.3)):
            axes.text(x + 0.15, y + 0.4, f"stage {stage}", size=8.5)
            axes.text(x + 0.15, y + 0.18, "--pp-size 2", size=7, color=QUIET)
            for rank in range(2):
                box(axes, (x + 1.1 + 1.25 * rank, y), (1.1, 0.8), f"rank {rank}", "half of each layer")
            axes.annotate("", xy=(x + 2.38, y + 0.4), xytext=(x + 2.17, y + 0.4), arrowprops=dict(arrowstyle="<|-|>"))
        arrow(axes, (x + 1.65, 1.35), (x + 1.65, 1.1), OURS)
        arrow(axes, (x + 2.9, 1.35), (x + 2.9, 1.1), OURS)
        axes.text(x + 2.27, 2.2, "all-reduce,  --tp-size 2", size=7, color=QUIET, ha="center")
    return figure


def rooms(data: dict):
    """The packages: each imports only from rows below its own."""
    height, gap = 0.52, 0.16
    inside = [row for row in ROOMS if next(iter(row)).startswith(EXECUTOR)]
    figure, axes = canvas(8, (len(ROOMS) + 1) * (height + gap) + 0.5)
    top = (len(ROOMS) + 1) * (height + gap) + 0.3 - height
    theirs = "HTTP, tokenizer, scheduler, radix cache, sampler"
    box(axes, (0.2, top), (7.6, height), "SGLang 0.5.23, unmodified", theirs, SHADE)
    frame = len(inside) * (height + gap)
    box(axes, (0.2, top - 0.12 - frame), (7.6, frame), "", face=PALE)
    for number, row in enumerate(ROOMS, 1):
        own = row in inside
        left, width = (0.35, 7.3) if own else (0.2, 7.6)
        each = (width + gap) / len(row)
        for place, (name, job) in enumerate(row.items()):
            at = (left + place * each, top - 0.04 - number * (height + gap) - (0 if own else 0.08))
            box(axes, at, (each - gap, height), name.removeprefix(f"{EXECUTOR}."), job)
    return figure


PICTURES = {"speed": speed, "rooms": rooms, "capture": capture, "parallel": parallel}


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.color"] = INK
    data = json.loads(DATA.read_text(encoding="utf-8"))
    for name, draw in PICTURES.items():
        draw(data).savefig(IMAGES / f"{name}.png", dpi=130, metadata={KEY: digest(), "Software": None})


if __name__ == "__main__":
    main()

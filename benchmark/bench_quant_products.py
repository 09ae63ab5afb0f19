"""Products with quantized weights: bytes a second beside what memory gives, and time beside bfloat16, by turns.

python benchmark/bench_quant_products.py [--shape 8b] [--rows 1 8 256] [--rounds 5]

Each round reads memory, and then multiplies the matrices of some layers in each format. What is told is the median of
the rounds: GB/s of a format's codes, scales and offsets, their share of the reads of the same round, and how many times
as fast as bfloat16 of the same round it is. Weights are random bits: no product depends on its values, but for scales
that are powers of two, which are near one.
"""

import argparse
import ctypes
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import mindspore
import numpy as np
import torch
from peers import machine, write_results
from roofline import best

from sglang.srt.layers_ms.ops.codes import bits_of, factors_of
from sglang.srt.layers_ms.ops.cpu import quant
from sglang.srt.layers_ms.ops.cpu.library import FORMATS, ISA, library
from sglang.srt.model_executor_ms.environment import read_environment
from sglang.srt.model_executor_ms.parallel.cpu_affinity import processors
from sglang.srt.model_executor_ms.runner import device
from sglang.srt.model_loader_ms.weight_slice import parameter

# Rows and columns of the matrices of a layer, and layers whose weights no cache holds.
SHAPES = {
    "8b": ([(6144, 4096), (4096, 4096), (24576, 4096), (4096, 12288)], 2),
    "0.6b": ([(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072)], 28),
}


class Form(NamedTuple):
    """How weights are held: kind and group as in ops/contract.py, bytes of a scale, and of an offset."""

    kind: str
    group: int = 0
    scale: str = "float32"
    offset: str = ""
    activations: str = "float"

    def bytes_of(self, rows: int, columns: int) -> list[int]:
        """Of codes, scales and offsets."""
        groups = rows * (math.ceil(columns / self.group) if self.group else 1)
        sizes = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "": 0}
        codes = rows * columns * bits_of(self.kind) // 8
        if self.scale == "int8":
            parts = rows * factors_of(columns, self.group)
            return [codes, parts, parts if self.offset else 0]
        return [codes, groups * sizes[self.scale], groups * sizes[self.offset]]


FORMS = {
    "bf16": None,
    "W8A8": Form("int8", activations="int8"),
    "W8A16": Form("int8"),
    "W4A16 g128": Form("int4", 128, "float16"),
    "W4A16 g128 zero points": Form("int4", 128, "float16", "uint8"),
    "W4A16 g32": Form("int4", 32, "float16"),
    "MXFP4": Form("e2m1", 32, "uint8"),
    "FP8 128x128": Form("e4m3", 128, "float32"),
    "FP8 rows": Form("e4m3"),
    "Q8_0 by int8": Form("int8", 32, "float16", activations="int8_group"),
    "Q4_0 by int8": Form("int4", 32, "float16", activations="int8_group"),
    "Q5_0 by int8": Form("int5", 32, "float16", activations="int8_group"),
    "Q4_K by int8": Form("uint4", 32, "int8", "int8", "int8_group"),
    "Q5_K by int8": Form("uint5", 32, "int8", "int8", "int8_group"),
    "Q6_K by int8": Form("int6", 16, "int8", activations="int8_group"),
    "Q4_K by int8, scales of float16": Form("uint4", 32, "float16", "float16", "int8_group"),
    "Q6_K by int8, scales of float16": Form("int6", 16, "float16", activations="int8_group"),
    "int8 g16 by int8": Form("int8", 16, "float16", activations="int8_group"),
    "Q4_K": Form("uint4", 32, "int8", "int8"),
    "Q6_K": Form("int6", 16, "int8"),
    "int8 g16": Form("int8", 16, "float16"),
    "Q8_0": Form("int8", 32, "float16"),
}


def memory(size: int) -> np.ndarray:
    """Random bytes in huge pages, as weights have them; of numbers whose products are finite."""
    held = parameter((-(-size // 4096), 4096), mindspore.uint8)
    drawn = np.random.default_rng(0).normal(0, 0.02, 1 << 20).astype(np.float16).view(np.uint8) & 0xBF
    flat = held.host.reshape(-1)
    for start in range(0, len(flat), len(drawn)):
        flat[start : start + len(drawn)] = drawn[: len(flat) - start]
    return flat[:size]


class Products:
    """The products of some rows with all matrices, in any of the formats."""

    def __init__(self, shapes: list[tuple[int, int]], rows: int, weights: np.ndarray):
        self.shapes, self.rows, self.weights = shapes, rows, weights
        widest = max(columns for _, columns in shapes)
        self.x = torch.randn(rows, widest).bfloat16()
        self.y = np.empty((rows, max(outputs for outputs, _ in shapes)), np.float32)

    def bytes_of(self, form: Form | None) -> int:
        return sum(sum(form.bytes_of(*shape)) if form else 2 * math.prod(shape) for shape in self.shapes)

    def draw_powers(self) -> None:
        """Scales that are powers of two, 2^-15 to 2^-8, as those of checkpoints are."""
        powers = np.random.default_rng(0).integers(112, 120, 1 << 20, np.uint8)
        for form in (form for form in FORMS.values() if form and form.scale == "uint8"):
            at = 0
            for shape in self.shapes:
                for part, size in enumerate(form.bytes_of(*shape)):
                    if part == 1:
                        self.weights[at : at + size] = np.resize(powers, size)
                    at += -(-size // 64) * 64

    def run(self, form: Form | None) -> None:
        bf16, at = FORMATS[mindspore.bfloat16], self.weights.ctypes.data
        x, y = ctypes.c_void_p(self.x.data_ptr()), ctypes.c_void_p(self.y.ctypes.data)
        for outputs, columns in self.shapes:
            sizes = tuple(map(ctypes.c_int64, (self.rows, columns, outputs)))
            if form is None:
                library.mindspore_cpu_logits(bf16, x, ctypes.c_void_p(at), y, *sizes)
                at += 2 * outputs * columns
                continue
            parts = []
            for size in form.bytes_of(outputs, columns):
                parts.append(ctypes.c_void_p(at) if size else None)
                at += -(-size // 64) * 64
            codes, scale, offset = parts
            dtypes = [quant.STORAGE[getattr(mindspore, name or "float32")] for name in (form.scale, form.offset)]
            matrix = (codes, scale, dtypes[0], offset, dtypes[1])
            how = (bf16, quant.ROWS[form.activations], quant.KINDS[form.kind], ctypes.c_int64(form.group))
            library.mindspore_cpu_quant_logits(*how, x, *matrix, y, *sizes)


class Measured(NamedTuple):
    """Of some rows in a format: medians of a run's rounds."""

    milliseconds: float
    speed: float  # GB/s of codes, scales and offsets
    share: float  # of reads
    ratio: float  # times as fast as bfloat16


def measure(products: Products, formats: list[str], rounds: int, reads: Callable[[], float]) -> dict[str, Measured]:
    """By turns. reads: bytes a second of memory, now."""
    seconds, shares = {name: [] for name in formats}, {name: [] for name in formats}
    for _ in range(rounds):
        speed = reads()
        for name in formats:
            began = time.perf_counter()
            products.run(FORMS[name])
            seconds[name].append(time.perf_counter() - began)
            shares[name].append(products.bytes_of(FORMS[name]) / seconds[name][-1] / speed)
    found = {}
    for name in formats:
        took, beside = median(seconds[name]), seconds.get("bf16", seconds[name])
        ratio = median(other / own for other, own in zip(beside, seconds[name], strict=True))
        found[name] = Measured(took * 1e3, products.bytes_of(FORMS[name]) / took / 1e9, median(shares[name]), ratio)
    return found


def table_of(measured: dict[int, dict[str, Measured]]) -> dict:
    """What docs/speed_tables.py takes, of {rows: {format: figures}}: of the fewest rows the share of reads too."""
    fewest, counts = min(measured), sorted(measured)
    head = ["", f"{fewest} x: % of reads", *(f"{rows} x: times bf16" for rows in counts)]
    lines = [
        [name, round(100 * measured[fewest][name].share), *(f"{measured[rows][name].ratio:.2f}" for rows in counts)]
        for name in measured[fewest]
    ]
    return {"head": head, "rows": lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 32, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--output", type=Path, help="a JSON file for the table")
    arguments = parser.parse_args()
    device.start("cpu", "cpu", processors(read_environment()))
    layer, layers = SHAPES[arguments.shape]
    weights = memory(2 * layers * sum(map(math.prod, layer)) + (64 << 20))
    numbers = torch.from_numpy(weights[: len(weights) // 8 * 8]).view(torch.int64)
    print(f"{machine()}, {ISA}: layers of {arguments.shape}, medians of {arguments.rounds}")
    measured = {}
    for rows in arguments.rows:
        products = Products(layer * layers, rows, weights)
        products.draw_powers()
        found = measure(products, arguments.formats, arguments.rounds, lambda: weights.nbytes / best(numbers.max, 2))
        for name, (took, speed, share, ratio) in found.items():
            told = f"{took:8.2f} ms {speed:6.1f} GB/s {100 * share:4.0f}% of reads {ratio:5.2f} x bf16"
            print(f"rows {rows:4} {name:24} {told}", flush=True)
        measured[rows] = found
    if arguments.output:
        write_results(arguments.output, table_of(measured), isa=ISA)


if __name__ == "__main__":
    main()

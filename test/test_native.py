"""test/native/operators.cpp, built with sanitizers for this machine, and for aarch64, where it runs in an emulator."""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiers import SLOW

SECONDS = 60, 240
pytestmark = pytest.mark.timeout(1200)  # of a compiler that shares its processors
ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "python/sglang/srt/layers_ms/ops/cpu/src"
COMMON = sorted(path for path in SOURCES.glob("*.cpp") if path.name not in ("isa.cpp", "quant_isa.cpp", "onednn.cpp"))
PROGRAM = ROOT / "test/native/operators.cpp"
FLAGS = ["-std=c++17", "-g1", "-O1", "-Wall", "-Wno-psabi"]
# As in setup.py.
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"]
X86 = {
    "avx512_bf16": [*AVX512, "-mavx512bf16", "-mavx512vbmi"],
    "avx512": AVX512,
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
}
VNNI = [*AVX512, "-mavx512vnni"]
BF16 = [*VNNI, "-mavx512bf16", "-mavx512vbmi"]
QUANT_X86 = {
    **X86,
    "avx512_bf16": BF16,
    "avx512_vnni": VNNI,
    "avx512_amx": [*BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
}
ARM = ["-march=armv8.2-a+dotprod", "-march=armv8.2-a+dotprod+i8mm"]
DOTPROD = {"generic": [], "dotprod": ARM[:1], "i8mm": ARM[1:]}


def build(compiler: str, isas: dict, quant_isas: dict, flags: list, folder: Path) -> Path:
    """Compile the operators and the program -> the program. isas: instruction sets, and flags of their files."""
    units = [(source, source.stem, flags) for source in COMMON] + [(PROGRAM, "program", flags)]
    files = (("isa.cpp", "", isas), ("quant_isa.cpp", "quant_", quant_isas))
    for file, prefix, sets in files:
        units += [(SOURCES / file, prefix + isa, [f"-DKERNEL_ISA={isa}", *more]) for isa, more in sets.items()]

    def compile_one(unit):
        source, name, more = unit
        target = folder / f"{name}.o"
        subprocess.run([compiler, *FLAGS, *more, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(2) as two_at_once:
        objects = list(two_at_once.map(compile_one, units))
    program = folder / "operators"
    subprocess.run([compiler, *flags, *objects, "-o", program, "-lpthread"], check=True)
    return program


def passes(command, **environment):
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert ", 0 failed" in done.stdout
    return done.stdout


# avx512 is avx2 in wider registers: with sanitizers it takes a minute more and finds nothing.
@pytest.mark.parametrize("sanitized", ["avx2", pytest.param("avx2 avx512_vnni avx512_amx avx512_bf16", marks=SLOW)])
def test_operators_under_the_address_and_undefined_behaviour_sanitizers(tmp_path, sanitized):
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    on_x86 = platform.machine() == "x86_64"

    def sets(of_x86, others):
        plain = {isa: [*flags, *(sanitizers if isa in sanitized.split() else ["-O0"])] for isa, flags in of_x86.items()}
        return plain if on_x86 else {isa: [*flags, *sanitizers] for isa, flags in others.items()}

    program = build("g++", sets(X86, {"generic": []}), sets(QUANT_X86, DOTPROD), sanitizers, tmp_path)
    rounds = ["1", sanitized] if sanitized in X86 and on_x86 else ["3"]
    assert ("avx2: " if on_x86 else "generic: ") in passes([program, *rounds])


@SLOW
@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="no g++-aarch64-linux-gnu on this machine")
def test_operators_compile_for_aarch64_and_run_in_an_emulator(tmp_path):
    program = build("aarch64-linux-gnu-g++", {"generic": []}, DOTPROD, ["-static"], tmp_path)
    if not shutil.which("qemu-aarch64"):
        pytest.skip("compiled; no qemu-user on this machine to run it")
    printed = passes(["qemu-aarch64", program, "1"])
    assert all(f"{isa}: " in printed for isa in DOTPROD)

"""The innermost loops of products keep their sums in registers. In memory, where GCC 12 likes them, speed is half."""

import re
import shutil
import subprocess

import pytest

SECONDS = 8
library = pytest.importorskip("sglang.srt.layers_ms.ops.cpu.library", reason="the C++ operators were not built")
FUNCTION = re.compile(r"^[0-9a-f]+ <(\S*(avx512_bf16|avx512_vnni|avx512)\S*(?:meet|multiply_block)\S*)>:$")
LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$")
MULTIPLIES = re.compile(r"vdpbf16ps|vpdpbusd|vpmaddwd|vfmadd\d+ps")
STACK = re.compile(r"\(%r[sb]p")


def functions():
    """Name, and (address, instruction, operands) of each line, of those that multiply."""
    command = ["objdump", "-d", "--no-show-raw-insn", library._PATH]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        name, lines = None, []
        for text in process.stdout:
            if text.startswith("0"):
                if name:
                    yield name, lines
                found = FUNCTION.match(text)
                name, lines = found and found[1], []
            elif name and (found := LINE.match(text)):
                lines.append((int(found[1], 16), found[2], found[3]))
        if name:
            yield name, lines


def loops(lines):
    """The lines of each loop that has no other in it."""
    places = {address: place for place, (address, *_) in enumerate(lines)}
    jumps = [(place, operands.split()) for place, (_, name, operands) in enumerate(lines) if name.startswith("j")]
    targets = ((place, int(to[0], 16)) for place, to in jumps if to and re.fullmatch(r"[0-9a-f]+", to[0]))
    found = [(places[to], place) for place, to in targets if places.get(to, place + 1) <= place]
    for first, last in found:
        if not any(first <= one and other <= last and (one, other) != (first, last) for one, other in found):
            yield lines[first : last + 1]


def reads_codes(loop):
    return any(name.startswith("prefetch") for _, name, _ in loop)


@pytest.mark.skipif(not shutil.which("objdump"), reason="no objdump on this machine")
@pytest.mark.skipif(not library.ISA.startswith("avx"), reason="another processor's instructions")
def test_sums_of_products_stay_in_registers():
    seen, spilled = 0, []
    for name, lines in functions():
        for loop in loops(lines):
            products = sum(bool(MULTIPLIES.match(what)) for _, what, _ in loop)
            if products < 4 or not reads_codes(loop):
                continue
            seen += 1
            in_memory = sum("zmm" in operands and bool(STACK.search(operands)) for *_, operands in loop)
            if in_memory * 20 > len(loop):  # a constant may lie there
                spilled.append(f"{name}: {in_memory} of {len(loop)} instructions")
    assert seen > 100
    assert not spilled, "\n".join(spilled)


@pytest.mark.skipif(not shutil.which("objdump"), reason="no objdump on this machine")
@pytest.mark.skipif(not library.ISA.startswith("avx"), reason="another processor's instructions")
def test_sums_of_tiles_stay_in_registers():
    """Of rows by AMX, whose tiles are stored and added up segment by segment."""
    tiled = {name: lines for name, lines in functions() if "meet_segments" in name}
    spilled = [name for name, lines in tiled.items() for *_, where in lines if "zmm" in where and STACK.search(where)]
    assert len(tiled) == 6 and not spilled, spilled


@pytest.mark.skipif(not shutil.which("objdump"), reason="no objdump on this machine")
@pytest.mark.skipif(not library.ISA.startswith("avx"), reason="another processor's instructions")
def test_one_row_meets_codes_for_tiles_in_registers():
    """Its sums of even and of odd columns: of codes of four bits, with powers of two too, of int8 and of uint8."""
    alone = [lines for name, lines in functions() if "meet_one" in name]
    assert len(alone) == 4
    for lines in alone:
        within = [loop for loop in loops(lines) if reads_codes(loop)]
        assert within and not any("zmm" in where and STACK.search(where) for loop in within for *_, where in loop)

"""Somebody says the messages that docs/troubleshooting.md explains: we, SGLang, MindSpore, or the system."""

import ast
import functools
import mmap
import re
from pathlib import Path

import mindspore
import pytest

from sglang import version

SECONDS = 20
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
ANY = "\0"  # stands for what is filled in, on either side
CERTAIN = 0.6  # of a message's letters: those that a text has too, not what is filled into it
BACKEND, VERSIONS = "lib/libmindspore_ms_backend.so", "run_check/_check_version.py"
MINDSPORES = {  # message -> which file of its wheel has it
    "Numpy init failed": "lib/libmindspore_common.so",
    "version checking is skipped": VERSIONS,
    "Cannot find the tbe operator implementation": VERSIONS,
    "It seems that you did not set up the ACL graph before the first step": BACKEND,
    "the number of subgraphs you captured exceeded the hardware limit": BACKEND,
    "doesn't support multi-stream case": BACKEND,
    "current parameter device address has changed": BACKEND,
    "got a non-contiguous memory layout tensor": BACKEND,
}
SGLANGS = {  # message -> which file of its package has it
    "Prefill bootstrap failed for request": "disaggregation/prefill.py",
    "Prefill transfer failed for request": "disaggregation/prefill.py",
    "Decode transfer failed for request": "disaggregation/decode.py",
}
SYSTEMS = {  # who else says it
    "... libatb.so: cannot open shared object file": "the loader of Linux, of NNAL's library",
    "Getting socket times out": "HCCL, of an error EI0006",
    "returned a result with an exception set": "Python, of a C extension that was built for another numpy",
}


def messages() -> list[str]:
    by_message = PAGE.split("## Debug recipes")[0]
    cells = [line.split(" | ")[0] for line in by_message.splitlines() if line.startswith("| `")]
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def text_of(node) -> str | None:
    """A string of a source file, with ANY for each value that is filled in; None for other nodes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or ANY for part in node.values)
    return None


@functools.cache
def texts() -> list[str]:
    files = (ROOT / "python").rglob("*.py")
    found = (text_of(node) for file in files for node in ast.walk(ast.parse(file.read_text())))
    return sorted({re.sub("%[sd]", ANY, " ".join(text.split(" "))) for text in found if text and len(text) > 7})


def shared(message: str, text: str) -> int:
    """How many letters of a message a text has at its place, where one can be a part of the other; or -1."""
    best = [0] * (len(text) + 1)  # for what is left of the message, by where the text goes on
    for letter in reversed(message):
        now = [-1 if letter != ANY else best[-1]] * (len(text) + 1)
        for place in range(len(text) - 1, -1, -1):
            if ANY in (letter, text[place]):
                now[place] = max(best[place], now[place + 1])
            elif text[place] == letter and best[place + 1] >= 0:
                now[place] = best[place + 1] + 1
        best = now
    return max(best)


def is_ours(message: str) -> bool:
    pattern = re.sub(r"\.\.\.|\b[NM]\b", ANY, message)
    letters, words = len(pattern.replace(ANY, "")), set(re.findall(r"[A-Za-z]{5,}", pattern))
    near = (text for text in texts() if sum(word in text for word in words) >= len(words) // 2)
    return any(shared(pattern, text) >= CERTAIN * letters for text in near)


def is_mindspores(message: str) -> bool:
    with (Path(mindspore.__file__).parent / MINDSPORES[message]).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).find(message.encode()) >= 0


def is_sglangs(message: str) -> bool:
    return message in (Path(version.__file__).parent / "srt" / SGLANGS[message]).read_text()


def is_somebodys(message: str) -> bool:
    if message in MINDSPORES:
        return is_mindspores(message)
    return is_sglangs(message) if message in SGLANGS else is_ours(message)


def test_there_are_messages():
    assert len(messages()) > 60 and set(messages()) >= {*MINDSPORES, *SGLANGS, *SYSTEMS}


@pytest.mark.parametrize("message", messages())
def test_somebody_says_a_message(message):
    assert message in SYSTEMS or is_somebodys(message)


@pytest.mark.parametrize(
    "message",
    [
        "the NPU is out of money",
        "the captured graph for N requests equals the graph",
        "--page-size 1: PagedAttention writes pages of ...",
        "rank N of M did not go within 180 s",
    ],
)
def test_what_nobody_says_is_found_out(message):
    assert not is_ours(message)

"""Faults, each as a change of the sources and the tests that fail with it: makes them in turn, and undoes them.

A list of them is a file of its own, which ends with `run(MUTATIONS)`. Nothing else may change the sources meanwhile.
Those of C++ operators are built with each fault, and without it again, which takes minutes.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutation(NamedTuple):
    """A fault: in a file, `new` in the place of `old`, which is there once; and what is to fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str  # arguments of pytest

    def check(self) -> None:
        """AssertionError where it cannot be made."""
        count = (ROOT / self.file).read_text(encoding="utf-8").count(self.old)
        assert count == 1, f"{count} times in {self.file}"
        assert (ROOT / self.tests.split()[0]).is_file()


def fails(mutation: Mutation) -> bool:
    """Whether the tests of a mutation fail with it."""
    path = ROOT / mutation.file
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        _build(path)
        command = f"{sys.executable} -m pytest -q -x -p no:cacheprovider {mutation.tests}"
        return subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, check=False).returncode == 1
    finally:
        path.write_text(before, encoding="utf-8")
        _build(path)


def _build(path: Path) -> None:
    """Build the operators if this is a file of theirs."""
    if path.suffix in (".h", ".cpp"):
        subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=ROOT, check=True)


def run(mutations: Sequence[Mutation]) -> None:
    """Those whose names have the script's argument in them, or all; exits with 1 where tests pass with a fault."""
    wanted, survived = sys.argv[1] if len(sys.argv) > 1 else "", False
    for mutation in mutations:
        if wanted in mutation.name:
            failed = fails(mutation)
            survived |= not failed
            print(f"{'fails' if failed else 'SURVIVES'}: {mutation.name}", flush=True)
    sys.exit(survived)

"""What `make test` runs of the tests, and what only `make test-all` does; how long their files take; checks in a loop.

A test file says how many seconds of a processor it takes: `SECONDS = 40`, or `SECONDS = 40, 300` where it has tests
that are marked slow: without and with these.
"""

import ast
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

SLOW = pytest.mark.slow  # one more case of what another test covers: `make test` leaves it out
NAME = "SECONDS"


@functools.cache
def seconds(path: Path, slow: bool) -> int:
    """Of all tests of a file, 0 if it does not say; slow: with those that `make test` leaves out."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == NAME:
            declared = ast.literal_eval(node.value)
            first, last = declared if isinstance(declared, tuple) else (declared, declared)
            return last if slow else first
    return 0


def mostly_slow(cases: Iterable, quick: Callable[..., bool]) -> list:
    """The cases of a parametrized test, slow but for those of whose values quick(*values) is true."""
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    assert any(quick(*case) for case in values), "then `make test` would run none of them"
    return [pytest.param(*case, marks=() if quick(*case) else SLOW) for case in values]


def of_dtypes(cases: Sequence, dtypes: Iterable) -> list:
    """Parameters (case, dtype), slow but for all cases in the first dtype, and the first case in the others."""
    first, *others = dtypes
    both = [(case, dtype) for dtype in (first, *others) for case in cases]
    return mostly_slow(both, lambda case, dtype: dtype == first or case == cases[0])


def offenders(check: Callable, cases: Iterable) -> list[str]:
    """What check(case) says of each case that it fails for: a loop in one test tells of all of them."""
    found, passed = [], 0
    for case in cases:
        try:
            check(case)
            passed += 1
        except (Exception, pytest.fail.Exception) as error:
            found.append(f"{case}: {error or type(error).__name__}")
    assert found or passed, "there was nothing to check"
    return found

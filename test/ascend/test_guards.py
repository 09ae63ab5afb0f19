"""Every rule that the kernels which check enforce: a call that breaks it and no other, and is refused for it."""

import ast
import contextlib
import inspect
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ascend import calls, calls_quant

from sglang.srt.layers_ms.ops import ascend, ascend_reference
from sglang.srt.layers_ms.ops.ascend_reference import (
    attention,
    collectives,
    dense,
    experts,
    memory,
    mla,
    quant,
    windows,
)
from sglang.srt.layers_ms.ops.ascend_reference.memory import ContractError

SECONDS = 1
MODULES = (attention, collectives, dense, experts, mla, quant, windows)
RULES = ("require", "check", "check_lengths")  # of memory.py, by which rules are written
CALLS = calls.CALLS | calls_quant.CALLS
CASES = [(kernel, replaced) for kernel, (_, *broken) in CALLS.items() for replaced in broken]
GROUPS = {  # what the ranks of a group give each other, this one's first
    "ranks": lambda mine: [mine, mine],
    "others": lambda mine: [mine, mine[:1]],
    "sums": lambda mine: [mine, mine],
    "three": lambda mine: [mine] * 3,
    "sent": lambda mine: [mine, (0, np.ones((2, 3), np.float32))],
    "blocks": lambda mine: [mine, (np.ones(6, np.float32), np.array([3, 3]))],
}


@pytest.fixture(autouse=True)
def groups(monkeypatch):
    monkeypatch.setattr(
        collectives, "groups", {name: (len(gather(np.ones(2))), gather, 0) for name, gather in GROUPS.items()}
    )


@pytest.fixture
def broken(monkeypatch):
    """The rules, as file and line, that were broken from here on."""
    found = []

    def noticed(rule):
        def call(*arguments, **options):
            at = sys._getframe(1)
            try:
                return rule(*arguments, **options)
            except ContractError:
                found.append((Path(at.f_code.co_filename).name, at.f_lineno))
                raise

        return call

    for module in MODULES:
        for name in RULES:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, noticed(getattr(memory, name)))
    return found


def rules(module) -> set:
    """Where a module has them."""
    calls = (node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Call))
    named = (node for node in calls if isinstance(node.func, ast.Name) and node.func.id in RULES)
    return {(Path(module.__file__).name, node.lineno) for node in named}


@pytest.mark.parametrize("kernels", [ascend, ascend_reference], ids=lambda package: package.__name__.rpartition(".")[2])
def test_a_kernel_is_defined_once(kernels):
    """Of two functions of a name, `kernels` would have the one that is imported last, and doubles the first."""
    files = Path(kernels.__file__).parent.glob("*.py" if kernels is ascend_reference else "kernels*.py")
    bodies = [node for path in files for node in ast.parse(path.read_text(encoding="utf-8")).body]
    names = [node.name for node in bodies if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert {"select", "where"} <= set(names)


@pytest.mark.parametrize("kernel", CALLS, ids=lambda kernel: kernel.__name__)
def test_the_calls_that_are_broken_are_good_ones(kernel):
    kernel(*CALLS[kernel][0])


@pytest.mark.parametrize("kernel, replaced", CASES, ids=lambda case: getattr(case, "__name__", None))
def test_a_call_that_breaks_a_rule_is_refused(kernel, replaced):
    good, *_ = CALLS[kernel]
    with pytest.raises(ContractError):
        kernel(*(replaced.get(place, argument) for place, argument in enumerate(good)))


def test_every_rule_is_broken_by_one_of_these_calls(broken):
    for kernel, replaced in CASES:
        good, *_ = CALLS[kernel]
        with contextlib.suppress(ContractError):
            kernel(*(replaced.get(place, argument) for place, argument in enumerate(good)))
    assert set().union(*map(rules, MODULES)) == set(broken)

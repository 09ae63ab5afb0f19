"""The first ten minutes on a card: what only a card can tell, in order, each with one verdict and what avoids a fault.

python benchmark/ascend/first_run.py --report first_run.md

Each check runs in processes of its own, so that one that crashes or hangs leaves the others alone. The report has every
verdict, the output of check_env, and the flags and variables with which a server avoids what is wrong: send it in.
Exit code 0: nothing is wrong; 1: something is, and the report says what avoids it; else as check_env.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import first_checks
from first_checks import Outcome

from sglang.srt.model_executor_ms import check_env

MODEL = Path(__file__).resolve().parents[2] / "ms_example/demo_model"
MARK = "first_run outcome: "  # before each outcome on a check's standard output
RIGHT, WRONG, NOT_RUN = "right", "WRONG", "not run"


@dataclass(frozen=True)
class Check:
    """One unknown. run: a function of first_checks; environments: variables of the processes that run it."""

    name: str
    asks: str
    run: Callable[..., list[Outcome]]
    avoid: str  # what a server does without, where nothing better is known
    environments: Sequence[Mapping[str, str]] = ({},)
    cards: int = 1
    seconds: int = 600  # of each process


@dataclass
class Verdict:
    """Of a check."""

    check: Check
    outcomes: list[Outcome] = field(default_factory=list)
    trouble: str = ""  # why a process gave no outcome
    seconds: float = 0.0

    @property
    def word(self) -> str:
        if self.wrong or self.trouble:
            return WRONG
        return RIGHT if self.outcomes else NOT_RUN

    @property
    def wrong(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.needed and not outcome.right]

    @property
    def avoid(self) -> list[str]:
        """What a server is to be started with, or to do without."""
        better = next((one.switch for one in self.outcomes if one.right and not one.needed and one.switch), None)
        found = [outcome.switch or better or self.check.avoid for outcome in self.wrong]
        if self.trouble and not found:
            found = [better or self.check.avoid]
        return list(dict.fromkeys(found))


PAGED = "MS_INTERNAL_DISABLE_CUSTOM_KERNEL_LIST"
CHECKS = (
    Check(
        "weights",
        "Are weights on the card what the loader has filled?",
        first_checks.weights,
        avoid="--framework torch, until it is mended: report it",
    ),
    Check(
        "inputs",
        "Does a graph read what torch has written to its inputs since the last call?",
        first_checks.inputs,
        avoid="--framework torch, until it is mended: report it",
    ),
    Check(
        "padding rows",
        "Does PagedAttention leave other rows alone where a request has no context?",
        first_checks.padding_rows,
        avoid="--disable-decode-cuda-graph, without which no row is padding",
        environments=({PAGED: "FlashAttentionScore,PagedAttention"}, {PAGED: "FlashAttentionScore"}),
    ),
    Check(
        "operators",
        "Does every kernel of the table compute what the reference computes, at one shape?",
        first_checks.operators,
        avoid="--framework torch",
    ),
    Check(
        "captured graphs",
        "Do captured decode graphs answer two batches as uncaptured ones do?",
        first_checks.captured_graphs,
        avoid="--disable-decode-cuda-graph",
        seconds=1200,
    ),
    Check(
        "two cards",
        "Do two cards answer as one does?",
        first_checks.two_cards,
        avoid="--tp-size 1",
        cards=2,
        seconds=1800,
    ),
)


def child(check: Check, card) -> None:
    """Run a check in this process, and print its outcomes."""
    for outcome in check.run(card):
        print(MARK + json.dumps(dataclasses.asdict(outcome)), flush=True)


def command_of(check: Check, model: str) -> list[str]:
    """What runs a check in a process of its own."""
    return [sys.executable, __file__, "--check", check.name, "--model-path", model]


def run(check: Check, model: str, command: Callable = command_of) -> Verdict:
    """Run a check in its processes, one after the other."""
    verdict, begun = Verdict(check), time.monotonic()
    for variables in check.environments:
        ended, printed = _ended(command(check, model), variables, check.seconds)
        lines = [line.removeprefix(MARK) for line in printed.splitlines() if line.startswith(MARK)]
        verdict.outcomes += [Outcome(**json.loads(line)) for line in lines]
        if ended or not lines:
            told = "".join(f", with {name}={value}" for name, value in variables.items())
            verdict.trouble += f"a process {ended or 'told nothing'}{told}:\n{printed[-2000:]}\n"
    verdict.seconds = time.monotonic() - begun
    return verdict


def _ended(command, variables, seconds) -> tuple[str, str]:
    """Run a command -> how it ended, empty if well, and all that it has printed."""
    with tempfile.TemporaryFile("w+") as log:
        called = dict(stdout=log, stderr=subprocess.STDOUT, env=os.environ | dict(variables), timeout=seconds)
        try:
            code = subprocess.run(command, **called).returncode
            ended = f"ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            ended = f"did not end within {seconds} s"
        log.seek(0)
        return ended, log.read()


def render(verdicts: Iterable[Verdict], environment: str) -> str:
    """The report, in Markdown."""
    verdicts = list(verdicts)
    lines = ["# First run on a card", "", "| check | verdict | seconds |", "| --- | --- | --- |"]
    lines += [f"| {one.check.name} | {one.word} | {one.seconds:.0f} |" for one in verdicts]
    lines += ["", advice(verdicts), ""]
    for one in verdicts:
        lines += [f"## {one.check.name}: {one.word}", "", one.check.asks, ""]
        lines += [f"* {_told(outcome)}" for outcome in one.outcomes]
        lines += [f"* what avoids it: `{text}`" for text in one.avoid]
        lines += ["", "```", one.trouble.rstrip(), "```"] if one.trouble else []
        lines += [""]
    return "\n".join([*lines, "## Environment", "", "```", environment, "```", ""])


def _told(outcome):
    word = "right" if outcome.right else "WRONG" if outcome.needed else "wrong, which no server depends on"
    return f"{outcome.label}: {word}: {outcome.found}"


def advice(verdicts: Iterable[Verdict]) -> str:
    """How to start a server, in one line."""
    found = list(dict.fromkeys(text for verdict in verdicts for text in verdict.avoid))
    return f"A server avoids what is wrong with: {'; '.join(found)}" if found else "Nothing is to be avoided."


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="first_run", description=__doc__)
    parser.add_argument("--model-path", default=str(MODEL), help="a small model for the checks that serve")
    parser.add_argument("--report", default="first_run.md", help="the file to send in")
    parser.add_argument("--check", help="run one check, in this process: its name")
    options = parser.parse_args(arguments)
    if options.check:
        child(next(check for check in CHECKS if check.name == options.check), first_checks.Card(options.model_path))
        return 0
    installed = check_env.look(check_env.read_ascend_environment())
    findings, code = check_env.check(installed)
    environment = check_env.render(findings, code)
    print(environment)
    if code != check_env.READY:
        return code
    return all_checks(CHECKS, len(installed.cards), environment, options)


def all_checks(checks: Sequence[Check], cards: int, environment: str, options, run_one: Callable = run) -> int:
    """Run those that there are enough cards for, and write the report after each, whatever the next one does."""
    verdicts = []
    for check in checks:
        verdict = run_one(check, options.model_path) if check.cards <= cards else Verdict(check)
        verdicts.append(verdict)
        print(f"{verdict.word:8} {check.name}: {check.asks}", flush=True)
        for text in verdict.avoid:
            print(f"{'':8}   -> {text}", flush=True)
        Path(options.report).write_text(render(verdicts, environment))
    print(f"{advice(verdicts)}\nreport: {options.report}")
    return int(any(verdict.word == WRONG for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())

"""Runs the kits of sglang.test.kits against servers of ours, prints a table, and compares it with the recorded one.

PYTHONPATH=test python -m sglang_kits.run                  # on the demo model
PYTHONPATH=test python -m sglang_kits.run --model FOLDER   # of another checkpoint: prints the table, compares nothing
PYTHONPATH=test python -m sglang_kits.run --record         # writes results.json
"""

import argparse
import contextlib
import importlib
import inspect
import io
import json
import pkgutil
import re
import signal
import sys
import tempfile
import time
import unittest
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from serving.conftest import MODEL, Server

from sglang_kits.kits import BEYOND_DEMO, COMMON, KITS, LEFT_OUT, SERVERS, SETTINGS

HERE = Path(__file__).parent
RECORDED = HERE / "results.json"
LIMIT = 240  # seconds for one test


class TooLong(Exception):
    """A test has not ended in its time."""


def modules() -> Iterator[str]:
    import sglang.test.kits

    return (one.name for one in pkgutil.iter_modules(sglang.test.kits.__path__) if not one.ispkg)


def unlisted() -> list[str]:
    """Kits of the installed SGLang that are neither run nor left out."""
    listed, found = {*KITS, *LEFT_OUT}, []
    for module in modules():
        if module in listed:
            continue
        text = (Path(importlib.import_module("sglang.test.kits").__path__[0]) / f"{module}.py").read_text()
        for name in re.findall(r"^class (\w+)", text, re.MULTILINE):
            methods = text.partition(f"class {name}")[2].partition("\nclass ")[0]
            if "def test_" in methods and f"{module}.{name}" not in listed:
                found.append(f"{module}.{name}")
    return found


def case_of(kit: str, server: Server, model: str) -> type[unittest.TestCase]:
    """The kit as a test case that asks this server."""
    import openai
    from transformers import AutoTokenizer

    from sglang.test.server_fixtures.spec_eagle_fixture import SpecEagleServerBase

    module, _, name = kit.partition(".")
    mixin = getattr(importlib.import_module(f"sglang.test.kits.{module}"), name)
    clients = {
        method: getattr(SpecEagleServerBase, method) for method in ("send_request", "send_requests_abort", "run_decode")
    }
    known = {"base_url": server.url, "model": model, "process": server.process, "pause_target_urls": [server.url]}
    known["tokenizer"] = AutoTokenizer.from_pretrained(model)
    known["client"] = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    return type(name, (mixin, unittest.TestCase), clients | known | SETTINGS[""] | SETTINGS.get(kit, {}))


def run_test(case: type[unittest.TestCase], method: str) -> tuple[str, str, float]:
    """-> passed, failed or skipped; the last line of why; seconds"""

    def late(*_):
        raise TooLong(f"more than {LIMIT} s")

    result, begin = unittest.TestResult(), time.monotonic()
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            case(method).run(result)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    problems = [text for _, text in (*result.failures, *result.errors)]
    outcome = "failed" if problems else "skipped" if result.skipped else "passed"
    why = problems[0].strip().splitlines()[-1] if problems else ""
    return outcome, why[:200], time.monotonic() - begin


def run_kits(model: str, only: str) -> dict[str, str]:
    """Runs all kits whose names match; prints a line a test. -> outcome by kit.method"""
    found = {}
    for name, (flags, environment) in SERVERS.items():
        kits = [kit for kit, server in KITS.items() if server == name and re.search(only, kit)]
        if not kits:
            continue
        with contextlib.ExitStack() as meanwhile:
            meanwhile.enter_context(mock.patch.dict("os.environ", environment))
            log = Path(tempfile.mkstemp(suffix=".log", prefix="kits")[1])
            server = Server(log, *COMMON, *flags, model=model).await_ready()
            meanwhile.callback(server.stop)
            for kit in kits:
                case = case_of(kit, server, model)
                for method, _ in inspect.getmembers(case, callable):
                    if not method.startswith("test_") or (model == MODEL and f"{kit}.{method}" in BEYOND_DEMO):
                        continue
                    outcome, why, seconds = run_test(case, method)
                    found[f"{kit}.{method}"] = outcome
                    print(f"{outcome:8}{seconds:6.1f} s  {kit}.{method}  {why}", flush=True)
                    if not server.alive():
                        raise SystemExit(f"the server has ended: {log}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--only", default="", help="a pattern of kits' names")
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    if new := unlisted():
        print(f"neither run nor left out, in {HERE / 'kits.py'}: {', '.join(new)}")
        return 1
    found = run_kits(chosen.model, chosen.only)
    print(
        f"{len(found)} tests: "
        + ", ".join(f"{list(found.values()).count(kind)} {kind}" for kind in set(found.values()))
    )
    for name, reason in (LEFT_OUT | (BEYOND_DEMO if chosen.model == MODEL else {})).items():
        print(f"left out  {name}: {reason}")
    if chosen.record:
        RECORDED.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    if chosen.model != MODEL or chosen.only:
        return 0
    recorded = json.loads(RECORDED.read_text())
    changed = [name for name in sorted(found.keys() | recorded.keys()) if found.get(name) != recorded.get(name)]
    for name in changed:
        print(f"differs  {name}: {recorded.get(name)} recorded, {found.get(name)} now")
    return bool(changed)


if __name__ == "__main__":
    sys.exit(main())

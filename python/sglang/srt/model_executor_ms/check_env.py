"""python -m sglang.srt.model_executor_ms.check_env: what an Ascend NPU needs, what of it is missing, how to get it.

Exit code 0: all is there. 1: something is missing or does not fit. 3: all is there that could be, but no NPU.
"""

import argparse
import importlib
import importlib.util
import json
import sys
from dataclasses import asdict

from sglang.srt.model_executor_ms.environment import read_ascend_environment
from sglang.srt.model_executor_ms.npu.installation import Installation, look
from sglang.srt.model_executor_ms.npu.known_versions import Finding, judge

READY, INCOMPLETE, NO_NPU = 0, 1, 3


def backend_error() -> str | None:
    """Why MindSpore's Ascend backend does not load, in its own words, or None. Imports MindSpore."""
    if importlib.util.find_spec("mindspore") is None:
        return "MindSpore is not installed"
    from sglang.srt.model_executor_ms.npu import mindspore_device

    return mindspore_device.loads()


def crossing_error() -> str | None:
    """Why a tensor on the card does not reach MindSpore and come back, or None. Takes the card."""
    from sglang.srt.model_executor_ms.npu import mindspore_device
    from sglang.srt.model_executor_ms.npu.crossing import lost

    try:
        importlib.import_module("torch_npu")  # which older torch does not do by itself
        mindspore_device.take_card(0)
        return lost("npu:0")
    except Exception as error:  # whatever torch_npu or MindSpore raise is the answer
        return f"{type(error).__name__}: {error}"


def check(found: Installation, load_error=backend_error, crossing_error=crossing_error) -> tuple[list[Finding], int]:
    """-> the findings, and the exit code. load_error: asked only where there are a card and CANN; then crossing_error,
    where it loads and packages are right."""
    findings = judge(found)
    if found.cards and found.cann:
        error = load_error()
        problem = error and f"{error}: source CANN's and NNAL's set_env.sh in this shell"
        findings.append(Finding("MindSpore's Ascend backend", "does not load" if error else "loads", problem))
        if not any(finding.problem for finding in findings):
            findings.append(_crossing(crossing_error()))
    if any(finding.problem for finding in findings) and found.cards:
        return findings, INCOMPLETE
    return findings, READY if found.cards else NO_NPU


def _crossing(error):
    problem = error and f"{error}; is this torch_npu of the CANN that is set up?"
    return Finding("a bfloat16 tensor by DLPack", "is lost" if error else "crosses and comes back", problem)


def render(findings: list[Finding], code: int) -> str:
    """One line a finding, what to do below it, and a last line that sums up."""
    lines = []
    for finding in findings:
        mark = "!!" if finding.problem else "??" if finding.hint else "ok"
        lines.append(f"{mark} {finding.what:27} {finding.found}")
        lines += [f"   {'':27} -> {text}" for text in (finding.problem, finding.hint) if text]
    return "\n".join([*lines, _SUMMARY[code]])


_SUMMARY = {
    READY: "ready: --framework mindspore --device npu",
    INCOMPLETE: "not ready: repair what is marked !!",
    NO_NPU: "no NPU: only --framework mindspore --device cpu can serve here",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="check_env", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON, for a report")
    options = parser.parse_args(arguments)
    findings, code = check(look(read_ascend_environment()))
    if options.json:
        print(json.dumps({"code": code, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print(render(findings, code))
    return code


if __name__ == "__main__":
    sys.exit(main())

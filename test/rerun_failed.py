"""Runs the tests that just failed once more, alone: `make test` and `make test-all` do so after a failure.

On a busy machine a server may start too late for its test. Such a test is flaky, and is named. It wants mending, but it
tells nothing about the change that was tested. Many failures are no accident, and nothing is run again.
"""

import json
import subprocess
import sys
from pathlib import Path

FLAKY = 8  # at most so many tests of one run may be flaky


def rerun(root: Path) -> int:
    """Exit status: 0 if few tests failed and all of them pass now."""
    failed = list(json.loads((root / ".pytest_cache/v/cache/lastfailed").read_text()))
    if not 0 < len(failed) <= FLAKY:
        return 1
    print(f"\n{len(failed)} failed, and run once more, alone:", *failed, sep="\n  ", flush=True)
    status = subprocess.run([sys.executable, "-m", "pytest", "-m", "", *failed], cwd=root).returncode
    if status == 0:
        print("flaky, as they failed beside others and pass alone:", *failed, sep="\n  ", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(rerun(Path(__file__).parent.parent))

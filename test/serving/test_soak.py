"""A short mixed load leaves nothing behind: benchmark/soak.py, of which `make soak` runs ten minutes."""

import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 1, 150
SOAK = Path(__file__).parents[2] / "benchmark/soak.py"


@pytest.mark.slow
@pytest.mark.parametrize("servers", ["alone", "disaggregated"])
def test_a_server_holds_after_a_load_what_it_held_before(servers):
    if servers == "disaggregated":
        pytest.importorskip("nixl")
    flags = [] if servers == "alone" else ["--disaggregated"]
    done = subprocess.run(
        [sys.executable, SOAK, "--minutes", "0.6", *flags], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

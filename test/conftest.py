"""What all tests share: MindSpore started as a server starts it, on each operator table in turn."""

import os

import pytest

# Torch's OpenMP workers spin after every product, and keep MindSpore's threads from the cores: 25 ms a step, not 3.
# Read when torch loads its OpenMP library; servers that tests start inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from sglang.srt.model_executor_ms import device

TABLES = ["reference", "cpu"]  # of a CPU; a new table joins the tests of operators, layers and models by its name here


@pytest.fixture(scope="session", params=TABLES)
def table(request):
    """The name of the operator table under test, which is bound."""
    device.start("cpu", request.param)
    return request.param

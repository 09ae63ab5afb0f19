"""What all tests share: MindSpore started as a server starts it, on each operator table in turn; and their order.

`make test` runs two processes of tests side by side, a file in one of them (xdist, --dist loadfile), in this order.
"""

import os

import mindspore as ms
import pytest
from models.results import CACHED, Results, merged
from tiers import seconds

# Torch's OpenMP workers spin after every product, and keep MindSpore's threads from the cores: 25 ms a step, not 3.
# Read when torch loads its OpenMP library; servers that tests start inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from sglang.srt.model_executor_ms.runner import device

# As device.start does on a CPU, and too late there where tests of an NPU's table have come first: writes would not be
# ordered against torch's reads.
ms.runtime.launch_blocking()

TABLES = ["reference", "cpu"]  # of a CPU; a new table joins the tests of operators, layers and models by its name here


@pytest.fixture(scope="session", params=TABLES)
def table(request):
    """The name of the operator table under test, which is bound."""
    device.start("cpu", request.param)
    return request.param


PARAMETERS = ("table", "variant")  # what takes long to make for each value


def group(item) -> tuple:
    """Of the tests that should follow each other."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return (item.path, *(str(parameters[name]) for name in PARAMETERS if name in parameters))


@pytest.hookimpl(trylast=True)  # pytest has brought together what shares a fixture's parameter: groups stay so
def pytest_collection_modifyitems(config, items):
    """Files that start servers come first, in processes that hold no compiled models yet; and then the longest first.

    A process takes the next file when it has ended one, so that at the end none is idle for long.
    """
    slow = "not slow" not in config.getoption("markexpr")
    groups = {name: number for number, name in enumerate(dict.fromkeys(map(group, items)))}

    def place(item):
        return item.path.parent.name != "serving", -seconds(item.path, slow), item.path, groups[group(item)]

    items.sort(key=place)


RESULTS = Results()


def pytest_runtest_logreport(report):
    if report.when == "call" and not report.skipped:
        RESULTS.finished(report.user_properties, report.passed)


def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput") and hasattr(session.config, "cache"):  # others report to this process
        cache = session.config.cache
        cache.set(CACHED, merged(cache.get(CACHED, {}), RESULTS.found))

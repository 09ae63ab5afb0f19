"""The Ascend table as an NPU has it, and with kernels that check what they are given; models on it."""

import functools

import pytest
from models.tiny import save

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.model_executor_ms.runner import device

from .model import NpuModel


@pytest.fixture(scope="module")
def bound_before():
    """Whatever table other tests have bound, or none, is bound again at the end."""
    before = {name: getattr(ops, name) for name in (*ops.NAMES, "_bound")}
    yield
    vars(ops).update(before)
    kernels.bind()


@pytest.fixture(scope="module")
def checked(bound_before):
    """The operators of the table ascend_reference, bound."""
    device.start("cpu", "ascend_reference")


@pytest.fixture(scope="module")
def model_of(checked, tmp_path_factory):
    """Function of a variant of models/tiny.py and a dtype -> its checkpoint on pages."""

    @functools.cache
    def load(variant, dtype="float16"):
        return NpuModel(save(variant, tmp_path_factory.mktemp("checkpoint"), dtype), dtype)

    return load


@pytest.fixture
def calls(monkeypatch):
    """The calls of kernels from here on: (name, arguments)."""
    made = []

    def recorded(name, kernel):
        def call(*arguments):
            made.append((name, arguments))
            return kernel(*arguments)

        return call

    for name in kernels._OWN:
        monkeypatch.setattr(kernels, name, recorded(name, getattr(kernels, name)))
    return made


@pytest.fixture
def chip_310p(checked, monkeypatch):
    monkeypatch.setattr(kernels, "soc", lambda: "ascend310p")

"""The dispatch: which class runs the model for a framework and a device."""

import pytest

from sglang.srt.model_executor import model_runner as sglangs
from sglang.srt.model_executor_ms.model_runner import MindSporeModelRunner, UnsupportedDevice, runner_for

SECONDS = 1


@pytest.mark.parametrize("device", ["cpu", "npu", "npu:1"])
def test_mindspore_runs_on_these_devices(device):
    assert runner_for("mindspore", device) is MindSporeModelRunner


def test_the_runner_is_sglangs_with_a_few_methods_of_ours():
    assert issubclass(MindSporeModelRunner, sglangs.ModelRunner)
    ours = {name for name, thing in vars(MindSporeModelRunner).items() if callable(thing)}
    assert all(hasattr(sglangs.ModelRunner, name) for name in ours)


@pytest.mark.parametrize(("framework", "device"), [("mindspore", "cuda"), ("mindspore", "xpu:0"), ("torch", "cpu")])
def test_anything_else_is_an_error_that_names_what_there_is(framework, device):
    with pytest.raises(UnsupportedDevice) as caught:
        runner_for(framework, device)
    message = str(caught.value)
    assert f"framework {framework} on device {device}" in message
    assert "mindspore on npu" in message and "mindspore on cpu" in message

"""Net 1 for whole models: the graphs of the Ascend table compile, of dynamic shapes and one for each kind of steps."""

import numpy as np
import pytest
from models.harness import Requests
from models.tiny import save

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.model_executor_ms.graphs import compilations

from .inference import LACKING
from .model import PAGE, NpuModel


@pytest.fixture
def model_of(bound_before, monkeypatch, tmp_path):
    """Function of a variant -> it, on the operators of an NPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kernels, "soc", lambda: "ascend910b")
    ops.select("ascend", fallback="reference")
    ops.start([0])

    def load(variant):
        return NpuModel(save(variant, tmp_path, "bfloat16"), "bfloat16", PAGE)

    return load


@pytest.mark.parametrize(
    "variant",
    [
        *("qwen3@32", "llama-gelu@16", "gemma@16", "stablelm-parallel@h192", "glm4@32", "olmo2@16", "granite@16"),
        *("gemma3@16", "mistral-wide-window@16", "gemma2@16", "gpt_oss@16", "baichuan-13b@h96"),
        *("qwen3_moe@16", "deepseek_v3@16", "deepseek_v2@32", "minicpm3@16"),
    ],
)
def test_a_graph_for_every_kind_of_steps_passes_inference(model_of, variant):
    requests, before = Requests(model_of(variant), PAGE), compilations()
    ids = np.random.default_rng(0).integers(0, 131, 40)
    for step in ({"a": ids[:5], "b": ids[:20]}, {"a": ids[:3], "b": ids[:1]}, {"a": ids[:1], "b": ids[:1]}):
        assert_lacks_the_first(requests, step)
    assert compilations() == before


def assert_lacks_the_first(requests, step):
    """The embedding, the graph's first operator, is the first that a CPU has no kernel for."""
    with pytest.raises(TypeError) as error:
        requests.step(step)
    found = LACKING.search(str(error.value))
    assert found and found[2] == "Gather", str(error.value)


@pytest.mark.parametrize("variant", ["gemma2@16", "gpt_oss@16", "baichuan-13b@h96"])
def test_a_graph_that_decodes_in_one_round_passes_inference(model_of, variant):
    requests = Requests(model_of(variant), PAGE)
    requests.model.graph.runner.parts = lambda queries, _: [(host.AT_ONCE, np.arange(len(queries)))]
    assert_lacks_the_first(requests, {"a": np.arange(1), "b": np.arange(1)})

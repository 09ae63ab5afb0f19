"""Another distribution's framework: found through its entry point, and served by SGLang's Engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiers import SLOW

SECONDS = 1, 30
pytestmark = SLOW  # one more framework: others show how each is found and served
MODEL = Path(__file__).parents[2] / "ms_example/demo_model"

# The other distribution's only module. It knows SGLang's seams, the registry and nothing of MindSpore.
FRAMEWORK = """
import torch
from sglang.srt.model_executor_ms.environment import select_cpu_platform
from sglang.srt.model_executor_ms.server.frameworks import Framework

TOKEN = 77  # what it always answers


class ConstantModel(torch.nn.Module):
    def __init__(self, config, quant_config=None):
        super().__init__()
        self.vocab_size = config.vocab_size

    def load_weights(self, weights):
        pass

    def forward(self, input_ids, positions, forward_batch):
        from sglang.srt.layers.logits_processor import LogitsProcessorOutput

        logits = torch.zeros(forward_batch.batch_size, self.vocab_size)
        logits[:, TOKEN] = 100.0
        return LogitsProcessorOutput(next_token_logits=logits)


def configure(server_args):
    from sglang.srt.arg_groups.overrides import declare_resolution

    select_cpu_platform(True)
    declare_resolution(
        server_args,
        "constant",
        device="cpu",
        attention_backend="constant",
        cuda_graph_backend_decode="disabled",
        cuda_graph_backend_prefill="disabled",
    )


def activate(server_args, role):
    if role != "scheduler":
        return
    from sglang.srt.environ import envs
    from sglang.srt.layers.attention.attention_registry import register_attention_backend
    from sglang.srt.layers.attention.base_attn_backend import AttentionBackend

    class NoAttention(AttentionBackend):
        def __init__(self, model_runner):
            super().__init__()
            self.forward_metadata = None

        def init_forward_metadata(self, forward_batch):
            pass

    register_attention_backend("constant")(NoAttention)
    with envs.SGLANG_EXTERNAL_MODEL_PACKAGE.override("sglang.srt.models_ms"):
        from sglang.srt.models.registry import ModelRegistry
    ModelRegistry.models = {"Qwen3ForCausalLM": ConstantModel}
    ModelRegistry._default_models_loaded = True


CONSTANT = Framework("constant", lambda: None, configure=configure, activate=activate)
"""

PROGRAM = """
import json, sys
import sglang
from sglang.srt.model_executor_ms.server import frameworks

if __name__ == "__main__":
    engine = sglang.Engine(
        model_path=sys.argv[1], framework="constant", max_total_tokens=512, dtype="float32", disable_radix_cache=True
    )
    try:
        parameters = {"temperature": 0, "max_new_tokens": 5, "ignore_eos": True}
        answer = engine.generate(input_ids=[5, 6, 7], sampling_params=parameters)
        print("ANSWER" + json.dumps({"ids": answer["output_ids"], "names": frameworks.names()}))
    finally:
        engine.shutdown()
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """What a program prints that runs beside the other distribution."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "constant_framework.py").write_text(FRAMEWORK)
    information = folder / "constant_framework-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: constant-framework\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[sglang.srt.frameworks]\nconstant = constant_framework:CONSTANT\n")
    program = folder / "program.py"
    program.write_text(PROGRAM)
    ended = subprocess.run(
        [sys.executable, str(program), str(MODEL)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=400,
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("ANSWER")]
    assert lines, ended.stdout[-2000:] + ended.stderr[-4000:]
    return json.loads(lines[0].removeprefix("ANSWER"))


def test_it_is_listed_beside_ours(answer):
    assert answer["names"] == ["constant", "mindspore", "torch"]


def test_it_serves_a_request_through_sglangs_engine(answer):
    assert answer["ids"] == [77] * 5

"""A target and a draft in one process: each is built from its own model config, whatever the server's arguments say."""

import json
import subprocess
import sys

from models.tiny import TINY, save

SECONDS = 20
# Loads the models of sys.argv[1:] as SGLang's ModelRunner does; the server's arguments are those of the first one.
PROBE = """
import json, sys
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.configs.device_config import DeviceConfig
from sglang.srt.configs.load_config import LoadConfig
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.entrypoints.engine import Engine
from sglang.srt.model_loader import loader
from sglang.srt.runtime_context import get_parallel, publish
target, draft = sys.argv[1:]
arguments = dict(model_path=target, framework="mindspore", device="cpu", max_total_tokens=64, context_length=90)
server_args = Engine.server_args_class(**arguments)
server_args.resolve_once()
publish(server_args, role="scheduler")
other = ModelConfig(draft, dtype="float32", context_length=70, model_impl="mindspore")
found = []
for config in (ModelConfig.from_server_args(server_args), other):
    config.requested_quantization, config.quantization = config.quantization, None
    with get_parallel().override(pp_rank=0, tp_rank=0):
        model = loader.get_model_loader(LoadConfig()).load_model(model_config=config, device_config=DeviceConfig("cpu"))
    network = model.network
    sizes = [network.config.max_positions, network.config.hidden_size, float(network.model.norm.weight.host.sum())]
    found.append([type(network).__name__, *sizes, model.table])
print("ANSWER" + json.dumps(found))
"""


def test_each_model_is_the_one_of_its_own_config(tmp_path):
    variants = ("qwen3", "gemma2")
    folders = [str(save(variant, tmp_path / variant)) for variant in variants]
    command = [sys.executable, "-c", PROBE, *folders]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("ANSWER")]
    target, draft = json.loads(line.removeprefix("ANSWER"))
    assert (target[0], draft[0]) == ("Qwen3ForCausalLM", "Gemma2ForCausalLM")
    assert (target[1], draft[1]) == (90, 70)
    assert [target[2], draft[2]] == [TINY[variant]["hidden_size"] for variant in variants]
    assert target[3] != draft[3] and target[4] == draft[4] == "cpu"

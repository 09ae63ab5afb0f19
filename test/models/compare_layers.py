"""Where does a model begin to differ from transformers? The largest difference behind each layer, for one prompt.

    python test/models/compare_layers.py MODEL --prompt "Return a list of"

MODEL is a folder with a checkpoint. Layers run in float32, operator by operator, with the reference operators. The
first layer whose difference jumps is the wrong one. Differences are relative to the largest value of transformers.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent))  # test/, as pytest has it
from models.harness import PagedModel, Requests

from sglang.srt.model_executor_ms.runner import device


def layers_here(folder: Path, ids: list[int]) -> list[np.ndarray]:
    """What each layer passes on, [T, hidden_size]: the sum of what it computed last and of all before it."""
    device.start("cpu", "reference")
    model, seen = PagedModel(folder, compiled=False), []
    for layer in model.network.model.layers:
        layer.register_forward_hook(lambda _cell, _inputs, passed: seen.append(sum(x.asnumpy() for x in passed)))
    Requests(model, page_size=1).step({"prompt": ids})
    return seen


def layers_there(folder: Path, ids: list[int]) -> list[np.ndarray]:
    """The same of transformers."""
    model, seen = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), []

    def keep(_module, _inputs, output):
        seen.append((output[0] if isinstance(output, tuple) else output).reshape(len(ids), -1).numpy())

    for layer in model.model.layers:
        layer.register_forward_hook(keep)
    with torch.no_grad():
        model(torch.tensor([ids]))
    return seen


def differences(found: list[np.ndarray], wanted: list[np.ndarray]) -> list[float]:
    pairs = zip(found, wanted, strict=True)
    return [float(np.abs(ours - theirs).max() / np.abs(theirs).max()) for ours, theirs in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompt", default="Return a list of")
    arguments = parser.parse_args()
    ids = transformers.AutoTokenizer.from_pretrained(arguments.model)(arguments.prompt).input_ids
    found = differences(layers_here(arguments.model, ids), layers_there(arguments.model, ids))
    for number, difference in enumerate(found):
        print(f"layer {number}: {difference:.1e}")


if __name__ == "__main__":
    main()

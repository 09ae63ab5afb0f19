"""The demo model in codes that compressed-tensors' package makes of it goes on with texts as the values of these do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from models.harness import PagedModel, Requests
from models.int8 import Int8Linear
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SECONDS = 3
DEMO = Path(__file__).parents[2] / "ms_example/demo_model"
PROMPTS, LENGTH, NEW_TOKENS, TOGETHER = 20, 16, 12, 8  # of which so many are in a step
ALIKE = 0.95  # of the prompts: two logits may be nearly equal
INT8 = dict(num_bits=8, type="int", symmetric=True)
SCHEMES = {
    "W4A16": ("pack-quantized", dict(num_bits=4, type="int", symmetric=False, strategy="group", group_size=32), None),
    "W8A16": ("pack-quantized", INT8 | dict(strategy="channel"), None),
    "W8A8": ("int-quantized", INT8 | dict(strategy="channel"), INT8 | dict(strategy="token", dynamic=True)),
    "FP8": ("float-quantized", dict(num_bits=8, type="float", symmetric=True, strategy="channel"), None),
}


def quantized(name: str, folder: Path) -> dict[str, dict]:
    """Write the checkpoint -> of each layer what holds its weight."""
    form, weights, inputs = SCHEMES[name]
    compressor, arguments = BaseCompressor.get_value_from_registry(form), QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    tensors, layers = {}, {}
    for key, weight in load_file(DEMO / "model.safetensors").items():
        if not key.endswith("_proj.weight"):
            tensors[key] = weight
            continue
        groups = weight.unflatten(-1, (-1, arguments.group_size or weight.shape[-1]))
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)
        held = compressor.compress({"weight": weight, "weight_scale": scale, "weight_zero_point": zero}, scheme)
        layer = key.removesuffix(".weight")
        layers[layer] = held | compressor.decompress(held | {"weight_scale": held["weight_scale"].float()}, scheme)
        layers[layer]["codes"] = held.get("weight")
        tensors |= {f"{layer}.{part}": tensor.contiguous() for part, tensor in held.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    found = dict(quant_method="compressed-tensors", format=form, ignore=["lm_head"], config_groups={"group_0": group})
    config = json.loads((DEMO / "config.json").read_text()) | {"quantization_config": found}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(DEMO / "generation_config.json", folder)
    return layers


def continued(name: str, layers: dict[str, dict], prompts: np.ndarray) -> np.ndarray:
    """What transformers' model with the values of the codes says next, greedily: [prompts, NEW_TOKENS]."""
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    for path, held in layers.items():
        parent, _, own = path.rpartition(".")
        if name == "W8A8":
            setattr(model.get_submodule(parent), own, Int8Linear(held["codes"], held["weight_scale"]))
        else:
            model.get_submodule(path).weight.data = held["weight"].float()
    model.generation_config.eos_token_id = None  # texts go on
    asked = dict(max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
    with torch.no_grad():
        return model.generate(torch.from_numpy(prompts), **asked)[:, LENGTH:].numpy()


def ours(model: PagedModel, prompts: np.ndarray) -> np.ndarray:
    found = []
    for first in range(0, len(prompts), TOGETHER):
        requests, said = Requests(model, 4), []
        ids = {str(place): prompt for place, prompt in enumerate(prompts[first : first + TOGETHER])}
        for _ in range(NEW_TOKENS):
            ids = {request: logits[-1:].argmax(-1) for request, logits in requests.step(ids).items()}
            said.append(list(ids.values()))
        found.append(np.stack(said, 1)[..., 0])
    return np.concatenate(found)


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", SCHEMES)
def test_greedy_tokens_are_those_of_the_values(table, tmp_path, name):
    ids = AutoTokenizer.from_pretrained(DEMO)((DEMO / "heldout.txt").read_text(encoding="utf-8"))["input_ids"]
    starts = range(0, PROMPTS * LENGTH * 3, LENGTH * 3)
    prompts = np.array([ids[start : start + LENGTH] for start in starts])
    wanted = continued(name, quantized(name, tmp_path), prompts)
    found = ours(PagedModel(tmp_path, compiled=False), prompts)
    alike = (found == wanted).all(-1)
    assert alike.mean() >= ALIKE, f"{alike.sum()} of {PROMPTS} prompts"
    assert len({tuple(row) for row in found.tolist()}) > PROMPTS // 2  # they say something

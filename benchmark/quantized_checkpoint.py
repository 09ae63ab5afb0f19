"""A checkpoint of bfloat16 weights in a quantized format, as llmcompressor writes it: nearest codes, no calibration.

python benchmark/quantized_checkpoint.py W4A16 SOURCE FOLDER

The embedding and the head stay in bfloat16, as makers leave them. Accuracy is not looked for: benchmarks time it.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

GROUP, MXFP4_GROUP = 128, 32
MXFP4_VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def _int8(weight: torch.Tensor) -> dict:
    scale = (weight.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-8)
    return {"": (weight / scale).round().to(torch.int8), "_scale": scale}


def _float8(weight: torch.Tensor) -> dict:
    scale = (weight.abs().amax(-1, keepdim=True) / 448).clamp(min=1e-8)
    return {"": (weight / scale).to(torch.float8_e4m3fn), "_scale": scale}


def _int4(weight: torch.Tensor) -> dict:
    groups = weight.unflatten(-1, (-1, GROUP))
    scale = (groups.abs().amax(-1) / 7.5).clamp(min=1e-8).bfloat16()
    codes = (groups / scale.float()[..., None]).round().clamp(-8, 7).add(8).to(torch.uint8).flatten(-2)
    words = (codes[:, ::2] | codes[:, 1::2] << 4).contiguous().view(torch.int32)
    return {"_packed": words, "_scale": scale, "_shape": torch.tensor(weight.shape)}


def _mxfp4(weight: torch.Tensor) -> dict:
    groups = weight.unflatten(-1, (-1, MXFP4_GROUP))
    exponent = groups.abs().amax(-1, keepdim=True).clamp(min=1e-8).log2().floor() - 2
    size = (groups / exponent.exp2()).abs()
    codes = torch.bucketize(size, (MXFP4_VALUES[1:] + MXFP4_VALUES[:-1]) / 2).to(torch.uint8)
    codes = (codes | (groups < 0).to(torch.uint8) << 3).flatten(-2)
    return {"_packed": codes[:, ::2] | codes[:, 1::2] << 4, "_scale": (exponent[..., 0] + 127).to(torch.uint8)}


def _weights(bits: int, kind: str, strategy: str, **more) -> dict:
    return dict(num_bits=bits, type=kind, strategy=strategy, symmetric=True, dynamic=False) | more


ROWS = dict(num_bits=8, type="int", strategy="token", symmetric=True, dynamic=True)
# Scheme -> the tensors in the place of a matrix, by the ends of their names; and what config.json says.
SCHEMES: dict[str, tuple[Callable, dict]] = {
    "W8A8": (_int8, dict(format="int-quantized", weights=_weights(8, "int", "channel"), input_activations=ROWS)),
    "W4A16": (_int4, dict(format="pack-quantized", weights=_weights(4, "int", "group", group_size=GROUP))),
    "FP8": (_float8, dict(format="float-quantized", weights=_weights(8, "float", "channel"))),
    "MXFP4": (
        _mxfp4,
        dict(format="mxfp4-pack-quantized", weights=_weights(4, "float", "group", group_size=MXFP4_GROUP)),
    ),
}


def quantization_config(scheme: str, ignored: list[str]) -> dict:
    """Of config.json. ignored: names of layers that stay as they are."""
    _, group = SCHEMES[scheme]
    found = dict(quant_method="compressed-tensors", quantization_status="compressed", ignore=ignored)
    return found | dict(format=group["format"], config_groups={"group_0": group | {"targets": ["Linear"]}})


def write_quantized(scheme: str, source: Path, folder: Path) -> Path:
    """Write the checkpoint unless `folder` has one already -> folder."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    quantized, _ = SCHEMES[scheme]
    index, bytes_ = {}, 0
    for number, file in enumerate(sorted(source.glob("*.safetensors"))):
        tensors = {}
        with safe_open(file, "pt") as read:
            for name in read.keys():  # noqa: SIM118 - it is no dict
                tensor = read.get_tensor(name)
                codes = name.endswith("_proj.weight")
                held = quantized(tensor.float()) if codes else {"": tensor}
                tensors |= {name + suffix: part.contiguous() for suffix, part in held.items()}
        written = f"model-{number:05}.safetensors"
        save_file(tensors, folder / written, {"format": "pt"})
        index |= dict.fromkeys(tensors, written)
        bytes_ += sum(tensor.nbytes for tensor in tensors.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": bytes_}, "weight_map": index})
    )
    for file in source.glob("*.json"):
        if "index" not in file.name:
            shutil.copy(file, folder)
    config = json.loads((source / "config.json").read_text())
    written = config | {"quantization_config": quantization_config(scheme, ["lm_head"])}
    (folder / "config.json").write_text(json.dumps(written, indent=1))
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scheme", choices=SCHEMES)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(write_quantized(arguments.scheme, arguments.source, arguments.folder))

"""Serves several LoRA adapters at once, each request with one of them or none, with SGLang's Engine on MindSpore.

    python ms_example/lora.py [MODEL] [--adapter NAME=FOLDER ...]

Without --adapter it makes two of the demo model, of random numbers: they change what it says, and mean nothing.
"""

import argparse
import json
import tempfile
from pathlib import Path

import safetensors.torch
import torch

import sglang

DEMO_MODEL = Path(__file__).parent / "demo_model"
RANK, TARGETS = 4, ("q_proj", "v_proj")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(DEMO_MODEL), help="a Hugging Face model; default: %(default)s")
    parser.add_argument("--adapter", nargs="+", default=[], metavar="NAME=FOLDER", help="adapters as PEFT saves them")
    parser.add_argument("--prompt", default="Return True if")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def random_adapter(model: str, folder: Path, seed: int) -> str:
    """Write an adapter of a model, as PEFT would; returns its folder."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    weights = safetensors.torch.load_file(next(Path(model).glob("*.safetensors")))
    for name, weight in weights.items():
        if name.endswith(tuple(f"{target}.weight" for target in TARGETS)):
            rows, columns = weight.shape
            base = "base_model.model." + name.removesuffix(".weight")
            tensors[f"{base}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator) / columns**0.5
            tensors[f"{base}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator)
    folder.mkdir()
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": list(TARGETS)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        adapters = dict(one.split("=", 1) for one in arguments.adapter) or {
            name: random_adapter(arguments.model, Path(folder, name), seed) for seed, name in enumerate(("one", "two"))
        }
        with sglang.Engine(
            model_path=arguments.model,
            framework="mindspore",
            device=arguments.device,
            max_total_tokens=16384,
            lora_paths=adapters,
            log_level="warning",
        ) as engine:
            names = [None, *adapters]
            sampling = {"max_new_tokens": 24, "temperature": 0}
            answers = engine.generate([arguments.prompt] * len(names), sampling, lora_path=names)
            for name, answer in zip(names, answers, strict=True):
                print(f"{name or 'no adapter'}: {answer['text']!r}")


if __name__ == "__main__":  # SGLang starts its processes by importing this file again
    main()

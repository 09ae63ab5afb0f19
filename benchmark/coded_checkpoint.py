"""A checkpoint of random codes in a published shape: of models whose bfloat16 values a small machine cannot hold.

python benchmark/coded_checkpoint.py qwen3-30b-a3b FOLDER

As llmcompressor writes W4A16: int4 in groups of 128, with scales in bfloat16. Routers, the embedding and the head are
in bfloat16. Tensors are written straight to safetensors, a file a layer, from blocks of random numbers that repeat.
"""

import argparse
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from quantized_checkpoint import GROUP, quantization_config
from random_checkpoint import SHAPES, word_tokenizer
from transformers import AutoModelForCausalLM

REPEATED = 1 << 22  # random numbers
STACKS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}  # of experts, as transformers has them
BYTES = {"I32": 4, "BF16": 2, "I64": 8}  # of a value, by what safetensors calls its dtype
LAYER = re.compile(r"model\.layers\.(\d+)\.")


def matrices(model: torch.nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors of a checkpoint of values, each expert's of its own."""
    for name, tensor in model.state_dict().items():
        stem, _, last = name.rpartition(".")
        if not stem.endswith(".experts"):
            yield name, tuple(tensor.shape)
            continue
        parts, (experts, rows, columns) = STACKS[last], tensor.shape
        for expert, part in itertools.product(range(experts), parts):
            yield f"{stem}.{expert}.{part}.weight", (rows // len(parts), columns)


def tensors_of(name: str, shape: tuple[int, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
    """What holds a matrix in the file: names, dtypes as safetensors calls them, shapes."""
    if not name.endswith("_proj.weight"):
        return [(name, "BF16", shape)]
    rows, columns = shape
    packed = (name + "_packed", "I32", (rows, columns // 8))
    return [packed, (name + "_scale", "BF16", (rows, columns // GROUP)), (name + "_shape", "I64", (2,))]


class Numbers:
    """Random bytes of a kind of tensors."""

    def __init__(self):
        generator = np.random.default_rng(0)
        normal = torch.from_numpy(generator.normal(0, 0.02, REPEATED).astype(np.float32))
        self.codes = generator.bytes(4 * REPEATED)
        self.values = normal.bfloat16().view(torch.int16).numpy().tobytes()
        self.scales = (normal.abs() / 8).bfloat16().view(torch.int16).numpy().tobytes()
        self.ones = torch.ones(1 << 16).bfloat16().view(torch.int16).numpy().tobytes()

    def write(self, file: BinaryIO, name: str, dtype: str, shape: tuple, matrix: tuple[int, ...]) -> None:
        """matrix: the shape of the whole, where this is a part of one."""
        if dtype == "I64":
            file.write(np.array(matrix, np.int64).tobytes())
            return
        left = int(np.prod(shape)) * BYTES[dtype]
        source = self.codes if dtype == "I32" else self.scales if name.endswith("_scale") else self.values
        source = self.ones if name.endswith("norm.weight") else source
        while left:
            written = memoryview(source)[:left]
            file.write(written)
            left -= len(written)


def write_file(path: Path, held: list[tuple[str, tuple[int, ...]]], numbers: Numbers) -> list[str]:
    """A safetensors file of these matrices -> the names of its tensors."""
    header, written, at = {"__metadata__": {"format": "pt"}}, [], 0  # at: bytes behind the header
    for name, matrix in held:
        for tensor, dtype, shape in tensors_of(name, matrix):
            size = int(np.prod(shape)) * BYTES[dtype]
            header[tensor] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
            written.append((tensor, dtype, shape, matrix))
            at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in written:
            numbers.write(file, *tensor)
    return [name for name, *_ in written]


def write_coded(shape: str, folder: Path) -> Path:
    """Write the checkpoint unless `folder` has one already -> folder."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config, numbers, index = SHAPES[shape], Numbers(), {}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers: dict[str, list] = {}
    for name, sizes in matrices(model):
        found = LAYER.match(name)
        layers.setdefault(found[1] if found else "rest", []).append((name, sizes))
    for layer, held in layers.items():
        file = f"model-{layer.zfill(5)}.safetensors"
        index |= dict.fromkeys(write_file(folder / file, held, numbers), file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config.dtype = "bfloat16"
    ignored = ["lm_head", r"re:.*mlp\.gate$"]
    written = config.to_dict() | {"architectures": [type(model).__name__]}
    written |= {"quantization_config": quantization_config("W4A16", ignored)}
    word_tokenizer(config.vocab_size).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(written, indent=1))
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(write_coded(arguments.shape, arguments.folder))

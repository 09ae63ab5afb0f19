"""Writes checkpoints as transformers does, and damages them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

INDEX = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}


class CheckpointFolder:
    def __init__(self, path: Path):
        self.path = path

    def write(self, tensors: dict, kind: str = "safetensors", file: str | None = None) -> Path:
        """One file of tensors, of the usual name unless another is given."""
        path = self.path / (file or ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin"))
        save_file(tensors, path, {"format": "pt"}) if kind == "safetensors" else torch.save(tensors, path)
        return path

    def write_sharded(self, tensors: dict, kind: str = "safetensors") -> list[Path]:
        """A file for each tensor, and the index that says which."""
        stem = "model" if kind == "safetensors" else "pytorch_model"
        files = {name: f"{stem}-{i + 1:05}-of-{len(tensors):05}.{kind}" for i, name in enumerate(tensors)}
        paths = [self.write({name: tensors[name]}, kind, file) for name, file in files.items()]
        self.write_index(files, kind)
        return paths

    def write_index(self, weight_map: dict, kind: str = "safetensors") -> None:
        (self.path / INDEX[kind]).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def folder(tmp_path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path)


def rewrite_header(path: Path, change, spaces: int = 0) -> None:
    """Pass a safetensors file's header, as a dict, through `change`, and end it with spaces."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(change(json.loads(content[8:start]))).encode() + b" " * spaces
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[start:])


@pytest.fixture
def header_of():
    return rewrite_header

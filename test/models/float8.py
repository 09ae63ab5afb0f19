"""Makes a checkpoint one of float8 weights with a factor for each block, as DeepSeek publishes V3."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

BLOCK = 16
LARGEST = 448.0  # of float8_e4m3fn
PROJECTIONS = ("_proj.weight", "_proj_with_mqa.weight")  # embedding, head, router and norms stay as they are


def _quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> (float8, the factors of its blocks, the products of both)."""
    rows, columns = (-(-size // BLOCK) for size in weight.shape)
    factors = torch.empty(rows, columns)
    small, products = torch.empty_like(weight, dtype=torch.float8_e4m3fn), torch.empty_like(weight)
    for row in range(rows):
        for column in range(columns):
            at = (slice(row * BLOCK, (row + 1) * BLOCK), slice(column * BLOCK, (column + 1) * BLOCK))
            factors[row, column] = weight[at].abs().max() / LARGEST
            small[at] = (weight[at] / factors[row, column]).to(torch.float8_e4m3fn)
            products[at] = small[at].float() * factors[row, column]
    return small, factors, products


def to_float8(source: Path, folder: Path, products: Path) -> None:
    """Write the float32 checkpoint in `source` into `folder` as float8, and what that stands for into `products`."""
    tensors, quantized = load_file(source / "model.safetensors"), {}
    for name, weight in list(tensors.items()):
        if name.endswith(PROJECTIONS):
            quantized[name], quantized[f"{name}_scale_inv"], tensors[name] = _quantized(weight)
    assert quantized
    config = json.loads((source / "config.json").read_text())
    method = dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[BLOCK, BLOCK])
    for target, weights, changes in (
        (folder, {**tensors, **quantized}, {"quantization_config": method}),
        (products, tensors, {}),
    ):
        target.mkdir(exist_ok=True)
        save_file(weights, target / "model.safetensors", {"format": "pt"})
        (target / "config.json").write_text(json.dumps({**config, **changes}))

"""Makes a checkpoint one of float8 weights: with a factor for each block, as DeepSeek publishes V3, or for each
matrix, as Mistral publishes Large 3."""

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


def to_mistrals_float8(source: Path, folder: Path, products: Path) -> None:
    """As `to_float8`, of Mistral's own files: also with steps of activations, and of keys and values."""
    from sglang.srt.utils.hf_transformers.mistral_utils import adapt_config_dict

    tensors, held = load_file(source / "consolidated.safetensors"), {}
    for name, weight in list(tensors.items()):
        layer, last = name.removesuffix(".weight"), name.split(".")[-2]
        if last not in ("w1", "w2", "w3") and not last.startswith(("wq", "wkv", "wo")):
            continue
        factor = weight.abs().max() / LARGEST
        held[name] = (weight / factor).to(torch.float8_e4m3fn)
        tensors[name] = held[name].float() * factor
        held |= {f"{layer}.qscale_weight": factor.reshape(()), f"{layer}.qscale_act": torch.tensor(0.37)}
    assert held
    held |= {f"layers.0.attention.{one}_fake_quantizer.qscale_act": torch.tensor(0.5) for one in "qkv"}
    params = json.loads((source / "params.json").read_text())
    method = {"quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}}
    for target, weights, changes in ((folder, tensors | held, method), (products, tensors, {})):
        target.mkdir(exist_ok=True)
        save_file(weights, target / "consolidated.safetensors", {"format": "pt"})
        (target / "params.json").write_text(json.dumps(params | changes))
        read = adapt_config_dict(json.loads(json.dumps(params | changes)), "tiny")[0]
        (target / "config.json").write_text(json.dumps(read))

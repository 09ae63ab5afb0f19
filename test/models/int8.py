"""Makes a checkpoint one of int8 weights with a factor for each row, in each of three ways that are published.

And states what such a checkpoint stands for: transformers' model, with products of rows that are rounded to int8 too.
"""

import json
import re
from pathlib import Path

import numpy as np
import torch
from models import reference_models
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

DESCRIPTION = "quant_model_description.json"  # ModelSlim's
WHOLE_ROWS = dict(num_bits=8, type="int", symmetric=True)
GROUP = dict(
    targets=["Linear"],
    weights=WHOLE_ROWS | dict(strategy="channel", dynamic=False),
    input_activations=WHOLE_ROWS | dict(strategy="token", dynamic=True),
)


# What Linear layers are called, by makers who have names of their own too.
LINEAR = re.compile(r"(_proj|\.w[123]|\.wo|\.wqkv|\.c_attn|\.c_fc_[01]|\.query_key_value|\.dense\w*|\.W_pack)\.weight$")
EXPERTS = {"gate_proj": ("gate_proj", "up_proj", "down_proj"), "w1": ("w1", "w3", "w2")}  # by the first one's name


def _quantized(weight):
    factors = weight.abs().amax(-1, keepdim=True) / 127
    return torch.round(weight / factors).to(torch.int8), factors


def to_int8(source: Path, folder: Path, method: str, skipped: str = "layers.0.mlp.down_proj") -> None:
    """Write the checkpoint in `source` into `folder`; layers whose names end with `skipped` stay as they are."""
    tensors, kinds = load_file(source / "model.safetensors"), {}
    config = json.loads((source / "config.json").read_text())
    for name, weight in list(tensors.items()):
        chosen = LINEAR.search(name) and not name.endswith(f"{skipped}.weight")
        kinds[name] = "W8A8_DYNAMIC" if chosen else "FLOAT"
        if chosen:
            tensors[name], tensors[f"{name}_scale"] = _quantized(weight.float())
            if method == "modelslim":
                tensors[f"{name}_offset"] = torch.zeros_like(tensors[f"{name}_scale"])
    ignore = [name.removesuffix(".weight") for name, kind in kinds.items() if kind == "FLOAT"]
    found = dict(quant_method=method, ignore=ignore)
    if method == "compressed-tensors":
        found |= dict(config_groups={"group_0": GROUP}, format="int-quantized")
    folder.mkdir(exist_ok=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".py") and file.name != "config.json":
            (folder / file.name).write_bytes(file.read_bytes())
    if method == "modelslim":
        (folder / DESCRIPTION).write_text(json.dumps(kinds))
        found = None
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | ({"quantization_config": found} if found else {})))


class Int8Linear(torch.nn.Module):
    def __init__(self, weight, factors, bias=None):
        super().__init__()
        self.weight, self.factors, self.bias = weight.double(), factors.double(), bias

    def forward(self, x):
        steps = x.double().abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
        y = torch.round(x.double() / steps) @ self.weight.T * steps * self.factors[:, 0]
        return (y if self.bias is None else y + self.bias.double()).to(x.dtype)


class Int8Experts(torch.nn.Module):
    """The experts of a layer, in the place of transformers' stacks."""

    def __init__(self, tensors, name, stacks):
        super().__init__()
        self.act_fn = stacks.act_fn
        parts = next(parts for first, parts in EXPERTS.items() if f"{name}.0.{first}.weight" in tensors)
        self.parts = torch.nn.ModuleList(
            torch.nn.ModuleList(
                Int8Linear(tensors[f"{name}.{expert}.{part}.weight"], tensors[f"{name}.{expert}.{part}.weight_scale"])
                for part in parts
            )
            for expert in range(len(stacks.down_proj))
        )

    def forward(self, hidden_states, top_k_index, top_k_weights):
        found = torch.zeros_like(hidden_states)
        for expert, (gate, up, down) in enumerate(self.parts):
            rows, places = torch.where(top_k_index == expert)
            inner = self.act_fn(gate(hidden_states[rows])) * up(hidden_states[rows])
            found.index_add_(0, rows, down(inner) * top_k_weights[rows, places, None].to(found.dtype))
        return found


def reference(source: Path, folder: Path):
    """transformers' model of `source`, computing in float32 with the int8 weights of `folder`."""
    model, tensors = (
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32),
        load_file(folder / "model.safetensors"),
    )
    names = [name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")]
    for stacks in {name.partition(".experts.")[0] + ".experts" for name in names if ".experts." in name}:
        parent, _, own = stacks.rpartition(".")
        block = model.get_submodule(parent.replace("block_sparse_moe", "mlp"))  # as transformers has Mixtral's
        setattr(block, own, Int8Experts(tensors, stacks, getattr(block, own)))
    for name in [name for name in names if ".experts." not in name]:
        if name.endswith("kv_b_proj"):  # is multiplied with each head's queries and rows, which are not rounded
            model.get_submodule(name).weight.data = tensors[f"{name}.weight"] * tensors[f"{name}.weight_scale"]
            continue
        parent, _, own = name.rpartition(".")
        layer = Int8Linear(tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"], model.get_submodule(name).bias)
        setattr(model.get_submodule(parent), own, layer)
    return model.eval()


class RoundedRows:
    """An int8 matrix in the place of one of numpy's, in `x @ weight.T`: the rows of x are rounded too."""

    __array_ufunc__ = None  # numpy leaves the product to __rmatmul__

    def __init__(self, weight, factors):
        self.weight, self.factors = weight.double().numpy(), factors.double().numpy()

    @property
    def T(self):
        return self

    def __rmatmul__(self, x):
        steps = np.maximum(np.abs(x).max(-1, keepdims=True), 1e-30) / 127
        return np.round(x / steps) @ self.weight.T * steps * self.factors[:, 0]


def stated_logits(config: dict, folder: Path, ids) -> np.ndarray:
    """As reference_models' logits, with the int8 weights of `folder`."""
    tensors, weights = load_file(folder / "model.safetensors"), {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.int8:
            weights[name] = RoundedRows(tensor, tensors[f"{name}_scale"])
        elif not name.endswith("_scale"):
            weights[name] = tensor.double().numpy()
    return reference_models.module(config).logits(config, weights, np.asarray(ids)).astype(np.float32)

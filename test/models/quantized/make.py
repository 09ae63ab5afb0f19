"""Makes the checkpoints of this folder again, with the tools that made them: `python make.py FOLDER [NAME ...]`.

In an environment with what this project has, and beside it, by `pip install --no-deps`: llmcompressor 0.14.0.1,
compressed-tensors 0.19.0, auto-round 0.15.1, accelerate 1.15.0, bitsandbytes 0.50.2, nvidia-ml-py, loguru. makers.json
says which made which.
"""

import copy
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

SIZES = dict(
    vocab_size=160,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=256,
    initializer_range=0.1,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
)
LENGTHS = {"one": 1, "short": 13, "long": 40}  # of prompts
KEPT = ("config.json", "model.safetensors", "quant_model_description.json")


def source(folder: Path) -> Path:
    """A model of random weights, as transformers writes it."""
    config = Qwen3Config(**SIZES)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for name, weight in model.named_parameters():  # rows and columns of sizes of their own
        if weight.ndim > 1:
            weight.data *= torch.exp(torch.randn(weight.shape[-1]) * 0.5)
        elif "norm" in name:
            weight.data *= torch.exp(torch.randn(weight.shape) * 0.3)
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(SIZES["vocab_size"])}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")))
    tokenizer.save_pretrained(folder)
    return folder


def llmcompressor(folder: Path, into: Path, **scheme) -> torch.nn.Module:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    calibrated = scheme.pop("calibrated", False)
    recipe = QuantizationModifier(ignore=["lm_head", "re:.*mlp.gate$"], **({"targets": ["Linear"]} | scheme))
    data = {}
    if calibrated:
        from datasets import Dataset

        rows = torch.randint(3, SIZES["vocab_size"], (8, 32), generator=torch.Generator().manual_seed(1))
        ones = torch.ones_like(rows).tolist()
        data = dict(
            dataset=Dataset.from_dict({"input_ids": rows.tolist(), "attention_mask": ones}), num_calibration_samples=8
        )
    oneshot(model=model, recipe=recipe, **data)
    # Of MXFP4 transformers loads nothing that llmcompressor wrote: the model as it is, which rounds.
    unloadable = scheme.get("scheme") == "MXFP4A16"
    found = torch.nn.Module.float(copy.deepcopy(model)) if unloadable else None
    model.save_pretrained(into, save_compressed=True)
    if found is not None:
        return found
    return AutoModelForCausalLM.from_pretrained(_plain_float8(into), dtype=torch.float32, device_map="cpu")


def _plain_float8(folder: Path) -> Path:
    """Activations are rounded to int8 only, not to float8: config.json as it is read says so, the one kept does not."""
    found = json.loads((folder / "config.json").read_text())
    (folder / "kept.json").write_text(json.dumps(found, indent=1))
    for group in found["quantization_config"]["config_groups"].values():
        if group["weights"]["type"] == "float":
            group["input_activations"] = None
    (folder / "config.json").write_text(json.dumps(found))
    return folder


def ints(bits: int, **more) -> dict:
    return dict(num_bits=bits, type="int") | more


def group(weights: dict, inputs: dict | None = None) -> dict:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    inputs = None if inputs is None else QuantizationArgs(**inputs)
    return {"g": QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights), input_activations=inputs)}


def autoround(folder: Path, into: Path, form: str, **settings) -> torch.nn.Module:
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    made = AutoRound(model, tokenizer, iters=0, disable_opt_rtn=True, device="cpu", **settings)
    quantized, _ = made.quantize()  # whose matrices are what their codes stand for
    found = {name: tensor.clone() for name, tensor in quantized.state_dict().items()}
    made.save_quantized(str(into), format=form)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    reference.load_state_dict(found)
    return reference


def nf4(folder: Path, into: Path, **settings) -> torch.nn.Module:
    import bitsandbytes
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32, **settings
    )
    options = dict(device_map="cpu", quantization_config=config)
    made = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options)
    made.save_pretrained(into)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, layer in made.named_modules():  # which multiplies in bfloat16
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            layer.weight.quant_state.dtype = torch.float32
            values = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            reference.get_submodule(name).weight.data = values.float()
    return reference


W4 = ints(4, strategy="group", group_size=32)
STATIC = ints(8, strategy="tensor", dynamic=False)
MAKERS = {  # name -> maker, how
    "W4A16": (llmcompressor, lambda: dict(config_groups=group(W4))),
    "W4A16_ASYM": (llmcompressor, lambda: dict(config_groups=group(W4 | dict(symmetric=False)))),
    "W8A16": (llmcompressor, lambda: dict(scheme="W8A16")),
    "W8A8_static": (
        llmcompressor,
        lambda: dict(config_groups=group(ints(8, strategy="channel"), STATIC), calibrated=True),
    ),
    "W8A8_static_asym": (
        llmcompressor,
        lambda: dict(config_groups=group(ints(8, strategy="channel"), STATIC | dict(symmetric=False)), calibrated=True),
    ),
    "FP8_DYNAMIC": (llmcompressor, lambda: dict(scheme="FP8_DYNAMIC")),
    "FP8_BLOCK": (llmcompressor, lambda: dict(scheme="FP8_BLOCK")),
    "MXFP4A16": (llmcompressor, lambda: dict(scheme="MXFP4A16")),
    "gptq": (autoround, lambda: dict(form="auto_gptq", scheme="W4A16", group_size=64)),
    "gptq_asym": (autoround, lambda: dict(form="auto_gptq", scheme="W4A16", group_size=32, sym=False)),
    "gptq_8": (autoround, lambda: dict(form="auto_gptq", scheme="W8A16", group_size=64)),
    "awq": (autoround, lambda: dict(form="auto_awq", scheme="W4A16", group_size=64)),
    "awq_asym": (autoround, lambda: dict(form="auto_awq", scheme="W4A16", group_size=32, sym=False)),
    "autoround": (autoround, lambda: dict(form="auto_round", scheme="W4A16", group_size=32)),
    "nf4": (nf4, dict),
    "nf4_nested": (nf4, lambda: dict(bnb_4bit_use_double_quant=True)),
}


def logits(model) -> dict:
    """What the maker's model makes of prompts, in float32."""
    found, model = {}, model.eval()
    generator = torch.Generator().manual_seed(7)
    for request, length in LENGTHS.items():
        ids = torch.randint(3, SIZES["vocab_size"], (length,), generator=generator)
        with torch.no_grad():
            rows = model(ids[None]).logits[0].float()
        found |= {f"{request}.ids": ids.numpy(), f"{request}.logits": rows.numpy()}
    return found


def make(name: str, into: Path, original: Path) -> None:
    maker, how = MAKERS[name]
    with tempfile.TemporaryDirectory() as made:
        model = maker(original, Path(made), **how())
        (weights,) = Path(made).rglob("model.safetensors")
        into.mkdir(parents=True, exist_ok=True)
        for file in weights.parent.iterdir():
            if file.name in KEPT:
                shutil.copy(file, into / file.name)
        if (weights.parent / "kept.json").exists():
            shutil.copy(weights.parent / "kept.json", into / "config.json")
        np.savez(into / "logits.npz", **logits(model))


def main(folder: str, *names: str) -> None:
    with tempfile.TemporaryDirectory() as models:
        original = source(Path(models) / "dense")
        for name in names or MAKERS:
            make(name, Path(folder) / name, original)


if __name__ == "__main__":
    main(*sys.argv[1:])

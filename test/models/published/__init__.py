"""config.json of published checkpoints, as their makers wrote it, and the tensors that these checkpoints have.

`<family>.json`: name on the Hugging Face hub -> config. Nothing here comes from the code under test, which is held
against it: names and shapes are those of the checkpoints' index files and of the code that came with them.
"""

import json
import math
from pathlib import Path

import numpy as np
from models.published import encoders, layers, newer, quantized

FOLDER = Path(__file__).parent
REFUSED = FOLDER / "refused.json"  # of checkpoints that are not served
SERVED = [file for file in sorted(FOLDER.glob("*.json")) if file != REFUSED]
CONFIGS = {name: config for file in SERVED for name, config in json.loads(file.read_text()).items()}
LAYERS = 4  # that are kept of each: enough for every kind of layer
COUNTS = ("num_hidden_layers", "num_layers", "n_layers")  # what the number of layers is called
# Tensors that a checkpoint has beside those of its architecture.
BESIDE = {
    "huggyllama/llama-7b": layers.frequencies,
    "meta-llama/Llama-2-7b-hf": layers.frequencies,
    "baichuan-inc/Baichuan-7B": layers.frequencies,
    "baichuan-inc/Baichuan2-7B-Chat": layers.frequencies,
    "THUDM/chatglm2-6b": layers.rotary_of_chatglm,
    "THUDM/chatglm3-6b": layers.rotary_of_chatglm,
    "THUDM/glm-4-9b-chat": layers.rotary_of_chatglm,
    "Qwen/Qwen3-Reranker-4B": layers.tied_head,
    "openbmb/MiniCPM-2B-sft-bf16": layers.tied_head,
    "Qwen/Qwen2.5-Math-RM-72B": layers.tied_head,
    "deepseek-ai/DeepSeek-V3": layers.predictor,
    "deepseek-ai/DeepSeek-V3.1": layers.predictor,
    "deepseek-ai/DeepSeek-V3.2-Exp": layers.predictor,
    "unsloth/DeepSeek-R1-BF16": layers.predictor,
    "zai-org/GLM-4.5-Air": layers.predictor,
    "zai-org/GLM-4.5-Air-FP8": layers.predictor,
    "zai-org/GLM-4.6": layers.predictor,
    "sentence-transformers/all-MiniLM-L6-v2": encoders.pooler_and_positions,
    "BAAI/bge-m3": encoders.pooler,
}
WITHOUT_PREFIX = ("intfloat/e5-mistral-7b-instruct", "Qwen/Qwen3-Embedding-0.6B")


def cut(config: dict) -> dict:
    """The config with fewer layers and experts, so that it fits into memory; everything else as published."""
    kept = {key: min(config[key], LAYERS) for key in COUNTS if key in config}
    if "layer_types" in config:  # one of each kind
        kinds, last = config["layer_types"], max(map(config["layer_types"].index, set(config["layer_types"])))
        kept["layer_types"] = [*kinds[: LAYERS - 1], kinds[max(last, LAYERS - 1)]]
    if config.get("n_routed_experts", 0) > 64:
        kept["n_routed_experts"] = 64
    return {**config, **kept}


def tensors(name: str, config: dict) -> dict:
    """(shape, dtype as safetensors has it) of each tensor of a checkpoint whose config was `cut`."""
    architectures = layers.ARCHITECTURES | newer.ARCHITECTURES | encoders.ARCHITECTURES
    found = architectures[config["architectures"][0]](config)
    found |= BESIDE.get(name, lambda config: {})(config)
    if name in WITHOUT_PREFIX:
        found = {key.removeprefix("model."): shape for key, shape in found.items()}
    held = {key: (tuple(shape), "BF16") for key, shape in found.items()}
    method = config.get("quantization_config") or {}
    return quantized.BY_METHOD.get(method.get("quant_method"), lambda held, _: held)(held, method)


def write(name: str, folder: Path) -> dict:
    """Write the checkpoint into a folder, its tensors as a file of holes; -> the config that was written."""
    served = name in CONFIGS
    config = cut(CONFIGS[name] if served else json.loads(REFUSED.read_text())[name])
    (folder / "config.json").write_text(json.dumps(config))
    if "auto_map" in config:
        module, kind = config["auto_map"]["AutoConfig"].split(".")
        model_type = config.get("model_type", module.removeprefix("configuration_"))
        (folder / f"{module}.py").write_text(CLASS.format(kind=kind, model_type=model_type))
    if served:
        _write_tensors(tensors(name, config), folder / "model.safetensors")
    return config


CLASS = """from transformers import PretrainedConfig


class {kind}(PretrainedConfig):
    model_type = "{model_type}"
"""
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "I64": 8, "U8": 1, "F8_E4M3": 1}


def _write_tensors(held: dict, path: Path) -> None:
    """Zeros, but for tensors that say otherwise."""
    header, end = {}, 0
    for name, (shape, dtype, *_) in held.items():
        start, end = end, end + math.prod(shape) * SIZES[dtype]
        header[name] = dict(dtype=dtype, shape=shape, data_offsets=[start, end])
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name, (shape, dtype, *value) in held.items():
            if value:
                file.seek(8 + len(text) + header[name]["data_offsets"][0])
                file.write(np.full(shape, value[0], {"I32": np.int32, "I64": np.int64}[dtype]).tobytes())

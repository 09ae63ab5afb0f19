"""The tensors that hold the linear layers of quantized checkpoints, in the place of those of their architecture.

Of each (shape, dtype as safetensors has it, value): the value of all elements, or a list of them.
"""

import math

WHOLE = ("embed_tokens", "head", "mlp.gate.", "eh_proj", "weights_proj")  # parts of the names of what is not quantized


def _quantized(name: str, shape: tuple) -> bool:
    return len(shape) > 1 and not any(part in name for part in WHOLE)


def float8(held: dict, config: dict) -> dict:
    """Blocks of 128 x 128 with a factor each; or by compressed-tensors rows."""
    blocks, found = config.get("quant_method") == "fp8", {}
    for name, (shape, dtype) in held.items():
        if not _quantized(name, shape):
            found[name] = (shape, dtype)
            continue
        found[name] = (shape, "F8_E4M3")
        if blocks:
            found[name + "_scale_inv"] = (tuple(math.ceil(size / 128) for size in shape), "F32")
        else:
            found[name + "_scale"] = ((shape[0], 1), "BF16")
    return found


def mxfp4(held: dict, config: dict) -> dict:
    """gpt-oss's experts: 16 bytes for 32 values, and a byte of scale; rows are what transformers has as columns."""
    found = {}
    for name, (shape, dtype) in held.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, width, rows = shape
            found[name + "_blocks"] = ((experts, rows, width // 32, 16), "U8")
            found[name + "_scales"] = ((experts, rows, width // 32), "U8")
        else:
            found[name] = (shape, dtype)
    return found


def words(held: dict, config: dict) -> dict:
    """AWQ and GPTQ, in groups of 128 columns; GPTQ's zero points are 8, less one."""
    found, awq = {}, config["quant_method"] == "awq"
    for name, (shape, _) in held.items():
        if not _quantized(name, shape):
            found[name] = (shape, "F16")
            continue
        (rows, columns), stem = shape, name.removesuffix("weight")
        groups = columns // 128
        found[stem + "qweight"] = ((columns, rows // 8) if awq else (columns // 8, rows), "I32")
        found[stem + "qzeros"] = (groups, rows // 8), "I32", 0x77777777
        found[stem + "scales"] = ((groups, rows), "F16")
        if not awq:
            found[stem + "g_idx"] = (columns,), "I32", [column // 128 for column in range(columns)]
    return found


def packed_experts(held: dict, config: dict) -> dict:
    """compressed-tensors' words of experts in groups of 32 columns."""
    found = {}
    for name, (shape, dtype) in held.items():
        if ".experts." not in name:
            found[name] = (shape, dtype)
            continue
        rows, columns = shape
        found[name + "_packed"] = ((rows, columns // 8), "I32")
        found[name + "_scale"] = ((rows, columns // 32), "BF16")
        found[name + "_shape"] = (2,), "I64", [rows, columns]
    return found


def compressed(held: dict, config: dict) -> dict:
    return (packed_experts if config["format"] == "pack-quantized" else float8)(held, config)


BY_METHOD = {"fp8": float8, "mxfp4": mxfp4, "awq": words, "gptq": words, "compressed-tensors": compressed}

"""Qwen3 checkpoints in bfloat16 -> GGUF in bfloat16, without a tokenizer: what llama.cpp reads.

Names of tensors and keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and the package `gguf`.
"""

import json
from pathlib import Path

WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def name_of(tensor: str) -> str:
    """Hugging Face's name of a tensor -> GGUF's."""
    name = tensor.removesuffix(".weight")
    if name in WHOLE:
        return f"{WHOLE[name]}.weight"
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{PARTS[part]}.weight"


def write(model: Path, file: Path) -> None:
    """Write the checkpoint in this folder to this file."""
    import gguf

    config = json.loads((model / "config.json").read_text())
    if config["model_type"] != "qwen3":
        raise ValueError(f"model_type {config['model_type']!r} in {model}: only qwen3 is converted")
    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for source in sorted(model.glob("*.safetensors")):
        add_tensors(writer, source)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensors(writer, source: Path) -> None:
    """Matrices stay as they are; vectors become float32, as llama.cpp wants norms."""
    import gguf
    import numpy as np

    data = np.memmap(source, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    for name, tensor in json.loads(data[8:start].tobytes()).items():
        if name == "__metadata__":
            continue
        if tensor["dtype"] != "BF16":
            raise ValueError(f"{name} in {source} is {tensor['dtype']}: only BF16 is converted")
        first, last = tensor["data_offsets"]
        values = data[start + first : start + last]
        if len(tensor["shape"]) == 1:
            wide = (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            writer.add_tensor(name_of(name), wide)
        else:
            rows = values.reshape(tensor["shape"][0], -1)  # in bytes
            writer.add_tensor(name_of(name), rows, raw_dtype=gguf.GGMLQuantizationType.BF16)

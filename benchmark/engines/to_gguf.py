"""Checkpoints of Qwen3, LFM2 and Qwen3.5 in bfloat16 -> GGUF in bfloat16: what llama.cpp and OpenVINO GenAI read.

Names of tensors and keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, the package `gguf`, and of layers
with a state src/llama-arch.cpp of https://github.com/ggml-org/llama.cpp.
"""

import json
from pathlib import Path

QWEN3, LFM2, QWEN35 = "qwen3", "lfm2", "qwen35"  # in GGUF
ARCHITECTURES = {"qwen3": QWEN3, "lfm2": LFM2, "qwen3_5_text": QWEN35}  # by model_type
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
WHOLE["model.embedding_norm"] = "token_embd_norm"  # LFM2's last norm, in GGUF too
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
    # LFM2
    "operator_norm": "attn_norm",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "conv.in_proj": "shortconv.in_proj",
    "conv.conv": "shortconv.conv",
    "conv.out_proj": "shortconv.out_proj",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down",
    # Qwen3.5
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}
BARE = {"linear_attn.A_log": "ssm_a", "linear_attn.dt_bias": "ssm_dt.bias"}  # which do not end with "weight"


def name_of(tensor: str, architecture: str = QWEN3) -> str:
    """Hugging Face's name of a tensor -> GGUF's."""
    name = tensor.removesuffix(".weight")
    if name in WHOLE:
        return f"{WHOLE[name]}.weight"
    _, _, layer, part = name.split(".", 3)
    if part in BARE:
        return f"blk.{layer}.{BARE[part]}"
    if (part, architecture) == ("post_attention_layernorm", QWEN35):
        return f"blk.{layer}.post_attention_norm.weight"
    return f"blk.{layer}.{PARTS[part]}.weight"


def write(model: Path, file: Path) -> None:
    """Write the checkpoint in this folder to this file."""
    import gguf

    config = json.loads((model / "config.json").read_text())
    if config["model_type"] not in ARCHITECTURES:
        raise ValueError(
            f"model_type {config['model_type']!r} in {model}: only {', '.join(ARCHITECTURES)} are converted"
        )
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(file, architecture)
    for source in sorted(model.glob("*.safetensors")):
        add_tensors(writer, source, architecture)
    add_sizes(writer, config)
    {QWEN3: add_head_sizes, LFM2: add_convolutions, QWEN35: add_delta_nets}[architecture](writer, config)
    add_words(writer, config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_words(writer, vocab_size: int) -> None:
    """A tokenizer with a word for every id, as random_checkpoint.py's: OpenVINO GenAI loads no file without one."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"w{number}" for number in range(vocab_size)])
    writer.add_token_types([1] * vocab_size)  # normal ones
    writer.add_token_merges(["w 0"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)


def add_sizes(writer, config: dict) -> None:
    """What all of these have; of the MLP what its weights say."""
    (gate,) = (tensors["blk.0.ffn_gate.weight"] for tensors in writer.tensors if "blk.0.ffn_gate.weight" in tensors)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(gate.shape[0])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps") or config["norm_eps"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])


def add_head_sizes(writer, config: dict) -> None:
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])


def add_convolutions(writer, config: dict) -> None:
    """LFM2's: layers without keys and values have them."""
    heads = config["num_key_value_heads"]
    writer.add_head_count_kv([0 if kind == "conv" else heads for kind in config["layer_types"]])
    writer.add_uint32("lfm2.shortconv.l_cache", config["conv_L_cache"])


def add_delta_nets(writer, config: dict) -> None:
    """Qwen3.5's."""
    add_head_sizes(writer, config)
    rope, values = config["rope_parameters"], config["linear_num_value_heads"]
    sizes = {
        "conv_kernel": config["linear_conv_kernel_dim"],
        "state_size": config["linear_key_head_dim"],
        "group_count": config["linear_num_key_heads"],
        "time_step_rank": values,
        "inner_size": values * config["linear_value_head_dim"],
    }
    for name, size in sizes.items():
        writer.add_uint32(f"qwen35.ssm.{name}", size)
    writer.add_uint32("qwen35.full_attention_interval", config["layer_types"].index("full_attention") + 1)
    writer.add_rope_dimension_count(int(config["head_dim"] * rope["partial_rotary_factor"]))
    writer.add_rope_dimension_sections([*rope["mrope_section"], 0])


def add_tensors(writer, source: Path, architecture: str) -> None:
    """Matrices stay as they are; vectors and convolutions become float32, as llama.cpp wants them."""
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
        values, shape = data[start + first : start + last], tensor["shape"]
        if len(shape) == 2:
            rows = values.reshape(shape[0], -1)  # in bytes
            writer.add_tensor(name_of(name, architecture), rows, raw_dtype=gguf.GGMLQuantizationType.BF16)
            continue
        wide = (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        if name.endswith("A_log"):
            wide = -np.exp(wide)
        elif architecture == QWEN35 and name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
            wide = wide + 1
        wide = wide.reshape(shape[0], -1) if len(shape) == 3 else wide
        writer.add_tensor(name_of(name, architecture), wide)

"""Writes small GGUF files with the package gguf, which is llama.cpp's own."""

from pathlib import Path

import gguf
import numpy as np

TOKENS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "ab", "Ġab"]
KINDS = [2, 3, 3] + [1] * (len(TOKENS) - 3)
HIDDEN, HEADS, KV_HEADS, INNER = 64, 4, 2, 96


def weights(generator: np.random.Generator, layers: int = 1, hidden: int = HIDDEN, inner: int = INNER) -> dict:
    """Of a llama, by the names of the file: name -> float32 array."""
    head = hidden // HEADS
    shapes = {
        "token_embd.weight": (len(TOKENS), hidden),
        "output_norm.weight": (hidden,),
        "output.weight": (len(TOKENS), hidden),
    }
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (hidden,),
            f"blk.{layer}.attn_q.weight": (hidden, hidden),
            f"blk.{layer}.attn_k.weight": (KV_HEADS * head, hidden),
            f"blk.{layer}.attn_v.weight": (KV_HEADS * head, hidden),
            f"blk.{layer}.attn_output.weight": (hidden, hidden),
            f"blk.{layer}.ffn_norm.weight": (hidden,),
            f"blk.{layer}.ffn_gate.weight": (inner, hidden),
            f"blk.{layer}.ffn_up.weight": (inner, hidden),
            f"blk.{layer}.ffn_down.weight": (hidden, inner),
        }
    return {name: generator.standard_normal(shape, np.float32) * 0.05 for name, shape in shapes.items()}


def write(
    path: Path, tensors: dict, layers: int = 1, keys: dict | None = None, hidden=HIDDEN, inner=INNER, **split
) -> Path:
    """A llama. tensors: name -> array, or (bytes of blocks, their type). keys: more of the header's; split: of
    gguf.GGUFWriter."""
    writer = gguf.GGUFWriter(path, "llama", **split)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(hidden // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types(KINDS)
    writer.add_token_merges(["a b", "Ġ ab"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_array("an.array", [1.5, 2.5])
    writer.add_bool("a.flag", True)
    for key, value in (keys or {}).items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(key, value)
    for name, values in tensors.items():
        values, kind = values if isinstance(values, tuple) else (values, None)
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

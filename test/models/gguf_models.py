"""Small models as llama.cpp's own converter writes them: one of each architecture that is served, in gguf_files/.

    python test/models/gguf_models.py LLAMA_CPP

writes the files anew. LLAMA_CPP is the folder of llama.cpp's sources, as the source package of llama-cpp-python 0.3.36
has them in vendor/. The weights are those of tiny.py, in float16, and are made of the variant's name.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

FILES = Path(__file__).parent / "gguf_files"
PLAIN_ROPE = dict(rope_type="default", rope_theta=10000.0)
YARN = dict(  # with equal mscale and mscale_all_dim, as published: a header has one of them
    rope_type="yarn",
    rope_theta=300.0,
    factor=5.0,
    original_max_position_embeddings=40,
    beta_fast=6.0,
    beta_slow=0.5,
    mscale=1.3,
    mscale_all_dim=1.3,
)
# What a header cannot say is as llama.cpp's code has it: scales of scores, bases of rotations, limits of activations.
CHANGES = {
    "gemma": dict(rope_parameters=PLAIN_ROPE),
    "gemma2": dict(query_pre_attn_scalar=14, rope_parameters=PLAIN_ROPE),
    "gemma3": dict(
        query_pre_attn_scalar=14,
        num_hidden_layers=6,
        intermediate_size=40,
        layer_types=["sliding_attention"] * 5 + ["full_attention"],
    ),
    "stablelm": dict(rope_parameters=PLAIN_ROPE | {"partial_rotary_factor": 0.5}),
    "gpt_oss": dict(swiglu_alpha=1.702, swiglu_limit=7.0, num_hidden_layers=2, num_local_experts=3),
    "deepseek_v2-lite": dict(attention_bias=False, rope_parameters=YARN),
    "stablelm-parallel": dict(
        qk_layernorm=False,  # of which the converter finds no end
        rope_parameters=PLAIN_ROPE | {"partial_rotary_factor": 0.5},
    ),
    # Fewer experts: smaller files.
    "mixtral": dict(num_local_experts=3),
    "qwen2_moe": dict(num_experts=4),
    "qwen3_moe": dict(num_experts=5),
}
MODELS = (
    "llama",
    "llama-tied",
    "llama3",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3",
    "phi3-long",
    "stablelm",
    "stablelm-parallel",
    "gpt_oss",
    "deepseek_v2-lite",
    "deepseek_v3",
)


def variant(name: str) -> str:
    """The name in tiny.TINY of a model, which is put there."""
    from models import tiny

    changed = f"gguf-{name}"
    tiny.TINY[changed] = tiny.TINY[name] | CHANGES.get(name, {})
    return changed


def vocabulary(size: int) -> dict:
    """Of a tokenizer.json, of so many tokens."""
    letters = [chr(code) for code in range(33, 33 + 90)]
    tokens = ["<unk>", "<s>", "</s>", *letters, *(f"t{number}" for number in range(size))][:size]
    return {token: place for place, token in enumerate(tokens)}


def convert(name: str, path: Path) -> None:
    """Write a model's file, by llama.cpp's converter; only the vocabulary, which has to be a known one, is ours."""
    import torch
    from conversion import get_model_class
    from conversion.base import ModelBase, ModelType, TextModel, get_model_architecture, gguf
    from models import tiny

    def set_vocab(self):
        tokens = list(vocabulary(self.hparams["vocab_size"]))
        self.gguf_writer.add_tokenizer_model("gpt2")
        self.gguf_writer.add_tokenizer_pre("gpt-2")
        self.gguf_writer.add_token_list(tokens)
        self.gguf_writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
        self.gguf_writer.add_token_merges(["t 1"])
        self.gguf_writer.add_bos_token_id(1)
        self.gguf_writer.add_eos_token_id(2)

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        # In float32, although of float16's values: the converter adds one to norms in the dtype that they have.
        source = Path(folder)
        tiny.hugging_face(variant(name), "float16").save_pretrained(source)
        written = {"model": {"vocab": vocabulary(131)}, "added_tokens": []}
        (source / "tokenizer.json").write_text(json.dumps(written))
        hparams = ModelBase.load_hparams(source, False)
        model_class = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
        model_class.set_vocab = set_vocab
        assert issubclass(model_class, TextModel)
        model_class(source, gguf.LlamaFileType.MOSTLY_F16, path, model_name=name).write()


WIDER = {60: 96, 72: 96, 38: 64, 40: 64, 50: 32, 76: 128, 78: 96, 152: 256}  # so that rows are whole blocks
_SIZES = ("embedding_length", "feed_forward_length", "expert_feed_forward_length", "expert_shared_feed_forward_length")


def rewrite(source: Path, target: Path, choose: Callable, dequantized: bool = False) -> None:
    """A wider model of the same architecture, with matrices in blocks, or with the values that those stand for.

    choose: name and shape of a matrix -> its type, which the package gguf can make.
    """
    reader, generator = gguf.GGUFReader(source), np.random.default_rng(0)
    fields = {field.name: field for field in reader.fields.values() if not field.name.startswith("GGUF.")}
    name = fields.pop("general.architecture").contents()
    writer = gguf.GGUFWriter(target, name)
    for key, field in fields.items():
        value, sub_type = field.contents(), field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        value = WIDER.get(value, value) if key.removeprefix(f"{name}.") in _SIZES else value
        writer.add_key_value(key, value, field.types[0], sub_type)
    shapes = {one.name: tuple(map(int, one.shape[::-1])) for one in reader.tensors}
    if f"{name}.attention.key_length" not in fields and "blk.0.attn_q.weight" in shapes:
        head = shapes["blk.0.attn_q.weight"][0] // fields[f"{name}.attention.head_count"].contents()
        for key in ("key_length", "value_length"):
            writer.add_uint32(f"{name}.attention.{key}", head)
    for one in reader.tensors:
        values = _widened(generator, one.name, np.asarray(one.data).reshape(shapes[one.name]).astype(np.float32))
        matrix = values.ndim > 1 and one.name.endswith("weight") and "_inp" not in one.name
        kind = gguf.GGMLQuantizationType[choose(one.name, values.shape) if matrix else "F32"]
        raw = gguf.quants.quantize(values, kind)
        if dequantized:
            raw = gguf.quants.dequantize(raw, kind).astype(np.float32).reshape(values.shape)
        writer.add_tensor(one.name, raw, raw_dtype=None if dequantized else kind)
    _write(writer)


# Tensors whose sizes are those of heads, of latent rows or of rotations.
_OF_HEADS = re.compile(r"attn_([qk]_norm|q_a_norm|kv_a_norm|sinks|[kv]_b|q_b)|rope_\w+")
_KEPT_ROWS = re.compile(r"attn_(q|k|v|qkv|q_a|kv_a_mqa)|token_embd|output|ffn_gate_inp")


def _widened(generator, name: str, values: np.ndarray) -> np.ndarray:
    """Sizes of heads stay as they are; a matrix that is wider is drawn."""
    leaf, suffix = name.split(".")[-2:]
    rows_stay = _KEPT_ROWS.fullmatch(leaf)
    if _OF_HEADS.fullmatch(leaf) or rows_stay and suffix == "bias":
        return values
    kept = {-3, -2 if rows_stay else None, -1 if leaf == "attn_output" and suffix == "weight" else None}
    axes = range(-values.ndim, 0)
    shape = [size if axis in kept else WIDER.get(size, size) for axis, size in zip(axes, values.shape, strict=True)]
    if tuple(shape) == values.shape:
        return values
    if values.ndim == 1:
        return np.resize(values, shape)
    scale = values.std() * np.sqrt(values.shape[-1] / shape[-1])
    return (generator.standard_normal(shape) * scale).astype(np.float32)


def drawn(blocks: Path, values: Path, kinds: dict[str, str]) -> None:
    """Two files of a small tied llama: one whose matrices are drawn as blocks of types that the package gguf cannot
    make, by the names of tensors without numbers, and one of the values that they stand for."""
    from loader import gguf_files

    generator, files = np.random.default_rng(3), [{}, {}]
    for name, plain in gguf_files.weights(generator, 2, hidden=256, inner=512).items():
        if name == "output.weight":
            continue
        kind = kinds.get(name.split(".")[-2])
        files[0][name] = files[1][name] = plain + 1 if kind is None else plain
        if kind is not None:
            files[0][name], files[1][name] = _drawn_blocks(generator, plain, gguf.GGMLQuantizationType[kind])
    for path, tensors in zip((blocks, values), files, strict=True):
        gguf_files.write(path, tensors, 2, hidden=256, inner=512)


def _drawn_blocks(generator, like, kind):
    """-> (raw blocks and their type, their values, about as large as those of a matrix)."""
    width, size = gguf.GGML_QUANT_SIZES[kind]
    raw = generator.integers(0, 256, (like.shape[0], like.shape[1] // width, size), np.uint8)
    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,)}
    for place in halves[kind.name]:
        factors = generator.uniform(0.5, 1.0, raw.shape[:2]).astype(np.float16)
        raw[..., place : place + 2] = factors[..., None].view(np.uint8)
    raw = raw.reshape(like.shape[0], -1)
    scale = np.float16(like.std() / gguf.quants.dequantize(raw, kind).std())
    blocks = raw.reshape(like.shape[0], -1, size)
    for place in halves[kind.name]:
        own = np.ascontiguousarray(blocks[..., place : place + 2]).view(np.float16) * scale
        blocks[..., place : place + 2] = own.view(np.uint8)
    return (raw, kind), gguf.quants.dequantize(raw, kind).astype(np.float32)


def _write(writer) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    root = Path(sys.argv[1])
    sys.path[:0] = [str(root), str(root / "gguf-py"), str(Path(__file__).parents[1])]
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir()
    for name in MODELS:
        convert(name, FILES / f"{name}.gguf")


if __name__ == "__main__":
    main()

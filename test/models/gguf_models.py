"""Small models as llama.cpp's own converter writes them: one of each architecture that is served, in gguf_files/.

    python test/models/gguf_models.py LLAMA_CPP

writes the files anew. LLAMA_CPP is the folder of llama.cpp's sources, as the source package of llama-cpp-python 0.3.36
has them in vendor/. The weights are those of tiny.py, in float16, and are made of the variant's name.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

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


def main() -> None:
    root = Path(sys.argv[1])
    sys.path[:0] = [str(root), str(root / "gguf-py"), str(Path(__file__).parents[1])]
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir()
    for name in MODELS:
        convert(name, FILES / f"{name}.gguf")


if __name__ == "__main__":
    main()

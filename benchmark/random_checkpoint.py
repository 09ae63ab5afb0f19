"""A checkpoint of random bfloat16 weights in the shape of a published model, for benchmarks without a download.

python benchmark/random_checkpoint.py qwen3-0.6b FOLDER
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    DeepseekV2Config,
    Gemma3TextConfig,
    Lfm2Config,
    PreTrainedTokenizerFast,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    XLMRobertaConfig,
)


def qwen3(**sizes) -> Qwen3Config:
    """A dense Qwen3 of these sizes, its embedding tied."""
    rope = {"rope_type": "default", "rope_theta": 1_000_000}
    alike = dict(num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, rope_parameters=rope)
    return Qwen3Config(**sizes, **alike, tie_word_embeddings=True, bos_token_id=None, eos_token_id=2)


def qwen3_moe(**sizes) -> Qwen3MoeConfig:
    """Qwen3-30B-A3B, with these sizes."""
    rope = {"rope_type": "default", "rope_theta": 1_000_000}
    attention = dict(num_attention_heads=32, num_key_value_heads=4, head_dim=128, rope_parameters=rope)
    experts = dict(moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8, norm_topk_prob=True)
    alike = dict(vocab_size=151936, hidden_size=2048, intermediate_size=6144, max_position_embeddings=40960)
    return Qwen3MoeConfig(**alike | attention | experts | sizes, bos_token_id=None, eos_token_id=2)


SHAPES = {
    "qwen3-0.6b": qwen3(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
    ),
    # The layers, heads and vocabulary of it, and hardly any weights: what is left of a step is its fixed time.
    "qwen3-0.6b-thin": qwen3(
        vocab_size=151936,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=28,
        num_attention_heads=16,
    ),
    # A draft for it, with a seventh of its weights.
    "qwen3-0.6b-draft": qwen3(
        vocab_size=151936,
        hidden_size=448,
        intermediate_size=1344,
        num_hidden_layers=5,
        num_attention_heads=8,
    ),
    # Qwen3-8B with 6 of its 36 layers, and a small vocabulary: the head is 5 percent of what a token reads.
    "8b-cut": qwen3(
        vocab_size=16384,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=6,
        num_attention_heads=32,
    ),
    # Qwen3-30B-A3B with 5 of its 48 layers: 7.3 GB, of which a token reads 1.2. Two engines fit into 24 GB.
    "qwen3-30b-a3b-cut": qwen3_moe(num_hidden_layers=5),
    # All of it, for coded_checkpoint.py: 17 GB with four bits a weight.
    "qwen3-30b-a3b": qwen3_moe(num_hidden_layers=48),
    # DeepSeek-V2-Lite with 6 of its 27 layers: 6 GB, of which a token reads 1.4.
    "deepseek-v2-lite-cut": DeepseekV2Config(
        vocab_size=102400,
        hidden_size=2048,
        intermediate_size=10944,
        moe_intermediate_size=1408,
        num_hidden_layers=6,
        num_attention_heads=16,
        num_key_value_heads=16,
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        n_routed_experts=64,
        n_shared_experts=2,
        num_experts_per_tok=6,
        first_k_dense_replace=1,
        topk_method="greedy",
        max_position_embeddings=163840,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 40.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096,
        },
        bos_token_id=None,
        eos_token_id=2,
    ),
    "lfm2-1.2b": Lfm2Config(
        vocab_size=65536,
        hidden_size=2048,
        intermediate_size=12288,  # of which an MLP has two thirds
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=128000,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000},
        full_attn_idxs=[2, 5, 8, 10, 12, 14],
        bos_token_id=None,
        eos_token_id=2,
    ),
    "qwen3.5-0.8b": Qwen3_5TextConfig(
        vocab_size=248320,
        hidden_size=1024,
        intermediate_size=3584,
        num_hidden_layers=24,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=256,
        linear_num_key_heads=16,
        linear_num_value_heads=16,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        max_position_embeddings=262144,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000_000,
            "partial_rotary_factor": 0.25,
            "mrope_section": [11, 11, 10],
            "mrope_interleaved": True,
        },
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
    ),
    "bge-m3": XLMRobertaConfig(
        vocab_size=250002,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        max_position_embeddings=8194,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    ),
    "embeddinggemma-300m": Gemma3TextConfig(
        vocab_size=262144,
        hidden_size=768,
        intermediate_size=1152,
        num_hidden_layers=24,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=256,
        query_pre_attn_scalar=256,
        sliding_window=512,
        max_position_embeddings=2048,
        use_bidirectional_attention=True,
    ),
    "tiny": Qwen3Config(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=16384,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
    ),
}


SHAPES["qwen3.5-0.8b"].full_attention_interval = 4  # what SGLang reads; transformers has layer_types
# Of those that embed texts: what makes one vector of a text, and the sizes of the products behind that.
POOLING = {"bge-m3": ("cls", []), "embeddinggemma-300m": ("mean", [768, 3072, 768])}


def word_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A word for every id: random models choose any id, and a load generator times those that have a text."""
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(vocab_size)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    special = dict(unk_token="w0", pad_token="w0", eos_token="w2")
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def write_pooling(shape: str, folder: Path) -> None:
    """What sentence-transformers reads beside a checkpoint."""
    (pooling, sizes), width = POOLING[shape], SHAPES[shape].hidden_size
    switches = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    parts = [("", "Transformer", None), ("1_Pooling", "Pooling", dict(word_embedding_dimension=width, **switches))]
    identity = "torch.nn.modules.linear.Identity"
    for number, (inner, outer) in enumerate(zip(sizes, sizes[1:], strict=False), 2):
        config = dict(in_features=inner, out_features=outer, bias=False, activation_function=identity)
        parts.append((f"{number}_Dense", "Dense", config))
    parts.append((f"{len(parts)}_Normalize", "Normalize", None))
    modules = []
    for number, (path, kind, config) in enumerate(parts):
        modules.append(dict(idx=number, name=str(number), path=path, type=f"sentence_transformers.models.{kind}"))
        (folder / path).mkdir(exist_ok=True)
        if config:
            (folder / path / "config.json").write_text(json.dumps(config))
        if kind == "Dense":
            weight = torch.randn(config["out_features"], config["in_features"]) * 0.02
            save_file({"linear.weight": weight}, folder / path / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(modules))


def write_checkpoint(shape: str, folder: Path) -> Path:
    """Write the checkpoint unless `folder` has one already -> folder."""
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(0)
    config = SHAPES[shape]
    config.dtype = "bfloat16"
    made = AutoModel if shape in POOLING else AutoModelForCausalLM
    made.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    word_tokenizer(config.vocab_size).save_pretrained(folder)
    if shape in POOLING:
        write_pooling(shape, folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(write_checkpoint(arguments.shape, arguments.folder))

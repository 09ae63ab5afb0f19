"""Checkpoints of random bfloat16 weights in the shape of a published model that sees, with its processor.

python benchmark/vision_checkpoint.py qwen2.5-vl-3b FOLDER --layers 12
"""

import argparse
import json
from pathlib import Path

import torch
from random_checkpoint import word_tokenizer
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEXT, TOWER = "text_config", "vision_config"
SHAPES = {
    "qwen2.5-vl-3b": {
        TEXT: dict(
            vocab_size=151936,
            hidden_size=2048,
            intermediate_size=11008,
            num_hidden_layers=36,
            num_attention_heads=16,
            num_key_value_heads=2,
            max_position_embeddings=32768,
        ),
        TOWER: dict(depth=32, hidden_size=1280, num_heads=16, intermediate_size=3420, out_hidden_size=2048),
    },
    "qwen2.5-vl-tiny": {
        TEXT: dict(
            vocab_size=4096,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32768,
        ),
        TOWER: dict(depth=8, hidden_size=160, num_heads=2, intermediate_size=320, out_hidden_size=256),
    },
}


def config_of(shape: str, layers: int | None = None) -> Qwen2_5_VLConfig:
    """layers: of the decoder, of which only the first are there; None: all."""
    sizes = SHAPES[shape]
    text = sizes[TEXT] | (dict(num_hidden_layers=layers) if layers else {})
    rope = {"rope_type": "default", "rope_theta": 1_000_000, "mrope_section": [16, 24, 24]}
    more = dict(rope_parameters=rope, tie_word_embeddings=True, bos_token_id=None, eos_token_id=2)
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = {name: text["vocab_size"] - len(TOKENS) + place for place, name in enumerate(names)}
    tower = dict(patch_size=14, window_size=112, spatial_merge_size=2, temporal_patch_size=2)
    tower |= dict(fullatt_block_indexes=[7, 15, 23, 31], tokens_per_second=2)
    return Qwen2_5_VLConfig(
        text_config=text | more, vision_config=sizes[TOWER] | tower, tie_word_embeddings=True, **ids
    )


def write_checkpoint(shape: str, folder: Path, layers: int | None = None) -> Path:
    """Write the checkpoint and its processor unless `folder` has them already -> folder."""
    if (folder / "processor_config.json").exists():
        return folder
    torch.manual_seed(0)
    config = config_of(shape, layers)
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer = word_tokenizer(config.text_config.vocab_size - len(TOKENS))
    tokenizer.add_special_tokens({"additional_special_tokens": list(TOKENS)})
    Qwen2_5_VLProcessor(Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor()).save_pretrained(folder)
    return folder


def weights(folder: Path, tower: bool) -> int:
    """Bytes of the tower's tensors, or of all others."""
    found = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__" and ("visual." in name) == tower:
                first, last = tensor["data_offsets"]
                found += last - first
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="of the decoder")
    arguments = parser.parse_args()
    print(write_checkpoint(arguments.shape, arguments.folder, arguments.layers))

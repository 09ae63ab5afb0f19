"""Semantics of mixtures of experts and of latent attention: kernels check all that they are given, models equal
others."""

import numpy as np
import pytest
from models.harness import Requests, assert_logits_close
from models.test_logits import LIMITS, WAYS, prompts
from models.tiny import reference_logits, save

from .model import PAGE, NpuModel

SECONDS = 5
ALL_WAYS = ["qwen3_moe@16", "deepseek_v3@16"]
ONE_WAY = {
    "mixtral@16": "mixed_batch",
    "solar_open@16": "mixed_batch",
    "minimax_m2@80": "chunks",
    "ernie4_5_moe@16": "one_piece",
    "flex_olmo@h96": "mixed_batch",
    "granitemoe@16": "mixed_batch",
    "phimoe@16": "mixed_batch",
    "mistral4@16": "mixed_batch",
    "mistral-large-3@16": "chunks",
    "hunyuan_v1_moe@16": "mixed_batch",
    "hy_v3@16": "mixed_batch",
    "deepseek_v32-dense@16": "mixed_batch",
    "glm_moe_dsa-dense@16": "chunks",
    "granitemoeshared@16": "chunks",
    "glm4_moe_lite@16": "mixed_batch",
    "qwen2_moe@32": "one_piece",
    "glm4_moe@80": "chunks",
    "deepseek_v2@32": "cached_prefix",
    "deepseek_v2-lite@16": "mixed_batch",
    "deepseek_v3-one-group@16": "chunks",
    "minicpm3@16": "mixed_batch",
    "kimi_k2@16": "mixed_batch",
    "deepseek@h96": "mixed_batch",
    "olmoe@h96": "mixed_batch",
}
CASES = [
    *((variant, way, "float16") for variant in ALL_WAYS for way in WAYS),
    ("minicpm3@16", "mixed_batch", "bfloat16"),  # no experts: whom a token goes to may change with the last bits
    *((variant, way, "float16") for variant, way in ONE_WAY.items()),
]


@pytest.mark.parametrize("variant, way, dtype", CASES)
def test_logits_equal_hugging_face_however_a_prompt_is_served(model_of, variant, way, dtype):
    ids = prompts()
    found = WAYS[way](Requests(model_of(variant, dtype), PAGE), ids)
    wanted = {request: reference_logits(variant, ids[request], dtype) for request in found}
    assert_logits_close(found, wanted, LIMITS[dtype])


@pytest.mark.parametrize("variant, dtype", [("deepseek_v3@16", "float16"), ("minicpm3@16", "bfloat16")])
def test_decoding_absorbs_what_prompts_project(model_of, variant, dtype):
    requests, ids = Requests(model_of(variant, dtype), PAGE), prompts()
    ids = {request: ids[request] for request in ("short", "long")}
    pieces = [requests.step({request: tokens[:-3] for request, tokens in ids.items()})]
    pieces += [
        requests.step({request: tokens[i : i + 1 or None] for request, tokens in ids.items()}) for i in (-3, -2, -1)
    ]
    found = {request: np.concatenate([piece[request] for piece in pieces]) for request in ids}
    wanted = {request: reference_logits(variant, ids[request], dtype) for request in ids}
    assert_logits_close(found, wanted, LIMITS[dtype])


def test_a_page_of_latent_rows_may_hold_more_tokens_than_a_block_of_keys(checked, tmp_path):
    """PagedAttention reads rows in pages of 128 tokens, and keys of 256 values in blocks of at most 64."""
    model, ids = NpuModel(save("minicpm3@16", tmp_path, "float16"), "float16", 128), prompts()
    found = WAYS["mixed_batch"](Requests(model, 128), ids)
    wanted = {request: reference_logits("minicpm3@16", ids[request], "float16") for request in found}
    assert_logits_close(found, wanted, LIMITS["float16"])

"""Net 2 in float32: what the path computes is what Hugging Face does, so that wider limits elsewhere are for rounding.

No kernel of an NPU takes float32 here; those that check are told to, and compute as they do for float16.
"""

from pathlib import Path

import pytest
import torch
from models.harness import Requests, assert_logits_close
from models.int8 import reference, to_int8
from models.test_logits import LIMITS, WAYS, mixed_batch, prompts
from models.tiny import reference_logits, save

from sglang.srt.layers_ms.ops.ascend import host, rounds

from .exact import compute_in_float32
from .model import PAGE, NpuModel

DEMO = Path(__file__).parents[2] / "ms_example/demo_model"


@pytest.fixture(autouse=True)
def exact(checked, monkeypatch):
    compute_in_float32(monkeypatch.setattr)
    monkeypatch.setattr(host, "PIECE", 8)
    monkeypatch.setattr(rounds, "KEYS", 16)
    monkeypatch.setattr(rounds, "PLAIN_KEYS", 8)


# In half precision, experts of dbrx are so close that others are chosen.
MIXED = ["gemma2@16", "baichuan-13b@h96", "minicpm3@16", "glm4@32", "dbrx@h96", "grok@16"]
CHUNKED = ["gpt_oss@16", "mistral-wide-window@16", "qwen3_moe-window@16"]
CASES = [(variant, way) for variant in ("qwen3@16", "deepseek_v3@16") for way in WAYS]
CASES += [*((variant, "mixed_batch") for variant in MIXED), *((variant, "chunks") for variant in CHUNKED)]


@pytest.mark.parametrize("variant, way", CASES)
def test_logits_equal_hugging_face_to_float32(tmp_path, variant, way):
    ids = prompts()
    found = WAYS[way](Requests(NpuModel(save(variant, tmp_path), "float32"), PAGE), ids)
    wanted = {request: reference_logits(variant, ids[request]) for request in found}
    assert_logits_close(found, wanted, LIMITS["float32"])


@torch.no_grad()
def test_int8_rows_are_exact_until_a_value_lies_half_way_between_two_steps(tmp_path):
    """Of what test_engine.py serves in float16. Transformers in float32 and in float64 part at such a value as well."""
    to_int8(DEMO, tmp_path, "modelslim")
    ids = {name: tokens % 131 for name, tokens in prompts().items()}
    found, model = mixed_batch(Requests(NpuModel(tmp_path, "float32"), PAGE), ids), reference(DEMO, tmp_path)

    def logprobs(model, name):
        return model(torch.as_tensor(ids[name])[None]).logits[0].float().log_softmax(-1)

    wanted = {name: logprobs(model, name) for name in ids}
    rough = {name: logprobs(model.half(), name) for name in ids}
    errors = {name: (torch.from_numpy(found[name]).log_softmax(-1) - wanted[name]).abs() for name in ids}
    exact = {name: int((error.amax(-1) < 1e-3).int().cumprod(0).sum()) for name, error in errors.items()}
    assert exact["one"] == 1 and exact["short"] == 13 and exact["long"] > 20, exact
    assert errors["long"].mean() < (rough["long"] - wanted["long"]).abs().mean()

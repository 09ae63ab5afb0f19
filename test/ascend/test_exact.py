"""Semantics in float32: what the path computes is what Hugging Face does, so that wider limits elsewhere are for
rounding.

No kernel of an NPU takes float32 here; those that check are told to, and compute as they do for float16.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from models.harness import Requests, assert_logits_close
from models.int8 import reference, to_int8
from models.test_logits import LIMITS, WAYS, prompts
from models.tiny import reference_logits, save

from sglang.srt.layers_ms.ops.ascend import blockwise_attention, host

from .exact import compute_in_float32
from .model import PAGE, NpuModel

SECONDS = 15
DEMO = Path(__file__).parents[2] / "ms_example/demo_model"


@pytest.fixture(autouse=True)
def exact(checked, monkeypatch):
    compute_in_float32(monkeypatch.setattr)
    monkeypatch.setattr(host, "QUERY_BLOCK", 8)
    monkeypatch.setattr(blockwise_attention, "KEYS", 16)
    monkeypatch.setattr(blockwise_attention, "PLAIN_KEYS", 8)


# In half precision, experts of dbrx, mellum and qwen3_next are so close that others are chosen.
MIXED = ["gemma2@16", "baichuan-13b@h96", "minicpm3@16", "glm4@32", "dbrx@h96", "mellum@16", "grok@16"]
MIXED += ["qwen3_next@32", "granitemoehybrid@h96", "granitemoe_swa@h96"]
CHUNKED = ["gpt_oss@16", "mistral-wide-window@16", "qwen3_moe-window@16", "lfm2@h96", "qwen3_5@32"]
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
    """Of what test_engine.py serves in float16. Transformers in float32 and in float64 part at such a value as well.

    Where that is depends on the order in which a processor's library adds up: of many short prompts few have one.
    """
    to_int8(DEMO, tmp_path, "modelslim")
    short = np.random.default_rng(0).integers(0, 131, (20, 2))
    ids = {"long": prompts()["long"] % 131, **{f"{number}": tokens for number, tokens in enumerate(short)}}
    requests, model = Requests(NpuModel(tmp_path, "float32"), PAGE), reference(DEMO, tmp_path)
    found, names = {}, list(ids)
    for first in range(0, len(names), 7):
        found |= requests.step({name: ids[name] for name in names[first : first + 7]})

    def logprobs(model, name):
        return model(torch.as_tensor(ids[name])[None]).logits[0].float().log_softmax(-1)

    wanted = {name: logprobs(model, name) for name in ids}
    rough = logprobs(model.half(), "long")
    errors = {name: (torch.from_numpy(found[name]).log_softmax(-1) - wanted[name]).abs() for name in ids}
    exact = sum(bool(error.max() < 1e-3) for name, error in errors.items() if name != "long")
    assert exact >= 12, exact
    assert errors["long"].mean() < (rough - wanted["long"]).abs().mean()

"""The sampler of hosts: the largest logits as torch finds them, and SGLang's way where more than tokens is wanted."""

from types import SimpleNamespace

import pytest
import torch

from sglang.srt.layers.sampler import Sampler
from sglang.srt.model_executor_ms.runner.sampler import HostSampler

SECONDS = 1
GREEDY = {
    "is_all_greedy": True,
    "sampling_mask_batch_indices": None,
    "has_custom_logit_processor": False,
    "grammars": None,
}


@pytest.fixture
def sampler():
    return HostSampler.__new__(HostSampler)  # without the process groups of a server


def choose(sampler, logits, return_logprob=False, **info):
    output = SimpleNamespace(next_token_logits=logits)
    return HostSampler.forward(sampler, output, SimpleNamespace(**{**GREEDY, **info}), return_logprob, [], [], None)


def test_greedy_tokens_are_torchs_with_equal_logits_and_with_nan(sampler):
    logits = torch.randn(7, 1003)
    logits[1, [500, 20, 900]] = 9.0
    logits[2, [40, 800]] = float("nan")
    logits[3] = float("-inf")
    logits[4, 1002] = float("inf")
    found = choose(sampler, logits)
    assert found.dtype == torch.int64
    assert torch.equal(found, logits.argmax(-1))


def test_a_padded_vocabulary_is_left_out(sampler):
    logits = torch.randn(3, 64)
    logits[:, 60:] = 100.0
    assert torch.equal(choose(sampler, logits[:, :60]), logits[:, :60].argmax(-1))


@pytest.mark.parametrize(
    ("asked", "info"),
    [
        (True, {}),
        (False, {"is_all_greedy": False}),
        (False, {"sampling_mask_batch_indices": torch.tensor([0])}),
    ],
)
def test_what_is_more_than_a_greedy_token_is_left_to_sglang(sampler, monkeypatch, asked, info):
    monkeypatch.setattr(Sampler, "forward", lambda *_, **__: "SGLang's")
    assert choose(sampler, torch.randn(2, 8), asked, **info) == "SGLang's"

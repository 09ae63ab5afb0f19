"""Encoders on the path of an NPU, whose kernels check what they are given: attention without a mask, whole prompts."""

import numpy as np
import pytest
import torch
from models.harness import Requests
from models.pooled import answer, save
from models.test_encoders import Steps, texts
from models.test_pooled import pool

from sglang.srt.layers_ms import ops

from .model import PAGE, NpuSteps

SECONDS = 6
WIDTH = 96  # heads of 16 values


class NpuEncoder(Steps):
    def __init__(self, folder):
        super().__init__(folder, "float16", PAGE)
        self.graph = NpuSteps(self.network, self.caches, PAGE)


@pytest.mark.parametrize("architecture", ["BertModel", "XLMRobertaForSequenceClassification"])
def test_what_an_encoder_says_equals_transformers(checked, calls, tmp_path, architecture):
    model, ids = NpuEncoder(save(architecture, tmp_path, hidden_size=WIDTH)), texts()
    calls.clear()
    hidden = Requests(model, PAGE).step(ids)
    found = pool(model, hidden).embeddings
    wanted = torch.stack([answer(architecture, ids[request], hidden_size=WIDTH) for request in hidden])
    assert (found - wanted).abs().max() <= 2e-2 * wanted.abs().max()
    assert {arguments[5] for name, arguments in calls if name == "flash_attention"} == {None}


def test_a_part_of_a_prompt_is_refused(checked, tmp_path):
    requests = Requests(NpuEncoder(save("BertModel", tmp_path, hidden_size=WIDTH)), PAGE)
    requests.step({"a": np.arange(20)})
    with pytest.raises(NotImplementedError, match="--chunked-prefill-size -1"):
        requests.step({"a": np.arange(5)})


def test_windows_in_both_directions_are_refused_by_what_would_serve_them(checked):
    ops.check_attention(4, 4, 64, 64, 0, 0.0, False, False, True)
    with pytest.raises(NotImplementedError, match="--context-length 257"):
        ops.check_attention(4, 1, 64, 64, 257, 0.0, False, False, True)


def test_images_that_are_seen_whole_are_refused_on_a_310p_by_what_is_served(chip_310p, checked):
    with pytest.raises(NotImplementedError, match="without --enable-multimodal its text is served"):
        ops.check_attention(4, 4, 64, 64, 0, 0.0, False, False, False, True)

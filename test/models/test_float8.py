"""A checkpoint of float8 weights gives the logits of the weights that it stands for."""

import pytest
import torch
from models.float8 import to_float8, to_mistrals_float8
from models.harness import PagedModel, Requests, assert_logits_close
from models.test_logits import LIMITS, mixed_batch, prompts
from models.tiny import save
from transformers import AutoModelForCausalLM

SECONDS = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """-> (float8, what it stands for)."""
    source, *folders = (tmp_path_factory.mktemp(name) for name in ("source", "float8", "products"))
    to_float8(save("deepseek_v3", source), *folders)
    return folders


def test_logits_are_those_of_the_products(table, folders):
    model = PagedModel(folders[0], compiled=False)
    found = mixed_batch(Requests(model, 4), prompts())
    # Grouped products want even sizes.
    model = AutoModelForCausalLM.from_pretrained(folders[1], dtype=torch.float32, experts_implementation="eager")
    with torch.no_grad():
        wanted = {name: model(torch.as_tensor(ids)[None]).logits[0].numpy() for name, ids in prompts().items()}
    assert_logits_close(found, {name: wanted[name] for name in found}, LIMITS["float32"])


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
def test_mistrals_names_of_scales_are_understood(table, tmp_path):
    """Of its own products: test_logits.py compares those with transformers."""
    source, *folders = (tmp_path / name for name in ("source", "float8", "products"))
    to_mistrals_float8(save("mistral-large-3", source), *folders)
    found, wanted = (mixed_batch(Requests(PagedModel(folder, compiled=False), 4), prompts()) for folder in folders)
    assert_logits_close(found, wanted, LIMITS["float32"])

"""Experts with places of their own on two ranks: replicas, a given location, and counts."""

import json

import numpy as np
import pytest
import torch
from models.tiny import hugging_face, save
from serving.answers import PROMPTS, answered, check_answers
from serving.conftest import Engine

NAME = "qwen3_moe@ranks"  # 8 experts, of which a token goes to 3
RANKS = dict(tp_size=2, ep_size=2, ep_num_redundant_experts=2, skip_tokenizer_init=True, max_running_requests=4)
LOCATION = [[7, 6, 5, 4, 7, 3, 2, 1, 0, 0], [0, 2, 4, 6, 1, 3, 5, 7, 1, 1]]  # of the experts of two layers
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(NAME, tmp_path_factory.mktemp("moe"))


def choices(answers) -> np.ndarray:
    """How often transformers' routers choose each expert of each layer for the tokens of these answers, [2, 8]."""
    model, found = hugging_face(NAME), np.zeros((2, 8), int)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor([[*prompt, *answer["output_ids"]][:-1]])  # nothing was computed after the last token
        with torch.no_grad():
            layers = model(ids, output_router_logits=True).router_logits
        for counts, logits in zip(found, layers, strict=True):
            counts += np.bincount(logits.topk(3).indices.flatten(), minlength=8)
    return found


def test_experts_are_where_a_file_says_and_are_counted(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR", str(tmp_path))
    location = tmp_path / "location.json"
    location.write_text(json.dumps({"physical_to_logical_map": LOCATION}))
    engine = Engine(folder, init_expert_location=str(location), expert_distribution_recorder_mode="stat", **RANKS)
    try:
        check_answers(answered(engine), NAME, 1e-4)
        engine.flush_cache()
        engine.start_expert_distribution_record()
        answers = answered(engine, NEW_TOKENS)
        engine.stop_expert_distribution_record()
        engine.dump_expert_distribution_record()
    finally:
        engine.shutdown()
    check_answers(answers, NAME, 1e-4)
    (file,) = tmp_path.glob("*.pt")
    counted = torch.load(file, weights_only=True)["logical_count"].sum(0).numpy()
    np.testing.assert_array_equal(counted, 2 * choices(answers))  # every rank counts every token

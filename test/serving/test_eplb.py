"""Experts with places of their own on two ranks, to which rows are sent: replicas, counts, EPLB while it serves."""

import json
import re

import numpy as np
import pytest
import torch
from models.tiny import save
from serving.answers import asked, check_answers, choices, computed
from tiers import mostly_slow

SECONDS = 15, 80

# Operator table: (variant, arguments, limit of logprobs, share of choices that rounding may change). A token goes to 3
# of 8 experts. On the Ascend path decode graphs are captured, for two requests.
NPU = ["--ep-size", "2", "--dtype", "float16", "--page-size", "16", "--cuda-graph-bs-decode", "2"]
TABLES = {
    "cpu": ("qwen3_moe@ranks", ["--moe-a2a-backend", "deepep"], 1e-4, 0.0),
    "ascend_reference": ("qwen3_moe@ranks16", NPU, 0.1, 0.02),
}
LOCATION = [[7, 6, 5, 4, 7, 3, 2, 1, 0, 0], [0, 2, 4, 6, 1, 3, 5, 7, 1, 1]]  # of the experts of two layers


@pytest.fixture(scope="module", params=mostly_slow(TABLES, lambda table: table == "cpu"))
def ranks(request, serve, tmp_path_factory):
    """A server that moves experts after each 50 passes; the tests follow each other."""
    name, more, limit, rounding = TABLES[request.param]
    recorded, folder = tmp_path_factory.mktemp("recorded"), save(name, tmp_path_factory.mktemp("moe"))
    location = recorded / "location.json"
    location.write_text(json.dumps({"physical_to_logical_map": LOCATION}))
    arguments = ["--tp-size", "2", "--ep-num-redundant-experts", "2"]
    arguments += ["--init-expert-location", location, "--enable-eplb", "--eplb-rebalance-num-iterations", "50"]
    arguments += ["--skip-tokenizer-init", "--max-running-requests", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SGLANG_MS_OPS", request.param)
        patch.setenv("SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR", str(recorded))
        patch.setenv("SGLANG_LOG_EXPERT_LOCATION_METADATA", "1")
        patch.setenv("SGLANG_EXPERT_LOCATION_UPDATER_CANARY", "1")  # SGLang checks what has moved where
        server = serve(folder, *map(str, arguments), *more)
    server.folder, server.recorded, server.name, server.limit, server.rounding = folder, recorded, name, limit, rounding
    return server


def checked(server) -> list:
    answers = asked(server)
    check_answers(answers, server.name, server.limit)
    return answers


def test_experts_are_where_a_file_says_and_their_tokens_are_counted(ranks):
    checked(ranks)
    ranks.post("/flush_cache")
    ranks.post("/start_expert_distribution_record")
    answers = checked(ranks)
    ranks.post("/dump_expert_distribution_record")
    (file,) = ranks.recorded.glob("*.pt")
    counted = torch.load(file, weights_only=True)["logical_count"].sum(0).numpy()
    wanted = 2 * np.array(list(choices(ranks.name, computed(answers)).values()))  # every rank counts every token
    np.testing.assert_array_equal(counted.sum(1), wanted.sum(1))
    assert np.abs(counted - wanted).sum() <= ranks.rounding * wanted.sum(), (counted, wanted)


def test_experts_move_while_the_server_answers(ranks):
    for _ in range(10):  # of 12 passes
        checked(ranks)
        ranks.post("/flush_cache")
    said = ranks.log.read_text()
    moved = [int(count) for count in re.findall(r"changed_physical_slots=(\d+)/20", said)]
    assert len(moved) >= 2
    assert moved[0] > 0
    assert said.count("[EPLBManager] rebalance end") >= 2 * len(moved) - 1  # on two ranks


def test_weights_that_are_loaded_anew_go_to_where_experts_are_now(ranks):
    assert ranks.post("/update_weights_from_disk", {"model_path": str(ranks.folder)}).json()["success"]
    checked(ranks)

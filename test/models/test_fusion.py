"""All-reduces that are computed with the norms behind them: the same bits as one after the other."""

import numpy as np
import pytest
import torch
from models.harness import Requests
from models.parts import Part
from models.tiny import save

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.layers_ms import ops

SECONDS = 20

ONE = Stage()
# Of two layers: of attention and MLP, of attention beside experts, and where a norm or an order is another one.
FUSED = {"qwen3": 4, "llama-bias": 4, "deepseek_v2": 3, "mixtral": 2, "glm4": 0, "olmo2": 0, "granite": 0, "gemma": 0}


class Hidden(Part):
    """What a rank's stage gives, in the place of logits."""

    def logits(self, inputs, step):
        if not self.config.stage.first:
            rows = np.random.default_rng(len(inputs)).standard_normal((len(inputs), self.config.hidden_size))
            inputs = torch.from_numpy(rows).float()
        return self.run(inputs, step).numpy()


@pytest.fixture
def hidden_states(monkeypatch, tmp_path):
    """Function of a variant, whether to fuse, and a stage -> hidden states of some steps, and how many are fused."""
    monkeypatch.setattr(ops, "all_reduce", lambda x, group: x)  # a rank gives what it has itself

    def run(variant, fused, stage=ONE):
        monkeypatch.setattr(ops, "supports_all_reduce_norm_fusion", lambda ranks: fused and ranks == 2)
        part = Hidden(save(f"{variant}@ranks", tmp_path), stage, shard=Shard(0, 2, "ranks"), compiled=False)
        requests, ids = Requests(part, 1), np.arange(20) % 131
        steps = [{"a": ids[:5], "b": ids[:9]}, {"a": ids[5:8], "b": ids[9:10]}]
        found = [requests.step(step) for step in steps]
        column = part.network.model.fused
        return np.concatenate([rows for step in found for rows in step.values()]), column.count if column else 0

    return run


@pytest.mark.parametrize("table", ["reference"], indirect=True)
@pytest.mark.parametrize("variant", FUSED)
def test_hidden_states_are_the_same(table, hidden_states, variant):
    (wanted, none), (found, count) = hidden_states(variant, False), hidden_states(variant, True)
    assert (none, count) == (0, FUSED[variant])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("table", ["reference"], indirect=True)
@pytest.mark.parametrize("stage, fused", [(Stage(0, 2), 1), (Stage(1, 2), 2)])
def test_hidden_states_of_a_stage_are_the_same(table, hidden_states, stage, fused):
    (wanted, _), (found, count) = hidden_states("qwen3", False, stage), hidden_states("qwen3", True, stage)
    assert count == fused  # what its last block adds belongs to a norm of the next stage
    np.testing.assert_array_equal(found, wanted)

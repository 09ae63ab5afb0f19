"""Encoders, whose tokens see each other in both directions, against transformers: whole prompts, pairs, poolings."""

import numpy as np
import pytest
import torch
from models.harness import Requests
from models.pooled import CLASSES, WHOLE, against, answer, save
from models.test_logits import prompts
from models.test_pooled import HiddenStates, pool

from sglang.srt.layers_ms.ops.metadata import TOKEN_TYPE_IDS
from sglang.srt.model_executor_ms.runner.sentence_transformers import Recipe
from sglang.srt.models_ms.config import UnsupportedConfig

SECONDS = 12
PADDING = 4  # of the variant of XLM-RoBERTa, which transformers counts no positions of


class Steps(HiddenStates):
    """types: which of a pair each token of the next step is of; None: of the first."""

    types = None

    def hidden_states(self, ids, step):
        inputs = {"input_ids": np.asarray(ids)}
        if TOKEN_TYPE_IDS in self.network.model_inputs():
            inputs["token_type_ids"] = np.zeros(len(ids), int) if self.types is None else self.types
        return self.outputs(inputs, step).hidden_states


def texts() -> dict:
    return {request: np.where(ids == PADDING, PADDING + 1, ids) for request, ids in prompts().items()}


@pytest.fixture
def served(table, tmp_path, computes):
    def load(architecture, **config):
        computes(architecture, against(architecture))
        return Steps(save(architecture, tmp_path, **config), compiled=False)

    return load


def assert_near(found, wanted):
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("architecture", WHOLE)
def test_what_an_encoder_says_of_whole_texts_equals_transformers(served, architecture):
    model, ids = served(architecture), texts()
    for page_size in (1, 16):
        hidden = Requests(model, page_size).step(ids)
        wanted = torch.stack([answer(architecture, ids[request]) for request in hidden])
        assert_near(pool(model, hidden).embeddings, wanted)


def test_a_pair_of_texts_is_told_apart_by_the_types_of_its_tokens(served):
    architecture = "BertForSequenceClassification"
    model, ids = served(architecture), texts()
    types = {request: np.arange(len(tokens)) * 3 // len(tokens) for request, tokens in ids.items()}
    model.types = np.concatenate(list(types.values()))
    hidden = Requests(model, page_size=4).step(ids)
    wanted = torch.stack([answer(architecture, ids[request], types[request]) for request in hidden])
    assert_near(pool(model, hidden).embeddings, wanted)
    assert (wanted - torch.stack([answer(architecture, ids[request]) for request in hidden])).abs().max() > 0.1


@pytest.mark.parametrize("architecture", ["BertForSequenceClassification", "XLMRobertaForSequenceClassification"])
def test_a_reranker_gives_one_number(served, architecture):
    model, ids = served(architecture, num_labels=1), texts()
    found = pool(model, Requests(model, page_size=4).step(ids)).embeddings
    assert_near(found, torch.stack([answer(architecture, ids[request], num_labels=1) for request in ids]))
    assert found.shape == (len(ids),) and CLASSES > 1


@pytest.mark.parametrize("pooling", ["cls", "mean", "lasttoken"])
def test_hidden_states_are_pooled_as_the_recipe_says(served, pooling):
    """Against torch, in float64, of a step of many tokens."""
    model = served("BertModel")
    rng = np.random.default_rng(1)
    hidden = {name: rng.standard_normal((count, 60), np.float32) + 100 for name, count in (("a", 3), ("b", 900))}
    found = pool(model, hidden, Recipe(pooling)).embeddings
    rows = {"cls": lambda x: x[0], "mean": lambda x: x.mean(0), "lasttoken": lambda x: x[-1]}[pooling]
    wanted = torch.from_numpy(np.stack([rows(one.astype(np.float64)) for one in hidden.values()]))
    torch.testing.assert_close(found.double(), torch.nn.functional.normalize(wanted), atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "config, reason",
    [
        (dict(position_embedding_type="relative_key"), "position_embedding_type = 'relative_key'"),
        (dict(is_decoder=True), "is_decoder = True"),
        (dict(hidden_act="swish"), "hidden_act = 'swish'"),
    ],
)
def test_an_encoder_of_another_kind_is_refused(table, tmp_path, config, reason):
    with pytest.raises(UnsupportedConfig, match=reason):
        Steps(save("BertModel", tmp_path, **config), compiled=False)

"""Embeddings, classes and rewards against Hugging Face: SGLang's Pooler on our hidden states, then our head."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models.harness import PagedModel, Requests
from models.pooled import CLASSES, KINDS, WHOLE, against, answer, save
from models.test_logits import prompts

from sglang.srt.model_executor_ms.runner.pooling import Pooling
from sglang.srt.model_executor_ms.runner.sentence_transformers import Recipe
from sglang.srt.models_ms.registry import MODELS

SECONDS = 10
PLAIN = dict(
    dimensions=None, token_indices_to_pool=None, multi_item_delimiter_indices=None, return_pooled_hidden_states=False
)


class HiddenStates(PagedModel):
    """A model whose steps give hidden states instead of logits."""

    def logits(self, ids, step):
        return self.hidden_states(ids, step).numpy()


@pytest.fixture
def served(table, tmp_path, computes):
    def load(architecture):
        computes(architecture, against(architecture))
        return HiddenStates(save(architecture, tmp_path), compiled=False)

    return load


def pool(model, hidden: dict, recipe=None, **batch) -> torch.Tensor:
    """{request: hidden states of its last tokens} -> what SGLang is given, one row a request."""
    lengths = torch.tensor([len(rows) for rows in hidden.values()])
    batch = SimpleNamespace(**{**PLAIN, "extend_seq_lens": lengths, **batch})
    states = torch.from_numpy(np.concatenate(list(hidden.values())))
    return Pooling(model.network, recipe or Recipe(model.network.pooling))(states, batch, torch.zeros(1))


def test_every_architecture_that_does_not_generate_has_a_variant():
    assert set(KINDS) == {name for name, model in MODELS.items() if not model.generates}


@pytest.mark.parametrize("architecture", [kind for kind in KINDS if kind not in WHOLE])
def test_what_a_pooled_model_says_equals_hugging_face(served, architecture):
    model, ids = served(architecture), prompts()
    requests = Requests(model, page_size=4)
    requests.step({"long": ids["long"][:33]})
    hidden = requests.step({"one": ids["one"], "long": ids["long"][33:], "short": ids["short"]})
    found = pool(model, hidden).embeddings
    wanted = torch.stack([answer(architecture, ids[request]) for request in hidden])
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_embeddings_are_cut_before_they_are_normalized(served):
    model, ids = served("MistralModel"), prompts()
    hidden = Requests(model, page_size=4).step({"short": ids["short"], "one": ids["one"]})
    for dimensions in ([7, 7], [7, 60]):
        found = pool(model, hidden, dimensions=dimensions).embeddings
        for vector, request, size in zip(found, hidden, dimensions, strict=True):
            wanted = torch.nn.functional.normalize(answer("MistralModel", ids[request])[:size], dim=0)
            torch.testing.assert_close(vector, wanted, atol=1e-4, rtol=0)


def test_hidden_states_come_with_scores_where_they_are_asked_for(served):
    model, ids = served("Qwen3ForSequenceClassification"), prompts()
    hidden = Requests(model, page_size=4).step({"short": ids["short"]})
    found = pool(model, hidden, return_pooled_hidden_states=True)
    assert found.embeddings.shape == (1, CLASSES)
    np.testing.assert_array_equal(found.pooled_hidden_states.numpy(), hidden["short"][-1:])

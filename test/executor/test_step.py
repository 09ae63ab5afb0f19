"""One declaration of a step's inputs: whatever it names reaches the graph, whatever the graph gives comes back."""

import numpy as np
import pytest
import torch
from models.harness import PagedModel, Requests
from models.tiny import hugging_face, save

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.metadata import TOKENS, Field
from sglang.srt.model_executor_ms.runner import step as declaration
from sglang.srt.model_executor_ms.runner.step import FIELDS, step_layout
from sglang.srt.model_executor_ms.runner.step_inputs import first_pages, step_inputs

SECONDS = 40
pytestmark = pytest.mark.usefixtures("table")
UNREAD = Field("unread", (TOKENS,), build=lambda step: step.request_ids)
LIMIT = 1e-4  # of the largest value, between ours and transformers'


@pytest.fixture(scope="module")
def load(table, tmp_path_factory):
    """Function of a variant -> a model of its own, whose graph is not made yet."""
    return lambda variant: PagedModel(save(variant, tmp_path_factory.mktemp("model")))


def some_steps(model) -> list:
    """Logits of prompts, of a prompt beside a request that decodes, and of two that decode."""
    ids = np.random.default_rng(0).integers(0, 131, 30)
    requests, found = Requests(model, 4), []
    for step in ({"a": ids[:5], "b": ids[:9]}, {"a": ids[5:6], "c": ids[:3]}, {"a": ids[6:7], "c": ids[3:4]}):
        found += requests.step(step).values()
    return found


def test_a_field_that_nobody_reads_is_a_line_and_changes_nothing(load, monkeypatch):
    wanted = some_steps(load("qwen3"))
    monkeypatch.setattr(declaration, "FIELDS", (*FIELDS, UNREAD))
    model = load("qwen3")
    found = some_steps(model)
    assert "unread" in [entry.field.name for entry in model.graph.layout.inputs]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_optional_field_is_in_the_layouts_that_ask_for_it_only(monkeypatch):
    monkeypatch.setattr(declaration, "FIELDS", (*FIELDS, UNREAD._replace(optional=True)))
    names = [[entry.field.name for entry in step_layout(optional=asked).inputs] for asked in ((), ("unread",))]
    assert ["unread" in one for one in names] == [False, True]


@pytest.mark.parametrize("variant", ["qwen3", "olmo2"])  # norms before attention, and behind it
def test_auxiliary_hidden_states_are_what_enters_the_layers_in_transformers(load, variant):
    model, ids = load(variant), np.arange(3, 20)
    layers = model.config.num_hidden_layers
    model.network.set_aux_layers(range(layers + 1))
    _outputs(model, ids)  # makes the graph, and captures it
    with torch.no_grad():
        reference = hugging_face(variant).model(torch.as_tensor(ids)[None], output_hidden_states=True)
    for captured in (True, False) if ops.capabilities().static_graphs else (False,):
        if not captured:
            model.graph.replay = None
        outputs = _outputs(model, ids)
        *entering, leaving = outputs.aux_hidden_states
        with torch.no_grad():
            normed = hugging_face(variant).model.norm(leaving)
        found, wanted = [*entering, normed, outputs.hidden_states], [*reference.hidden_states, reference[0]]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.numpy(), other[0].numpy(), rtol=0, atol=LIMIT * float(other.abs().max()))


def _outputs(model, ids):
    """All that the graph gives for a fresh request of these ids."""
    table, slots = first_pages((len(ids),), (len(ids),), 4)
    return model.outputs({"input_ids": ids}, step_inputs((len(ids),), (len(ids),), slots, table, 4))


def test_auxiliary_layers_that_a_model_does_not_have_are_refused_by_number(load):
    network = load("qwen3").network
    for layers in ((0, 9), (1, 0), (-1,)):
        with pytest.raises(ValueError, match="from 0 to 2"):
            network.set_aux_layers(layers)


def test_auxiliary_hidden_states_of_sums_that_norms_add_up_are_refused_with_the_way_out(load):
    network = load("qwen3").network
    network.model.fused = 4
    with pytest.raises(ValueError, match="SGLANG_MS_ALLREDUCE_FUSION=0"):
        network.set_aux_layers((1,))


def test_a_graph_that_begins_with_embeddings_computes_what_one_of_ids_does(load):
    wanted, model = some_steps(load("llama")), load("llama")
    model.network.take_embeddings()
    table = hugging_face("llama").model.embed_tokens.weight.detach()
    model.hidden_states = lambda ids, step: model.outputs({"input_embeds": table[ids]}, step).hidden_states
    for one, other in zip(some_steps(model), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def steps_of(model, seed):
    """Yields logits, one step of two requests after the other; what is between them may be other models' steps."""
    ids, requests = np.random.default_rng(seed).integers(0, 131, 40), Requests(model, 4)
    for step in ({"a": ids[:7]}, {"a": ids[7:8], "b": ids[:11]}, {"b": ids[11:14], "a": ids[8:9]}, {"a": ids[9:10]}):
        yield np.concatenate(list(requests.step(step).values()))


def test_two_models_in_one_process_step_by_turns_and_each_says_what_it_says_alone(load):
    variants = ("qwen3", "gemma2")
    alone = [list(steps_of(load(variant), seed)) for seed, variant in enumerate(variants)]
    pair = [load(variant) for variant in variants]
    by_turns = list(zip(*(steps_of(model, seed) for seed, model in enumerate(pair)), strict=True))
    for number, wanted in enumerate(alone):
        for found, one in zip(by_turns, wanted, strict=True):
            np.testing.assert_array_equal(found[number], one)
    if ops.capabilities().static_graphs:
        assert all(model.graph.replay for model in pair)

"""Steps with rows in the place of tokens, and the graph of those that have none."""

from types import SimpleNamespace

import pytest
import torch
from models.harness import PagedModel
from models.tiny import save
from safetensors.torch import load_file

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor_ms.runner.cpu_runner import runner
from sglang.srt.model_executor_ms.runner.graphs import Limits, compilations
from sglang.srt.model_executor_ms.runner.media import MediaInputs
from sglang.srt.model_executor_ms.runner.step_inputs import first_pages, step_inputs

SECONDS = 5
PAGE, TOKENS = 4, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save("qwen3", tmp_path_factory.mktemp("qwen3"))


class Server(MediaInputs):
    """A model of text whose requests may bring embeddings, or may not, and its runner."""

    def __init__(self, folder, takes):
        self.model = PagedModel(folder)
        self.network = self.model.network
        if takes:
            self.network.model.take_media(0)
        limits, table = Limits(16, 4, 8), torch.zeros(4, 32, dtype=torch.int32)
        self.runner = runner(self.network, self.model.caches, limits, table, PAGE, 100, first=True)

    def step(self, ids, embeds=None, decode=False):
        """-> hidden states [T, hidden_size] of a prompt, or of its last token."""
        lengths = ([1], [len(ids)]) if decode else ([len(ids)], [len(ids)])
        table, slots = first_pages(*lengths, PAGE)
        mode = ForwardMode.DECODE if decode else ForwardMode.EXTEND
        batch = SimpleNamespace(forward_mode=mode, contains_mm_inputs=lambda: False, input_embeds=embeds)
        ids = ids[-1:] if decode else ids
        inputs = {"input_ids": ids} | (self.media_inputs(ids, batch) if self.takes_media else {})
        return self.runner.run(inputs, step_inputs(*lengths, slots, table, PAGE)).hidden_states


def test_a_server_that_never_saw_embeddings_runs_the_steps_of_one_that_takes_none(table, folder):
    plain, taking = Server(folder, False), Server(folder, True)
    assert not plain.takes_media and taking.takes_media
    layouts = [server.runner.graph.layout for server in (plain, taking)]
    assert layouts[0] == layouts[1]
    if ops.capabilities().static_graphs:
        sent = [[buffer.shape for buffer in server.runner.graph.buffers[0]] for server in (plain, taking)]
        assert sent[0] == sent[1]
        assert all(server.runner.graph.replay for server in (plain, taking))
    before, ids = compilations(), torch.arange(TOKENS) + 7
    for decode in (False, True):
        found, wanted = (server.step(ids, decode=decode) for server in (taking, plain))
        assert torch.equal(found, wanted)
    assert compilations() == before


def test_rows_take_the_place_of_tokens_in_steps_that_have_some(table, folder):
    server = Server(folder, True)
    before, ids = compilations(), torch.arange(TOKENS) + 7
    wanted = server.step(ids)
    embeds = load_file(folder / "model.safetensors")["model.embed_tokens.weight"][ids]
    embeds[1] = torch.nan  # of a request that brings none
    other = ids.clone()
    other[[0, 2]] = 1
    assert torch.equal(server.step(other, embeds), wanted)
    assert not torch.equal(server.step(other), wanted)
    assert compilations() == before + 1

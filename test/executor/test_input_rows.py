"""Rows of embeddings that requests bring, among the tokens of others."""

from types import SimpleNamespace

import pytest
import torch

from sglang.srt.model_executor_ms.runner import input_rows

SECONDS = 1


def test_rows_are_those_of_the_requests_that_bring_them():
    given, none = torch.arange(6.0).reshape(3, 2), torch.full((1, 2), torch.nan)
    batch = SimpleNamespace(input_embeds=torch.cat([given[:1], none, none, given[1:], none]))
    rows, mask = torch.zeros(6, 2), torch.zeros(6, dtype=torch.int32)
    input_rows.put_input_embeds(batch, rows, mask)
    assert mask.tolist() == [1, 0, 0, 1, 1, 0]
    assert torch.equal(rows[[0, 3, 4]], given) and not rows[[1, 2, 5]].any()


@pytest.mark.parametrize(
    "server, takes",
    [
        (dict(), True),
        (dict(device="npu"), False),
        (dict(speculative_algorithm="NGRAM"), False),
    ],
)
def test_steps_begin_with_rows_where_requests_may_bring_them(monkeypatch, server, takes):
    server = SimpleNamespace(**dict(device="cpu", speculative_algorithm=None) | server)
    for name in ("get_device", "get_spec"):
        monkeypatch.setattr(input_rows, name, lambda: server)
    monkeypatch.setattr(input_rows.batches, "spread_input_embeds", lambda: None)
    taken = []
    model = SimpleNamespace(takes_media=False, take_media=taken.append)
    network = SimpleNamespace(model=model, config=SimpleNamespace(stage=SimpleNamespace(first=True)))
    input_rows.take_input_embeds(network, True)
    assert taken == ([0] if takes else [])
    input_rows.take_input_embeds(network, False)  # a model that is pooled
    assert len(taken) == takes

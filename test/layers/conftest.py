"""Fixtures of tests of layers."""

import pytest
from layers.shares import same, to_all

from sglang.srt.layers_ms import ops


@pytest.fixture
def partial_results(monkeypatch):
    """Ranks give what they have themselves, before it is added up."""
    monkeypatch.setattr(ops, "all_reduce", same)
    monkeypatch.setattr(ops, "dispatch_experts", to_all)
    monkeypatch.setattr(ops, "combine_experts", same)

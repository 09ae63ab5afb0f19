"""The layers of a pipeline stage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang.srt.distributed.utils import get_pp_indices
from sglang.srt.distributed_ms.stage import Stage, StageError

SECONDS = 1


@given(total=st.integers(1, 130), size=st.integers(1, 16))
def test_stages_have_the_layers_that_sglang_gives_them(total, size):
    if total >= size:
        found = [Stage(rank, size).layers(total) for rank in range(size)]
        assert [(layers.start, layers.stop) for layers in found] == [
            get_pp_indices(total, rank, size) for rank in range(size)
        ]


def test_stages_have_as_many_layers_as_asked_for(monkeypatch):
    monkeypatch.setenv("SGLANG_PP_LAYER_PARTITION", "3,1,2")
    found = [Stage(rank, 3, (3, 1, 2)).layers(6) for rank in range(3)]
    assert found == [range(3), range(3, 4), range(4, 6)]
    assert [(layers.start, layers.stop) for layers in found] == [get_pp_indices(6, rank, 3) for rank in range(3)]


def test_a_single_stage_has_every_layer_whatever_others_are_asked_to_have():
    assert Stage(sizes=(2, 4)).layers(6) == range(6)


def test_the_ends_of_the_pipeline():
    assert [(stage.first, stage.last) for stage in (Stage(), Stage(0, 2), Stage(1, 2))] == [
        (True, True),
        (True, False),
        (False, True),
    ]


def test_fewer_layers_than_stages_are_refused():
    with pytest.raises(StageError, match="num_hidden_layers = 3 .* 4 pipeline stages; .* at most 3$"):
        Stage(0, 4).layers(3)


@pytest.mark.parametrize("sizes", [(2, 3), (2, 2, 2), (6, 0)])
def test_stages_that_do_not_add_up_are_refused(sizes):
    with pytest.raises(StageError, match="SGLANG_PP_LAYER_PARTITION.* 2 stages of num_hidden_layers = 6"):
        Stage(0, 2, sizes).layers(6)


@pytest.mark.parametrize("rank, size", [(-1, 2), (2, 2), (0, 0)])
def test_a_stage_outside_the_pipeline_is_refused(rank, size):
    with pytest.raises(StageError, match=f"stage {rank} of {size}"):
        Stage(rank, size)

"""New weights are taken by all ranks or by none, where ranks differ in more than one way."""

import pytest
from serving.answers import check_weights_are_taken_by_all_or_none
from serving.conftest import Server
from tiers import SLOW

SECONDS = 1, 90
LAYOUTS = {
    "stages of two ranks": ("--tp-size", "2", "--pp-size", "2"),
    "replicas of attention": ("--tp-size", "2", "--dp-size", "2", "--enable-dp-attention"),
}


@SLOW
@pytest.mark.parametrize("layout", LAYOUTS)
def test_new_weights_are_taken_by_all_or_none(tmp_path, layout):
    server = Server(tmp_path / "log", *LAYOUTS[layout], "--max-total-tokens", "2048")
    try:
        check_weights_are_taken_by_all_or_none(server.await_ready(), tmp_path)
    finally:
        server.stop()

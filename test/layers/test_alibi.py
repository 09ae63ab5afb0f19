"""The slopes of ALiBi, against those of the paper's two cases."""

import pytest

from sglang.srt.layers_ms.attention import alibi_slopes

SECONDS = 1


def test_slopes_of_a_power_of_two_are_a_geometric_series_that_ends_at_2_to_the_minus_8():
    assert alibi_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]


@pytest.mark.parametrize("heads", [5, 12, 40])
def test_other_numbers_of_heads_take_every_second_slope_of_twice_as_many(heads):
    whole = 1 << heads.bit_length() - 1
    assert alibi_slopes(heads) == pytest.approx(alibi_slopes(whole) + alibi_slopes(2 * whole)[::2][: heads - whole])

"""Rotary frequencies against transformers', for every kind of scaling, and from every form of config."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from sglang.srt.layers_ms.rotary import FREQUENCIES, Rope, inverse_frequencies, rotary_tables
from sglang.srt.models_ms import llama
from sglang.srt.models_ms.config import Runtime

SECONDS = 1
SIZES = dict(hidden_size=60, num_attention_heads=6, num_key_value_heads=2, vocab_size=131)


def theirs(config, length=None):
    """-> (frequencies, factor) of transformers, in float32."""
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        frequencies, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
    return frequencies.numpy(), factor


def read(config_dict, head_dim):
    others = dict(intermediate_size=93, num_hidden_layers=1, rms_norm_eps=1e-6)
    return llama.LlamaConfig.read({**SIZES, **others, **config_dict, "head_dim": head_dim}, runtime=Runtime()).rope


floats = st.floats
SCALINGS = {
    "default": st.just({}),
    "linear": st.fixed_dictionaries({"factor": floats(1.0, 64.0)}),
    "dynamic": st.fixed_dictionaries({"factor": st.integers(2, 64).map(float)}),
    "llama3": st.fixed_dictionaries(
        {
            "factor": floats(1.0, 64.0),
            "low_freq_factor": floats(0.1, 2.0),
            "high_freq_factor": floats(2.5, 16.0),
            "original_max_position_embeddings": st.integers(16, 8192),
        }
    ),
    "yarn": st.fixed_dictionaries(
        {"factor": floats(1.0, 64.0), "original_max_position_embeddings": st.integers(16, 32768)},
        optional={
            "beta_fast": floats(8.0, 64.0),
            "beta_slow": floats(0.5, 4.0),
            "attention_factor": floats(0.5, 2.0),
            "mscale": floats(0.5, 1.5),
            "mscale_all_dim": floats(0.5, 1.5),
            "truncate": st.booleans(),
        },
    ),
    "longrope": st.fixed_dictionaries(
        {"original_max_position_embeddings": st.integers(16, 2048)},
        optional={"factor": floats(1.0, 64.0), "attention_factor": floats(0.5, 2.0)},
    ),
    "proportional": st.fixed_dictionaries(
        {"partial_rotary_factor": floats(0.25, 1.0)}, optional={"factor": floats(1.0, 64.0)}
    ),
}
DIVISORS = floats(0.5, 64.0)


def test_every_kind_of_scaling_is_compared():
    assert set(SCALINGS) == set(FREQUENCIES)


@pytest.mark.parametrize("kind", SCALINGS)
@settings(deadline=None)
@given(data=st.data(), theta=floats(100.0, 1e7), pairs=st.integers(2, 64))
def test_frequencies_are_those_of_transformers(kind, data, theta, pairs):
    parameters = dict(rope_type=kind, rope_theta=theta, **data.draw(SCALINGS[kind]))
    longest = 2048
    if kind == "longrope":
        divisors = st.lists(DIVISORS, min_size=pairs, max_size=pairs)
        parameters |= dict(short_factor=data.draw(divisors), long_factor=data.draw(divisors))
    config = LlamaConfig(**SIZES, head_dim=2 * pairs, max_position_embeddings=longest, rope_parameters=dict(parameters))
    length = round(parameters["factor"] * longest) if kind == "dynamic" else None  # ours is the base of the longest
    served = data.draw(st.integers(16, 4096))
    wanted, wanted_factor = theirs(config, served if kind == "longrope" else length)
    found, factor = inverse_frequencies(replace(read(config.to_dict(), 2 * pairs), longest=served))
    # Theirs are float32, and powers of a large base lose some more.
    np.testing.assert_allclose(found, wanted, rtol=3e-5)
    assert factor == pytest.approx(wanted_factor)


OLD_FORMS = [
    (dict(rope_theta=500.0), dict(rope_type="default", rope_theta=500.0)),
    (dict(rope_theta=500.0, rope_scaling=None), dict(rope_type="default", rope_theta=500.0)),
    (dict(), dict(rope_type="default", rope_theta=10000.0)),
    (
        dict(rope_theta=500.0, rope_scaling=dict(type="linear", factor=3.0)),
        dict(rope_type="linear", rope_theta=500.0, factor=3.0),
    ),
    (
        dict(rope_theta=500.0, rope_scaling=dict(type="dynamic", factor=3.0)),
        dict(rope_type="dynamic", rope_theta=500.0, factor=3.0),
    ),
    (
        dict(rope_theta=500.0, rope_scaling=dict(type="yarn", factor=3.0, original_max_position_embeddings=64)),
        dict(rope_type="yarn", rope_theta=500.0, factor=3.0, original_max_position_embeddings=64),
    ),
    (
        dict(
            rope_theta=500.0,
            rope_scaling=dict(
                rope_type="llama3",
                factor=3.0,
                low_freq_factor=1.5,
                high_freq_factor=5.0,
                original_max_position_embeddings=64,
            ),
        ),
        dict(
            rope_type="llama3",
            rope_theta=500.0,
            factor=3.0,
            low_freq_factor=1.5,
            high_freq_factor=5.0,
            original_max_position_embeddings=64,
        ),
    ),
    (
        dict(rope_theta=500.0, partial_rotary_factor=0.5),
        dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.5),
    ),
]


@pytest.mark.parametrize("old, new", OLD_FORMS)
def test_older_configs_give_the_same_rope_as_rope_parameters(old, new):
    rope = read(dict(old, max_position_embeddings=256), 20)
    assert rope == read(dict(rope_parameters=new, max_position_embeddings=256), 20)
    assert (rope.rope_type, rope.rope_theta) == (new["rope_type"], new["rope_theta"])


@pytest.mark.parametrize("old, _", OLD_FORMS)
def test_transformers_own_reading_of_older_configs_gives_the_same_rope(old, _):
    converted = LlamaConfig(**SIZES, max_position_embeddings=256, head_dim=20, **old).to_dict()
    assert "rope_theta" not in converted  # it moved into rope_parameters
    assert read(converted, 20) == read(dict(old, max_position_embeddings=256), 20)


def test_an_absent_factor_is_the_ratio_of_the_lengths():
    scaling = dict(rope_type="yarn", rope_theta=500.0, original_max_position_embeddings=64)
    assert read(dict(rope_parameters=scaling, max_position_embeddings=256), 20).factor == 4.0


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("head_dim, factor, rotated", [(20, 1.0, 20), (20, 0.5, 10), (16, 0.25, 4)])
def test_partial_rotary_turns_the_leading_dimensions_only(head_dim, factor, rotated):
    rope = read(dict(rope_theta=500.0, partial_rotary_factor=factor, max_position_embeddings=256), head_dim)
    assert rope.rotary_dim == rotated
    assert [table.shape for table in rotary_tables(rope, 8)] == [(8, rotated // 2)] * 2


@pytest.mark.usefixtures("table")
def test_tables_are_the_angles_of_all_positions_with_the_attention_factor():
    rope = Rope("yarn", 300.0, 12, 256, factor=5.0, original_max_position_embeddings=40, attention_factor=1.3)
    frequencies, _ = inverse_frequencies(rope)
    cos, sin = (table.asnumpy() for table in rotary_tables(rope, 1000))
    for position in (0, 1, 63, 999):
        for pair, frequency in enumerate(frequencies):
            assert cos[position, pair] == pytest.approx(1.3 * math.cos(position * frequency), abs=1e-6)
            assert sin[position, pair] == pytest.approx(1.3 * math.sin(position * frequency), abs=1e-6)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("context, divisor, scale", [(40, 2.0, 1.5), (41, 5.0, 0.7)])
def test_longrope_has_the_factors_of_the_context_that_is_served(context, divisor, scale):
    scaling = dict(short_factor=[2.0] * 3, long_factor=[5.0] * 3, original_max_position_embeddings=40)
    scaling |= dict(type="su", short_mscale=1.5, long_mscale=0.7)
    rope = read(dict(rope_theta=300.0, rope_scaling=scaling, max_position_embeddings=256), 6)
    cos, _ = rotary_tables(rope, context)
    assert cos.asnumpy()[7, 0] == pytest.approx(scale * math.cos(7 / divisor), abs=1e-6)


@pytest.mark.usefixtures("table")
def test_tables_with_more_rows_have_the_same_ones_first():
    factors = dict(short_factor=(2.0,) * 3, long_factor=(5.0,) * 3, original_max_position_embeddings=40)
    rope = Rope("longrope", 300.0, 6, 256, **factors)
    tables = [rotary_tables(rope, 40, rows=rows)[0].asnumpy() for rows in (0, 30, 41)]
    assert [len(table) for table in tables] == [40, 40, 41]
    np.testing.assert_array_equal(tables[2][:40], tables[0])


@pytest.mark.usefixtures("table")
def test_layers_of_a_model_share_their_tables():
    rope = Rope("default", 300.0, 12, 256)
    assert rotary_tables(rope, 64)[0] is rotary_tables(Rope("default", 300.0, 12, 256), 64)[0]
    assert rotary_tables(rope, 64)[0] is not rotary_tables(Rope("default", 301.0, 12, 256), 64)[0]

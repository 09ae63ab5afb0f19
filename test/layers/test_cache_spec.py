"""What layers say they cache, and what is derived from that."""

import pytest
from mindspore import nn
from models.parts import network_of
from models.tiny import save

from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.layers_ms.cache_spec import FullAttentionSpec, MLASpec, SlidingWindowSpec, cache_specs, caching_layers
from sglang.srt.layers_ms.ops.metadata import FULL, SWA

SECONDS = 10


@pytest.fixture(scope="module", autouse=True)
def reference_table():
    from sglang.srt.model_executor_ms.runner import device

    device.start("cpu", "reference")


def specs_of(variant, tmp_path, stage=Stage()):  # noqa: B008 - a frozen value
    network = network_of(save(variant, tmp_path), stage)
    return network, cache_specs(network)


def test_keys_and_values_of_every_layer(tmp_path):
    network, specs = specs_of("llama", tmp_path)
    config = network.config
    spec = FullAttentionSpec(config.num_key_value_heads, config.head_dim)
    assert specs == dict.fromkeys(range(config.num_hidden_layers), spec)
    assert spec.row == (config.num_key_value_heads, config.head_dim) and spec.separate_values


def test_layers_with_a_window_are_a_group_of_their_own(tmp_path):
    network, specs = specs_of("gemma2", tmp_path)
    windows = network.config.windows
    assert {bool(window) for window in windows} == {True, False}
    for layer, spec in specs.items():
        assert (spec.group, isinstance(spec, SlidingWindowSpec)) == ((SWA, True) if windows[layer] else (FULL, False))
        assert getattr(spec, "sliding_window", 0) == windows[layer]


def test_mla_has_one_row_for_keys_and_values(tmp_path):
    network, specs = specs_of("deepseek_v2", tmp_path)
    config = network.config
    assert set(specs.values()) == {MLASpec(config.kv_lora_rank, config.qk_rope_head_dim)}
    assert specs[0].row == (1, config.kv_lora_rank + config.qk_rope_head_dim) and not specs[0].separate_values


def test_a_stage_has_the_numbers_of_its_layers_and_counts_its_caches_from_0(tmp_path):
    network, specs = specs_of("llama", tmp_path, Stage(1, 2))
    layers = network.config.layer_range
    assert layers.start > 0 and list(specs) == list(layers)
    assert [layer.cache_index for layer in caching_layers(network)] == list(range(len(layers)))


class Stateless(nn.Cell):
    """A layer that caches nothing."""


class Caching(nn.Cell):
    """A layer that does."""

    def __init__(self, layer_id):
        super().__init__()
        self.layer_id, self.cache_spec = layer_id, FullAttentionSpec(1, 8)


def test_layers_that_cache_nothing_are_left_out():
    assert list(cache_specs(nn.CellList([Stateless(), Caching(1), Stateless(), Caching(3)]))) == [1, 3]

"""What a layer caches, of each token or of each request. Groups of caches, views of SGLang's pools and the pools'
classes derive from it.

A layer that caches has a `cache_spec`, its number in the model as `layer_id`, and as `cache_index` its place among the
caches that a graph is given, which the decoder counts. To cache something else: a spec here, and a layer that has it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mindspore import nn

from sglang.srt.layers_ms.ops.metadata import FULL, SWA


@dataclass(frozen=True)
class FullAttentionSpec:
    """Keys and values of every token of a request."""

    num_kv_heads: int  # of this rank
    head_dim: int
    # Whether attention gathers blocks of keys in a loop (ops.blockwise), which wants a plain layout.
    blockwise: bool = False

    group = FULL
    separate_values = True  # whether values have a buffer of their own

    @property
    def row(self) -> tuple[int, int]:
        """What a token takes in a buffer."""
        return self.num_kv_heads, self.head_dim


@dataclass(frozen=True)
class SlidingWindowSpec(FullAttentionSpec):
    """Keys and values of the tokens that a window still sees."""

    sliding_window: int = 0  # tokens, the one that looks included

    group = SWA


@dataclass(frozen=True)
class MLASpec:
    """One compressed row a token, of which the keys and values of all heads are made."""

    kv_lora_rank: int
    qk_rope_head_dim: int
    blockwise: bool = False
    index_head_dim: int = 0  # of an indexer's key behind it; 0: there is none

    group = FULL
    separate_values = False

    @property
    def row(self) -> tuple[int, int]:
        """What a token takes in a buffer."""
        return 1, self.kv_lora_rank + self.qk_rope_head_dim + self.index_head_dim


@dataclass(frozen=True)
class StateSpec:
    """What a request keeps of all its tokens together, of a size that does not grow."""

    conv: tuple[int, int]  # channels, of this rank, and how many earlier values of each a convolution reads
    recurrent: tuple[int, ...] = ()  # axes of a recurrent state; (): there is none


CacheSpec = FullAttentionSpec | MLASpec


class StateLayer(nn.Cell):
    """A layer whose `cache_spec` is a StateSpec: finds its states in a step."""

    cache_index = 0  # the decoder counts the caches of its layers
    intermediate_index = None  # where the states behind each draft are among the caches; None: no drafts are verified

    def conv_state(self, step):
        """-> the convolution's states, and its intermediate ones or None."""
        return self._states(step["k_caches"])

    def recurrent_state(self, step):
        """-> the recurrent states, and intermediate ones or None."""
        return self._states(step["v_caches"])

    def _states(self, caches):
        if self.intermediate_index is None:
            return caches[self.cache_index], None
        return caches[self.cache_index], caches[self.intermediate_index]


def caching_layers(network: nn.Cell) -> Iterator[nn.Cell]:
    """The cells of a network that have a `cache_spec`, in the order of its layers: of tokens first, then of states."""
    cells = [cell for _, cell in network.cells_and_names() if hasattr(cell, "cache_spec")]
    return iter(sorted(cells, key=lambda cell: isinstance(cell.cache_spec, StateSpec)))


def cache_specs(network: nn.Cell) -> dict[int, CacheSpec]:
    """What each layer that this rank holds caches of each token: number of the layer in the model -> spec."""
    return {layer: spec for layer, spec in _specs(network) if not isinstance(spec, StateSpec)}


def state_specs(network: nn.Cell) -> dict[int, StateSpec]:
    """As cache_specs, what they keep of each request."""
    return {layer: spec for layer, spec in _specs(network) if isinstance(spec, StateSpec)}


def keep_intermediate_states(network: nn.Cell) -> None:
    """Let layers with a state expect intermediate ones, behind all caches in the same order. Before it is compiled."""
    layers = [cell for cell in caching_layers(network) if isinstance(cell, StateLayer)]
    for layer in layers:
        layer.intermediate_index = layer.cache_index + len(layers)


def _specs(network: nn.Cell) -> Iterator[tuple]:
    return ((cell.layer_id, cell.cache_spec) for cell in caching_layers(network))

"""Views of SGLang's key/value pool, and of its pool of states, for the graphs: the same memory, one view a layer."""

import operator
from collections.abc import Mapping

import torch

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import CacheSpec, StateSpec
from sglang.srt.model_executor_ms.runner import bridge, device_layout_cache


class KVCaches:
    """Views of a pool's buffers, each [slots, K, D], made once; or what the table makes where they have no memory.

    A layer whose spec has no values of its own, [slots, 1, L + R], is shown in k_caches and in v_caches. Behind the
    caches of tokens are states: of convolutions in k_caches, recurrent ones in v_caches, or where there are none the
    same; and behind these in the same way intermediate ones, where drafts are verified.
    """

    def __init__(self, pool, specs: Mapping[int, CacheSpec], swa_pool: bool = False, states: "StatePool | None" = None):
        """pool: SGLang's, of float32, float16 or bfloat16, or of bytes, which are float8.

        specs: of each layer that it has buffers of, in order. swa_pool: whether it is SGLang's SWAKVPool, which has
        fewer slots for layers with a window. states: None where no layer has any. ValueError for a pool whose rows are
        not those of the specs.
        """
        self.pool, self.specs, self.swa_pool, self.states = pool, specs, swa_pool, states
        self._address = self._first_address()
        convs, recurrent = states.views() if states else ((), ())
        self.k_caches = (*(self._view(layer, "k_cache") for layer in specs), *convs)
        self.v_caches = (*(self._view(layer, "v_cache") for layer in specs), *recurrent)

    @property
    def optional_fields(self) -> tuple[str, ...]:
        """Fields of a step that only models with such caches read."""
        if not self.states:
            return ()
        made = (field.name for field in ops.metadata_fields() if field.optional)
        found = ("state_slots", "track_slots", "track_lens", *made)
        return (*found, "intermediate_rows") if self.states.intermediate else found

    def slots_of_requests(self) -> torch.Tensor | None:
        """Of each row of SGLang's table of requests, the slot of its states, int32; None: no layer has any."""
        return self.states.slots_of_requests if self.states else None

    def forget_states(self) -> None:
        """Make all states those of requests that begin."""
        if self.states:
            self.states.clear()

    def full_to_swa(self) -> torch.Tensor | None:
        """Of each slot, the one in the pool of layers with a window, int64 on the device; None: there is one pool.

        SGLang writes into it when it allocates and frees. What every window has left behind has slot 0.
        """
        return self.pool.full_to_swa_index_mapping if self.swa_pool else None

    def pages(self) -> int:
        """Of the pool, or of the smaller of the two; the spare first one is not counted."""
        slots = min(self.pool.size, self.pool.size_swa) if self.swa_pool else self.pool.size
        return slots // self.pool.page_size

    def stale(self) -> bool:
        """Whether the pool was released or resized since the views were made."""
        return self._address != self._first_address()

    def memory(self) -> list[tuple[int, int]]:
        """Address and bytes of each buffer of the pool."""
        keys = [self.pool.get_key_buffer(layer) for layer in self.specs]
        values = [self.pool.get_value_buffer(layer) for layer, spec in self.specs.items() if spec.separate_values]
        return [(buffer.data_ptr(), buffer.nbytes) for buffer in (*keys, *values)]

    def _first_address(self) -> int:
        return self.pool.get_key_buffer(next(iter(self.specs))).data_ptr() if self.specs else 0

    def _view(self, layer: int, name: str):
        spec = self.specs[layer]
        values = name == "v_cache" and spec.separate_values
        buffer = (self.pool.get_value_buffer if values else self.pool.get_key_buffer)(layer)
        if tuple(buffer.shape[-2:]) != spec.row:
            raise ValueError(f"layer {layer} caches rows of {spec.row}; its buffer in the pool has {buffer.shape[-2:]}")
        if buffer.is_meta:
            return device_layout_cache.maker(buffer, spec.blockwise, self.pool.page_size)()
        # Other tables write caches by MindSpore's operators, which take memory that is torch's by from_dlpack.
        shared = bridge.host_view if ops.capabilities().static_graphs else bridge.to_mindspore
        return ops.cache_view(shared(buffer), f"{name}_{layer}", self.pool.page_size)


class StatePool:
    """SGLang's slots of states: of each layer with a state, memory [slots, ...].

    Where drafts are verified it has intermediate ones too, [rows, drafts, ...], of the requests of one step in order.
    """

    def __init__(self, pool, specs: Mapping[int, StateSpec]):
        """pool: SGLang's HybridReqToTokenPool. specs: of each layer that it has states of, in order."""
        self.slots_of_requests = pool.req_index_to_mamba_index_mapping
        self.slots = pool.mamba_pool.size  # the spare first one is not counted
        held = {layer: pool.mamba2_layer_cache(layer) for layer in specs}
        self.specs, self.convs = specs, {layer: _in_rows(held[layer].conv[0], specs[layer].conv) for layer in specs}
        self.recurrent = {layer: held[layer].temporal for layer, spec in specs.items() if spec.recurrent}
        verified = {layer: one for layer, one in held.items() if getattr(one, "intermediate_conv_window", None)}
        self.intermediate = {
            layer: (one.intermediate_conv_window[0], one.intermediate_ssm) for layer, one in verified.items()
        }
        for layer, spec in specs.items():
            self._check(layer, "a convolution's state", self.convs[layer], spec.conv)
            if spec.recurrent:
                self._check(layer, "a recurrent state", self.recurrent[layer], spec.recurrent)

    @staticmethod
    def _check(layer: int, what: str, state: torch.Tensor, wanted: tuple) -> None:
        if tuple(state.shape[1:]) != wanted:
            raise ValueError(f"layer {layer} has {what} of {wanted}; in the pool it has {tuple(state.shape[1:])}")

    def views(self) -> tuple[tuple, tuple]:
        """What graphs are given of each layer: the states of its convolution, and its recurrent ones or the same."""
        found = _state_views(self.convs, self.recurrent, "")
        if not self.intermediate:
            return found
        convs = {layer: conv for layer, (conv, _) in self.intermediate.items()}
        recurrent = {layer: self.intermediate[layer][1] for layer in self.recurrent}
        return tuple(map(operator.add, found, _state_views(convs, recurrent, "intermediate_")))

    def commit(self, slots: torch.Tensor, steps: torch.Tensor) -> None:
        """Give slots [B] the intermediate states behind the tokens `steps` [B] of the last step's requests."""
        slots, row = slots.long(), (torch.arange(len(slots)), steps.long())
        for layer, (conv, recurrent) in self.intermediate.items():
            self.convs[layer][slots] = conv[row]
            if layer in self.recurrent:
                self.recurrent[layer][slots] = recurrent[row]

    def memory(self) -> int:
        """Bytes of all slots."""
        return sum(state.nbytes for state in (*self.convs.values(), *self.recurrent.values()))

    def clear(self) -> None:
        """Make all states those of requests that begin."""
        for state in (*self.convs.values(), *self.recurrent.values()):
            state.zero_()


def _state_views(convs: Mapping, recurrent: Mapping, prefix: str) -> tuple[tuple, tuple]:
    convs = {layer: _state_view(state, f"{prefix}conv_state_{layer}") for layer, state in convs.items()}
    others = {layer: _state_view(state, f"{prefix}recurrent_state_{layer}") for layer, state in recurrent.items()}
    return tuple(convs.values()), tuple((convs | others).values())


def _in_rows(state: torch.Tensor, wanted: tuple[int, int]) -> torch.Tensor:
    """States [slots, K - 1, C] of SGLang's for KDA as [slots, C, K - 1]: what they hold is for us alone to read."""
    return state.view(len(state), *wanted) if tuple(state.shape[1:]) == wanted[::-1] else state


def _state_view(state: torch.Tensor, name: str):
    return ops.state_view(bridge.to_mindspore(state), name)

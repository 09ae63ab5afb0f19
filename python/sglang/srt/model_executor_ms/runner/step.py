"""The inputs of a step, each declared once; graphs, buffers and uploads derive from the declaration.

Inside a graph a step is a dict: what the model begins with, the constants of the graph, the caches, and as
`step["attn"][group]` all that attention over one group of caches reads. To add an input: a line in FIELDS, and the
operator that reads it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.metadata import BLOCKS, DP_TOKENS, FULL, INPUT_IDS, REQUESTS, SWA, TOKENS, Field, HostStep


def _rotary_positions(host: HostStep) -> np.ndarray:
    return host.places if host.rotary_positions is None else host.rotary_positions


def _lora_slots(host: HostStep) -> np.ndarray:
    if host.lora_slots is None:
        return np.full(host.num_tokens, -1, np.int32)
    return host.lora_slots[host.request_ids]


def _tracks(host: HostStep) -> tuple[np.ndarray, np.ndarray]:
    nowhere = np.full(len(host.query_lens), -1, np.int32), np.zeros(len(host.query_lens), np.int32)
    return nowhere if host.tracks is None else host.tracks


def _dp_lora_slots(host: HostStep) -> np.ndarray | None:
    if not host.dp_tokens:
        return None
    if host.dp_lora_slots is None:
        return np.full(sum(host.dp_tokens), -1, np.int32)
    return host.dp_lora_slots.astype(np.int32)


def _intermediate_rows(host: HostStep) -> np.ndarray:
    return np.full(len(host.seq_lens), -1, np.int32) if host.intermediate_rows is None else host.intermediate_rows


FIELDS = (
    Field("positions", (TOKENS,), build=_rotary_positions),  # rows of the rotary tables
    Field("lora_slots", (TOKENS,), build=_lora_slots, optional=True),  # of each token's adapter, -1: none
    Field("dp_lora_slots", (DP_TOKENS,), build=_dp_lora_slots, optional=True),  # of the rows that DP ranks gather
    # MindSpore's attention kernels for Ascend read lengths on the host, and find them by the names of parameters.
    Field("query_lens", (REQUESTS,), build=lambda host: host.query_lens, graph_parameter="q_seq_lens"),
    Field("seq_lens", (REQUESTS,), build=lambda host: host.seq_lens, graph_parameter="batch_valid_length"),
    Field("out_cache_loc", (TOKENS,), per_group=True),  # cache slot that receives a token's key and value
    Field("block_tables", (REQUESTS, BLOCKS), per_group=True),  # cache pages of each request in order
    Field("state_slots", (REQUESTS,), build=lambda host: host.state_slots, optional=True),
    Field("track_slots", (REQUESTS,), build=lambda host: _tracks(host)[0], optional=True),
    Field("track_lens", (REQUESTS,), build=lambda host: _tracks(host)[1], optional=True),
    Field("intermediate_rows", (REQUESTS,), build=_intermediate_rows, optional=True),  # of states behind drafts
)


class Entry(NamedTuple):
    """A field of a layout; and the group of caches whose own it is, "": all have it."""

    field: Field
    group: str = ""

    def of(self, arrays: Mapping):
        """Its array in a step: {name: array, "attn": {group: {name: array}}}."""
        return (arrays["attn"][self.group] if self.group else arrays)[self.field.name]


@dataclass(frozen=True)
class StepLayout:
    """Which inputs the steps of one graph have, and in which order the graph takes them."""

    model_inputs: tuple[Field, ...]  # what the model begins with
    fields: tuple[Field, ...]
    # Of each group of caches that layers name, the one in whose pool it is: without a pool of its own SWA is FULL.
    groups: tuple[tuple[str, str], ...]
    forward_mode: str = ""  # of ops.split_by_forward_mode
    dp_padded: bool = False  # as HostStep has it
    dp_size: int = 1  # attention DP ranks

    @cached_property
    def pools(self) -> tuple[str, ...]:
        """The groups that have a pool of their own, FULL first."""
        return tuple(group for group, pool in self.groups if group == pool)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every input, each of those that differ between groups once a pool."""
        pools = ((field, self.pools if field.per_group else ("",)) for field in self.fields)
        own = (Entry(field, pool) for field, of in pools for pool in of)
        return (*map(Entry, self.model_inputs), *own)

    @cached_property
    def inputs(self) -> tuple[Entry, ...]:
        """Those in the graph's tuple `inputs`, in order."""
        return tuple(entry for entry in self.entries if not entry.field.graph_parameter)

    @cached_property
    def parameters(self) -> tuple[Entry, ...]:
        """Those that are parameters of the graph, in order."""
        return tuple(entry for entry in self.entries if entry.field.graph_parameter)

    def rows(self, arrays: Mapping) -> tuple[list, list]:
        """The arrays of a step, the model's inputs among them, in the order of `inputs` and of `parameters`."""
        return [entry.of(arrays) for entry in self.inputs], [entry.of(arrays) for entry in self.parameters]


def step_layout(
    model_inputs: tuple[Field, ...] = (INPUT_IDS,),
    swa_pool: bool = False,
    forward_mode: str = "",
    dp_size: int = 1,
    dp_padded: bool = False,
    optional: Collection[str] = (),
) -> StepLayout:
    """The layout of steps that the operator table in use runs in one graph.

    swa_pool: whether sliding windows have a pool of their own. forward_mode: of ops.split_by_forward_mode. dp_size:
    attention DP ranks. dp_padded: as HostStep has it. optional: which of the optional fields these steps have.
    """
    possible = (*FIELDS, *ops.metadata_fields(forward_mode, dp_size, dp_padded))
    fields = tuple(field for field in possible if not field.optional or field.name in optional)
    groups = ((FULL, FULL), (SWA, SWA if swa_pool else FULL))
    return StepLayout(model_inputs, fields, groups, forward_mode, dp_padded, dp_size)


# What a step begins with, by name: ids [T], or hidden states [T, hidden_size].
ModelInputs = Mapping[str, np.ndarray | torch.Tensor]


class StepInputs(NamedTuple):
    """A step, prepared: {name: array, "attn": {group: {name: array}}}, without what the model begins with."""

    host: HostStep
    arrays: dict


def host_arrays(host: HostStep, optional: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """What the host makes of a step by itself; optional fields of which it knows nothing are left out.

    optional: those of the layouts that are served; None: all.
    """
    wanted = (field for field in FIELDS if not field.optional or optional is None or field.name in optional)
    built = ((field.name, field.build(host)) for field in wanted if field.build)
    return {name: array for name, array in built if array is not None} | ops.build_metadata(host)


class GraphOutputs(NamedTuple):
    """What a graph computes of T tokens."""

    hidden_states: torch.Tensor  # [T, hidden_size]
    aux_hidden_states: tuple[torch.Tensor, ...] = ()  # [T, hidden_size] of each layer of CausalLM.set_aux_layers

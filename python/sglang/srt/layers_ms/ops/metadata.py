"""The inputs of a step, declared: names, axes and dtypes; and what the host knows of a step when it prepares them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

TOKENS, REQUESTS, BLOCKS = "tokens", "requests", "blocks"  # axes whose length differs from step to step
DP_TOKENS = "dp_tokens"  # another one: the tokens of all attention DP ranks
FULL, SWA = "full", "swa"  # groups of caches: of all tokens, and of those that a sliding window still sees


@dataclass(frozen=True)
class HostStep:
    """What the host knows of a step: T tokens of B requests, int32 numpy arrays."""

    query_lens: np.ndarray  # [B] tokens of each request in this step
    seq_lens: np.ndarray  # [B] tokens of each request in the cache after this step; 0: a padding request
    page_size: int
    forward_mode: str = ""  # of ops.split_by_forward_mode
    # [T] or [n, T] rows of the rotary tables; None: each token's place in its sequence. Masks never read them.
    rotary_positions: np.ndarray | None = None
    dp_tokens: tuple[int, ...] = ()  # T of each attention DP rank, this one's among them; (): there is one
    lora_slots: np.ndarray | None = None  # [B] slot of each request's adapter, -1: none; None: of no request
    # As lora_slots, but of each token of each DP rank in turn; None: of no token. Only where dp_tokens says how many.
    dp_lora_slots: np.ndarray | None = None
    state_slots: np.ndarray | None = None  # [B] where each request keeps the states of layers; None: there are none
    # [B] second slots, -1: none, and behind how many tokens of the step a state is left there; None: of no request.
    tracks: tuple[np.ndarray, np.ndarray] | None = None
    # [B] where each request keeps the states behind its drafts, -1: it has none; None: no request has any.
    intermediate_rows: np.ndarray | None = None
    dp_padded: bool = False  # whether all DP ranks have as many rows as this one, padding included: a captured graph

    @cached_property
    def num_tokens(self) -> int:
        return int(self.query_lens.sum())

    @cached_property
    def num_blocks(self) -> int:
        """Pages of the longest request."""
        return int(-(-self.seq_lens.max(initial=0) // self.page_size))

    @cached_property
    def request_ids(self) -> np.ndarray:
        """[T] the request of each token."""
        return np.repeat(np.arange(len(self.query_lens), dtype=np.int32), self.query_lens)

    @cached_property
    def places(self) -> np.ndarray:
        """[T] the place of each token in its sequence; 0 of padding."""
        ends = np.cumsum(self.query_lens, dtype=np.int32)
        # A request's tokens of this step are its last ones.
        places = np.arange(self.num_tokens, dtype=np.int32) + np.repeat(self.seq_lens - ends, self.query_lens)
        return np.maximum(places, 0)


class Field(NamedTuple):
    """One input of a step."""

    name: str
    axes: tuple[str | int, ...]  # names of those whose length differs from step to step, lengths of the others
    dtype: str = "int32"
    # What the host makes it of. None: the runner brings it, or the operator table's `build_metadata` makes it.
    build: Callable[[HostStep], np.ndarray] | None = None
    per_group: bool = False  # whether each group of caches has its own
    optional: bool = False  # whether only layouts that ask for it have it
    graph_parameter: str = ""  # its name among the graph's parameters; "": it is one of the tuple `inputs`


INPUT_IDS = Field("input_ids", (TOKENS,))
TOKEN_TYPE_IDS = Field("token_type_ids", (TOKENS,))  # of encoders: which text of a pair a token is of
LAST_SEEN = Field("last_seen", (TOKENS,))  # of models whose tokens see all of their image: its last place

"""Which part of a tensor one tensor-parallel rank holds: slices, head ranges, and all divisibility errors."""

from dataclasses import dataclass, replace
from typing import NamedTuple


class ShardError(Exception):
    """A model cannot be divided over the tensor-parallel ranks that were asked for."""


class ExpertShare(NamedTuple):
    """What a rank has of the experts of a layer."""

    held: tuple[int, ...]  # the experts in its places, in order
    first: int  # its first place, of those of all ranks
    count: int  # places of all ranks
    inside: "Shard"  # its share of the inside of each of them


@dataclass(frozen=True)
class Shard:
    """Tensor-parallel rank `rank` of `size`; the default is the whole model on one rank."""

    rank: int = 0
    size: int = 1
    group: str = ""  # communication group in which the ranks add up their partial results
    expert_size: int = 1  # into how many parts the ranks divide experts; those that share a part cut each expert in it
    # Of each layer, the expert in each place of the ranks, each of which has as many; (): every expert once, in order.
    physical_to_logical_map: tuple[tuple[int, ...], ...] = ()
    # Into how many replicas the ranks divide where attention is computed: each has its own requests, and neighboring
    # ranks are one. In the names of their groups "@" follows that of all.
    attn_dp_size: int = 1
    dp_lm_head: bool = False  # whether the ranks of a replica divide the vocabulary's head, and not all ranks
    dispatch: bool = False  # whether rows are sent to the ranks that hold their experts, and not to all

    def __post_init__(self):
        if not 0 <= self.rank < self.size:
            raise ShardError(f"tensor-parallel rank {self.rank} of {self.size}: rank must be from 0 to size - 1")
        if self.expert_size < 1 or self.size % self.expert_size:
            raise ShardError(
                f"an expert-parallel size of {self.expert_size} does not divide the tensor-parallel size {self.size}; "
                f"start with an expert-parallel size of {_divisors(self.size)}"
            )
        if self.attn_dp_size < 1 or self.size % self.attn_dp_size:
            raise ShardError(
                f"an attention data-parallel size of {self.attn_dp_size} does not divide the tensor-parallel size "
                f"{self.size}; start with an attention data-parallel size of {_divisors(self.size)}"
            )

        if self.dispatch and self.expert_size != self.size:
            raise ShardError(
                "rows are dispatched to ranks that hold whole experts: "
                f"the expert-parallel size, {self.expert_size}, must be the tensor-parallel size, {self.size}"
            )

    @property
    def attention(self) -> "Shard":
        """This rank's share of what a replica computes for its own tokens: attention, and the embedding."""
        if self.attn_dp_size == 1:
            return self
        size = self.size // self.attn_dp_size
        return Shard(self.rank % size, size, f"{self.group}@attn_tp")

    @property
    def moe(self) -> "Shard":
        """This rank's share of what a mixture computes beside its experts: for the tokens of all, or of its replica."""
        return self.attention if self.dispatch else self

    @property
    def head(self) -> "Shard":
        """This rank's share of the head."""
        return self.attention if self.dp_lm_head else self

    @property
    def attn_dp_group(self) -> str:
        """The group of those ranks, one of each replica, that hold the same share of attention."""
        return self.group if self.attention.size == 1 else f"{self.group}@attn_dp"

    @property
    def groups(self) -> dict[str, range]:
        """The groups that this rank is in: name -> its ranks, of those of `group`."""
        groups = {self.group: range(self.size)}
        if self.attn_dp_size > 1:
            inside = self.attention
            groups[self.attn_dp_group] = range(inside.rank, self.size, inside.size)
            if inside.size > 1:
                groups[inside.group] = range(self.rank - inside.rank, self.rank - inside.rank + inside.size)
        return groups

    def part(self, total: int, what: str) -> int:
        """How many of `total` elements each rank holds; ShardError, naming `what`, if they do not divide evenly."""
        if total % self.size:
            raise self._uneven(total, what, _divisors(total))
        return total // self.size

    def slice(self, total: int, what: str) -> slice:
        """The elements of `total` that this rank holds; ShardError as in `part`."""
        part = self.part(total, what)
        return slice(self.rank * part, (self.rank + 1) * part)

    def at(self, layer: int) -> "Shard":
        """The same with the places of one layer only, as `experts` wants it."""
        return (
            replace(self, physical_to_logical_map=(self.physical_to_logical_map[layer],))
            if self.physical_to_logical_map
            else self
        )

    def experts(self, total: int) -> ExpertShare:
        """Which of `total` experts this rank holds, and its share of the inside of each of them.

        Neighboring ranks share a part, as SGLang has them (moe_ep_rank, moe_tp_rank). ShardError if the experts, or
        their places, do not divide evenly, or an expert has no place.
        """
        places = self.physical_to_logical_map[0] if self.physical_to_logical_map else tuple(range(total))
        homeless = sorted(set(range(total)) - set(places))
        if homeless or max(places) >= total:
            raise ShardError(f"expert location: of {total} experts, {homeless} have no place in {list(places)}")
        if len(places) % self.expert_size:
            raise ShardError(
                f"{len(places)} experts cannot be divided over {self.expert_size} expert-parallel ranks; "
                f"start with an expert-parallel size of {_divisors(len(places))}"
            )
        inside, held = self.size // self.expert_size, len(places) // self.expert_size
        first = self.rank // inside * held
        return ExpertShare(places[first : first + held], first, len(places), Shard(self.rank % inside, inside))

    def kv_heads(self, total: int) -> tuple[int, slice]:
        """How many of `total` key/value heads this rank holds, and which.

        With more ranks than heads each head is held by size / total neighboring ranks, so that it lies beside the
        query heads that attend to it. ShardError if neither total nor size divides the other.
        """
        if self.size <= total:
            heads = self.slice(total, "num_key_value_heads")
            return heads.stop - heads.start, heads
        if self.size % total:
            raise self._uneven(total, "num_key_value_heads", f"{_divisors(total)}, or a multiple of {total}")
        head = self.rank // (self.size // total)
        return 1, slice(head, head + 1)

    def padded_vocab(self, vocab_size: int, multiple: int = 64) -> int:
        """The vocabulary rounded up so that every rank holds the same number of rows.

        As SGLang pads it: to `multiple`, and where that does not divide by size, to `multiple` rows on every rank. The
        logits that SGLang gathers from the ranks must have the widths it expects.
        """
        padded = _round_up(vocab_size, multiple)
        return padded if padded % self.size == 0 else _round_up(vocab_size, multiple * self.size)

    def _uneven(self, total: int, what: str, allowed: str) -> ShardError:
        return ShardError(
            f"{what} = {total} cannot be divided over {self.size} tensor-parallel ranks; "
            f"start with a tensor-parallel size of {allowed}"
        )


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _divisors(total: int) -> str:
    return ", ".join(str(size) for size in range(1, total + 1) if total % size == 0)

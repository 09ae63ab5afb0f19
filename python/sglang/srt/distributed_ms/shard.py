"""The share of one tensor-parallel rank: slices of tensors, ranges of heads and experts, and divisibility errors."""

from dataclasses import dataclass, replace
from typing import NamedTuple


class ShardError(Exception):
    """A model cannot be divided among the tensor-parallel ranks."""


class ExpertShare(NamedTuple):
    """The experts of a layer that a rank holds."""

    held: tuple[int, ...]  # the logical experts in this rank's physical slots, in order
    first: int  # its first physical expert
    count: int  # physical experts of all ranks
    inside: "Shard"  # its share of the inner size of each expert


@dataclass(frozen=True)
class Shard:
    """Tensor-parallel rank `rank` of `size`. The default is the whole model on one rank."""

    rank: int = 0
    size: int = 1
    group: str = ""  # communication group of the ranks' all-reduce
    expert_size: int = 1  # expert-parallel size; ranks that hold the same experts split each of them
    # For each layer, the logical expert of each physical expert; (): every expert once, in order.
    physical_to_logical_map: tuple[tuple[int, ...], ...] = ()
    # Attention data parallelism: neighboring ranks form a replica of attention with requests of its own. The names of
    # the replicas' groups are `group`, "@" and a suffix.
    attn_dp_size: int = 1
    dp_lm_head: bool = False  # whether each replica has the whole head of the vocabulary
    dispatch: bool = False  # whether rows are sent only to the ranks that hold their experts

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
        """This rank's share of attention and embedding, which a replica computes for its own tokens."""
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
        """The group of ranks, one of each replica, that hold the same share of attention."""
        return self.group if self.attention.size == 1 else f"{self.group}@attn_dp"

    @property
    def groups(self) -> dict[str, range]:
        """The groups of this rank: name -> ranks within `group`."""
        groups = {self.group: range(self.size)}
        if self.attn_dp_size > 1:
            inside = self.attention
            groups[self.attn_dp_group] = range(inside.rank, self.size, inside.size)
            if inside.size > 1:
                groups[inside.group] = range(self.rank - inside.rank, self.rank - inside.rank + inside.size)
        return groups

    def part(self, total: int, what: str) -> int:
        """The number of elements per rank. ShardError, which names `what`, if they do not divide evenly."""
        if total % self.size:
            raise self._uneven(total, what, _divisors(total))
        return total // self.size

    def slice(self, total: int, what: str) -> slice:
        """The elements of `total` that this rank holds; ShardError as in `part`."""
        part = self.part(total, what)
        return slice(self.rank * part, (self.rank + 1) * part)

    def at(self, layer: int) -> "Shard":
        """The same share with the physical experts of one layer, for `experts`."""
        return (
            replace(self, physical_to_logical_map=(self.physical_to_logical_map[layer],))
            if self.physical_to_logical_map
            else self
        )

    def experts(self, total: int) -> ExpertShare:
        """The experts of this rank, out of `total`, and its share of each of them.

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

    def kv_heads(self, total: int, what: str = "num_key_value_heads") -> tuple[int, slice]:
        """The number and the range of this rank's key/value heads, or of what else heads share, out of `total`.

        If there are more ranks than heads, size / total neighboring ranks share a head, together with the query heads
        that use it. ShardError, which names `what`, if neither total nor size divides the other.
        """
        if self.size <= total:
            heads = self.slice(total, what)
            return heads.stop - heads.start, heads
        if self.size % total:
            raise self._uneven(total, what, f"{_divisors(total)}, or a multiple of {total}")
        head = self.rank // (self.size // total)
        return 1, slice(head, head + 1)

    def padded_vocab(self, vocab_size: int, multiple: int = 64) -> int:
        """The vocabulary rounded up so that every rank holds the same number of rows.

        SGLang pads to `multiple`, or to `multiple` rows on every rank if that does not divide by size. The logits that
        SGLang gathers from the ranks must have this width.
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

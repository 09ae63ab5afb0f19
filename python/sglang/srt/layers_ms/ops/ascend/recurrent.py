"""Recurrent states, of stock kernels, in float32: what delta_rules.py and state_space.py have in common.

A token multiplies its head's state S [V, K] by a matrix from the right and adds another one: S <- S M + N. Where each
request has one token, that is done. Prompts are cut into pieces of at most PIECE tokens: within one, what the tokens
add is computed of products of matrices. M and N of the pieces are joined two by two, four by four, ... (Hillis and
Steele, 1986), so that no piece waits for all before it. Before a request's first piece is an entry with what its slot
holds, whose M is zero: what is before that is forgotten, and requests lie one behind the other without a mask.
"""

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.layers_ms.ops.ascend.states import second_slots
from sglang.srt.layers_ms.ops.metadata import REQUESTS, TOKENS, Field

WIDE = mstype.float32
PIECE = 64
HIDDEN = -1e9  # the logarithm of a weight of 0
PIECES, LONGEST = "pieces", "longest"
PIECE_FIELDS = (
    Field("piece_rows", ("piece tokens",), optional=True),  # of each token of each piece, or of any where there is none
    Field("piece_tokens", ("piece tokens",), optional=True),  # 1 where there is one, else 0
    Field("rows_in_pieces", (TOKENS,), optional=True),
    Field("piece_numbers", (PIECES,), optional=True),  # 0, 1, ...
    Field("piece_sources", (PIECES,), optional=True),  # its own number; of a slot's entry the request's, behind these
    Field("piece_continues", (PIECES,), optional=True),  # 1; 0 of a slot's entry
    Field("last_pieces", (REQUESTS,), optional=True),  # of each request, and
    Field("kept_pieces", (REQUESTS,), optional=True),  # the one that ends with the tokens that a track counts
    Field("pieces_of_longest", (LONGEST,), optional=True),  # of the request with most: 0, 1, ...
)


def recurrent_fields(forward_mode):
    """What recurrent states read of a step."""
    return () if host.decodes(forward_mode) else PIECE_FIELDS


def pieces(step) -> dict:
    """The arrays of `recurrent_fields` of a HostStep."""
    if host.decodes(step.forward_mode):
        return {}
    starts = np.cumsum(step.query_lens) - step.query_lens
    kept = np.zeros_like(starts) if step.tracks is None else step.tracks[1]
    firsts, counts, own, last, ends_kept = [], [], [], [], []
    for start, tokens, tracked in zip(starts, step.query_lens, kept, strict=True):
        cuts = np.unique([*range(0, tokens, PIECE), tracked, tokens])  # a piece ends where a state is kept
        own += [0, *[1] * (len(cuts) - 1)]
        ends_kept.append(len(counts) + int(np.searchsorted(cuts, tracked)))
        firsts += [start, *(start + cuts[:-1])]
        counts += [0, *np.diff(cuts)]
        last.append(len(counts) - 1)
    firsts, counts, own, numbers = map(np.array, (firsts, counts, own, range(len(counts))))
    places = np.arange(PIECE)
    inside = places < counts[:, None]
    rows = firsts[:, None] + np.minimum(places, np.maximum(counts[:, None] - 1, 0))
    arrays = {
        "piece_rows": rows.reshape(-1),
        "piece_tokens": inside.reshape(-1),
        "rows_in_pieces": np.flatnonzero(inside),
        "piece_numbers": numbers,
        "piece_sources": np.where(own, numbers, len(numbers) + np.cumsum(1 - own) - 1),
        "piece_continues": own,
        "last_pieces": np.array(last),
        "kept_pieces": np.array(ends_kept),
        "pieces_of_longest": np.arange(np.diff([-1, *last]).max(initial=1)),
    }
    return {name: array.astype(np.int32) for name, array in arrays.items()}


@constexpr
def triangle(diagonal):
    """Of pairs of places in a piece, whether the first is not before the second; or is behind it, diagonal -1."""
    return Tensor(np.tril(np.ones((PIECE, PIECE), bool), diagonal))


@constexpr
def until():
    """What adds up values along a row."""
    return Tensor(np.triu(np.ones((PIECE, PIECE), np.float32)))


def softplus(x):
    above, below = kernels.clamp(x, 0, None), kernels.clamp(x, None, 0)
    least = kernels.add(below, kernels.mul(above, -1.0))  # -|x|
    return kernels.add(above, kernels.log(kernels.add(kernels.exp(least), 1.0)))


def unit_length(x):
    """Rows [..., K] divided by their lengths."""
    rows = x.reshape(-1, x.shape[-1])
    factors = kernels.inverse_sqrt(kernels.add(kernels.square_sum(rows), 1e-6))
    return kernels.mul(rows, factors).reshape(x.shape)


def difference(x, y):
    return kernels.add(x, kernels.mul(y, -1.0))


def transposed(x):
    return kernels.contiguous(kernels.swap(x))


def _left(y, state, step, kept, last):
    """y, when both states of each request, rows [B, n], are in their slots."""
    written = kernels.put_rows(state, second_slots(step), kept)
    return kernels.depend(y, kernels.put_rows(state, kernels.depend(step["state_slots"], written), last))


# ---- requests of one token ----


def one_token(state, step, decay, keys, added, queries, sizes):
    """S <- S exp(decay), then what `added` makes of it -> S q, float32 [B * G, R * V]; the states are left.

    decay [B, H] or, for each column of S, [B, H * K]; keys, queries [B * G, 1, K]; added: function of S
    [B * G, R * V, K] -> [B * G, R * V, 1].
    """
    groups, heads, value_size, key_size = sizes
    held = kernels.gather(state, step["state_slots"]).reshape(-1, value_size, key_size)
    held = kernels.mul(held, kernels.exp(decay).reshape(-1, 1, decay.shape[1] // heads))
    held = held.reshape(-1, heads // groups * value_size, key_size)
    new = kernels.multiply_stacks(added(held), keys, False)
    held = kernels.add(held, new)
    y = kernels.multiply_stacks(held, queries, True).reshape(-1, heads * value_size)
    after = held.reshape(-1, heads * value_size * key_size)
    return _left(y, state, step, after, after)


# ---- pieces of prompts ----


def in_pieces(x, step):
    """Rows [T, n] as float32 [pieces * PIECE, n]."""
    return kernels.cast(kernels.gather(x, step["piece_rows"]), WIDE)


def by_heads(x, heads):
    """[pieces * PIECE, heads * D] -> [pieces, heads, PIECE, D]"""
    return kernels.turn(x.reshape(-1, PIECE, heads, x.shape[-1] // heads))


def of_heads(x, step):
    """What each token has for each head, [pieces * PIECE, H] -> [pieces * H, PIECE]; 0 where there is no token."""
    tokens = kernels.cast(step["piece_tokens"], WIDE).reshape(-1, 1)
    heads = x.shape[-1]
    return transposed(kernels.mul(x, tokens).reshape(-1, PIECE, heads)).reshape(-1, PIECE)


def decays(decay):
    """decay [n, PIECE] -> its sums up to each token [n, PIECE], up to the last [n, 1], and weights between tokens."""
    total = kernels.multiply(decay, until())
    _, last = kernels.split(total, (PIECE - 1, 1))
    between = difference(total.reshape(-1, PIECE, 1), total.reshape(-1, 1, PIECE))
    weights = kernels.exp(kernels.where(triangle(0), between, HIDDEN))
    return total, kernels.contiguous(last), weights


def times(x, factors, sizes):
    """x [pieces, G, PIECE, n] times factors [pieces * H, PIECE] of each head -> [pieces * H, PIECE, n]."""
    groups, heads, *_ = sizes
    wide = x.reshape(-1, groups, 1, PIECE, x.shape[-1])
    found = kernels.mul(wide, factors.reshape(-1, groups, heads // groups, PIECE, 1))
    return found.reshape(-1, PIECE, x.shape[-1])


def scores(x, keys, weights, sizes):
    """x and keys [pieces, G, PIECE, K] multiplied, times weights [pieces * H, PIECE, PIECE] of each head."""
    groups, heads, _, key_size = sizes
    products = kernels.multiply_stacks(x.reshape(-1, PIECE, key_size), keys.reshape(-1, PIECE, key_size), True)
    wide = weights.reshape(-1, groups, heads // groups, PIECE, PIECE)
    return kernels.mul(wide, products.reshape(-1, groups, 1, PIECE, PIECE)).reshape(-1, PIECE, PIECE)


def with_slots(new, state, step):
    """new [pieces * H, V, K] as rows, one a piece, with what slots hold in the place of theirs."""
    rows = new.reshape(-1, state.shape[1])
    held = kernels.gather(state, step["state_slots"])
    return kernels.gather(kernels.append_rows(rows, held), step["piece_sources"])


def without_slots(x, step, heads):
    """x [pieces * H, a, b], but 0 for the entries of slots."""
    _, rows, columns = x.shape
    factors = kernels.cast(step["piece_continues"], WIDE).reshape(-1, 1, 1, 1)
    return kernels.mul(x.reshape(-1, heads, rows, columns), factors).reshape(-1, rows, columns)


def joined_states(factors, states, step, sizes, product):
    """States behind each piece, rows [pieces, H * V * K], of what each adds and `factors` [pieces * H, a, b].

    product: of states [pieces * H, V, K] and factors; of factors, too.
    """
    _, heads, value_size, key_size = sizes
    _, rows, columns = factors.shape
    back, number = kernels.add(kernels.mul(step["piece_numbers"], 0), 1), 1
    while number < step["pieces_of_longest"].shape[0]:
        before = kernels.clamp(kernels.add(step["piece_numbers"], kernels.mul(back, -1)), 0, None)
        earlier = kernels.gather(states, before).reshape(-1, value_size, key_size)
        states = kernels.add(states, product(earlier, factors).reshape(-1, heads * value_size * key_size))
        earlier = kernels.gather(factors.reshape(-1, heads * rows * columns), before)
        factors = product(earlier.reshape(-1, rows, columns), factors)
        back, number = kernels.add(back, back), number * 2
    return states


def answers(y, sizes, step):
    """[pieces * H, PIECE, V] -> rows of the step's tokens, [T, H * V]."""
    _, heads, value_size, _ = sizes
    rows = kernels.turn(y.reshape(-1, heads, PIECE, value_size)).reshape(-1, heads * value_size)
    return kernels.gather(rows, step["rows_in_pieces"])


def states_before(states, step):
    """The state before each piece; of a slot's entry any."""
    return kernels.gather(states, kernels.clamp(kernels.add(step["piece_numbers"], -1), 0, None))


def ends(y, states, state, step):
    kept, last = (kernels.gather(states, step[name]) for name in ("kept_pieces", "last_pieces"))
    return _left(y, state, step, kept, last)

"""The gated delta rule and Kimi's, of stock kernels. recurrent.py joins the pieces of prompts.

Within a piece, what the tokens add to a state is the solution of a triangular system (Yang, Kautz and Hatamizadeh,
2024). It is made of scores: keys, and queries, times earlier keys, of which each value counts as much as is left of
the state between the two tokens.

By the gated delta rule all values of a head are left alike, so that scores are products with a weight each. By Kimi's
(Kimi Team, 2025) each of a key's values has a rate of its own. What is left between a later and an earlier token is
then divided at a token between them, into two factors that are at most 1: one for each side of a product. Halves of a
piece meet at its middle, halves of these halves at theirs, ... down to neighbors.
"""

import numpy as np
from mindspore import Tensor
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import host, kernels, recurrent
from sglang.srt.layers_ms.ops.ascend.recurrent import PIECE, WIDE

SQUARINGS = 6  # of a matrix whose power of PIECE tokens is zero
HALVES = tuple(2**power for power in range(SQUARINGS))  # tokens of each half of what meets at its middle


@constexpr
def _identity(size):
    return Tensor(np.eye(size, dtype=np.float32).reshape(1, size, size))


@constexpr
def _after():
    """What adds up the values of a row that are behind each."""
    return Tensor(np.tril(np.ones((PIECE, PIECE), np.float32), -1))


@constexpr
def _to_middle(half):
    """What adds up the values of a row between each and the end of the earlier half, see HALVES: [from, to]."""
    places = np.arange(PIECE)
    middles = places // (2 * half) * 2 * half + half - 1
    firsts, lasts = np.minimum(places, middles), np.maximum(places, middles)
    return Tensor(((firsts < places[:, None]) & (places[:, None] <= lasts)).astype(np.float32))


@constexpr
def _across(half):
    """Of pairs of places in a piece, whether the first is in the later half and the second in the earlier one."""
    pairs, later = np.divmod(np.arange(PIECE) // half, 2)
    return Tensor((pairs[:, None] == pairs) & (later[:, None] > later))


@constexpr
def _diagonal():
    return Tensor(np.eye(PIECE, dtype=bool))


def _parts(x, sizes):
    """Queries, keys and values of rows."""
    groups, heads, value_size, key_size = sizes
    widths = (groups * key_size, groups * key_size, heads * value_size)
    return [kernels.contiguous(part) for part in kernels.split(x, widths)]


def _one_token(x, beta, decay, state, step, sizes):
    groups, heads, value_size, key_size = sizes
    q, k, v = _parts(kernels.cast(x, WIDE), sizes)
    q, k = (recurrent.unit_length(part.reshape(-1, 1, key_size)) for part in (q, k))
    v = v.reshape(-1, heads, value_size)

    def added(held):
        seen = kernels.multiply_stacks(held, k, True).reshape(-1, heads, value_size)
        new = kernels.mul(recurrent.difference(v, seen), beta.reshape(-1, heads, 1))
        return new.reshape(-1, heads // groups * value_size, 1)

    return recurrent.one_token(state, step, decay, k, added, kernels.mul(q, key_size**-0.5), sizes)


def _parts_of_pieces(x, step, sizes):
    """Queries and keys [pieces, G, PIECE, K] of the rule's lengths, and values [pieces * H, PIECE, V]."""
    groups, heads, value_size, key_size = sizes
    q, k, v = _parts(recurrent.in_pieces(x, step), sizes)
    q, k = (recurrent.unit_length(recurrent.by_heads(part, groups)) for part in (q, k))
    return kernels.mul(q, key_size**-0.5), k, recurrent.by_heads(v, heads).reshape(-1, PIECE, value_size)


def _solved(v, writes, key_scores, query_scores, since_keys, since_queries, left, whole, state, step, sizes):
    """The answers of pieces; the states are left.

    writes [pieces * H, PIECE, 1]: beta. Scores [pieces * H, PIECE, PIECE], those of keys with earlier ones only. Keys
    and queries [pieces * H, PIECE, K] times what is left of a state since the piece began, and keys times what is left
    when it ends; whole [pieces * H, 1, 1 or K]: what the whole piece leaves.
    """
    _, heads, value_size, key_size = sizes
    power = kernels.mul(key_scores, kernels.mul(writes, -1.0))
    solved = kernels.cat((kernels.mul(v, writes), kernels.mul(since_keys, writes)))
    for _ in range(SQUARINGS):
        solved = kernels.add(solved, kernels.multiply_stacks(power, solved, False))
        power = kernels.multiply_stacks(power, power, False)
    added, seen = (kernels.contiguous(part) for part in kernels.split(solved, (value_size, key_size)))
    factors = kernels.mul(_identity(key_size), whole)
    factors = recurrent.difference(factors, kernels.multiply_stacks(recurrent.transposed(seen), left, False))
    states = recurrent.with_slots(kernels.multiply_stacks(recurrent.transposed(added), left, False), state, step)
    factors = recurrent.without_slots(factors, step, heads)
    states = recurrent.joined_states(factors, states, step, sizes, _matrices)
    before = recurrent.states_before(states, step).reshape(-1, value_size, key_size)
    added = recurrent.difference(added, kernels.multiply_stacks(seen, before, True))
    y = kernels.multiply_stacks(since_queries, before, True)
    y = kernels.add(y, kernels.multiply_stacks(query_scores, added, False))
    return recurrent.ends(recurrent.answers(y, sizes, step), states, state, step)


def _matrices(x, y):
    return kernels.multiply_stacks(x, y, False)


# ---- the gated delta rule ----


def _gated_pieces(x, beta, decay, state, step, sizes):
    q, k, v = _parts_of_pieces(x, step, sizes)
    beta, decay = (recurrent.of_heads(kernels.gather(part, step["piece_rows"]), step) for part in (beta, decay))
    total, last, weights = recurrent.decays(decay)
    since, until_end = kernels.exp(total), kernels.exp(recurrent.difference(last, total))
    return _solved(
        v,
        beta.reshape(-1, PIECE, 1),
        kernels.where(recurrent.triangle(-1), recurrent.scores(k, k, weights, sizes), 0.0),
        recurrent.scores(q, k, weights, sizes),
        recurrent.times(k, since, sizes),
        recurrent.times(q, since, sizes),
        recurrent.times(k, until_end, sizes),
        kernels.exp(last).reshape(-1, 1, 1),
        state,
        step,
        sizes,
    )


def gated_delta(x, gates, a_log, dt_bias, state, step, key_size, intermediate=None):
    heads = a_log.shape[0]
    value_size = state.shape[1] // (heads * key_size)
    sizes = ((x.shape[1] - heads * value_size) // (2 * key_size), heads, value_size, key_size)
    b, a = (kernels.contiguous(part) for part in kernels.split(kernels.cast(gates, WIDE), (heads, heads)))
    decay = kernels.mul(recurrent.softplus(kernels.add(a, dt_bias)), kernels.mul(kernels.exp(a_log), -1.0))
    compute = _one_token if host.decodes(step["forward_mode"]) else _gated_pieces
    return kernels.cast(compute(x, kernels.sigmoid(b), decay, state, step, sizes), x.dtype)


# ---- Kimi's delta rule ----


def _what_is_left(decay, sums):
    """decay [n, K, PIECE], added up by sums [PIECE, PIECE] -> what that leaves of a state, [n, PIECE, K]."""
    _, key_size, _ = decay.shape
    found = kernels.exp(kernels.multiply(decay.reshape(-1, PIECE), sums))
    return recurrent.transposed(found.reshape(-1, key_size, PIECE))


def _scores_by_key(q, k, decay):
    """Scores of keys with earlier ones, and of queries with keys, of q and k [n, PIECE, K] and decay [n, K, PIECE]."""
    queries = kernels.where(_diagonal(), kernels.multiply_stacks(q, k, True), 0.0)
    keys = kernels.mul(queries, 0.0)
    for half in HALVES:
        left, pairs = _what_is_left(decay, _to_middle(half)), _across(half)
        met = kernels.mul(k, left)
        keys = kernels.select(pairs, kernels.multiply_stacks(met, met, True), keys)
        queries = kernels.select(pairs, kernels.multiply_stacks(kernels.mul(q, left), met, True), queries)
    return keys, queries


def _kimi_pieces(x, beta, decay, state, step, sizes):
    *_, key_size = sizes
    q, k, v = _parts_of_pieces(x, step, sizes)
    q, k = (part.reshape(-1, PIECE, key_size) for part in (q, k))
    beta = recurrent.of_heads(kernels.gather(beta, step["piece_rows"]), step)
    decay = recurrent.of_heads(kernels.gather(decay, step["piece_rows"]), step).reshape(-1, key_size, PIECE)
    key_scores, query_scores = _scores_by_key(q, k, decay)
    total = kernels.multiply(decay.reshape(-1, PIECE), recurrent.until())
    _, last = kernels.split(total, (PIECE - 1, 1))
    since = recurrent.transposed(kernels.exp(total).reshape(-1, key_size, PIECE))
    return _solved(
        v,
        beta.reshape(-1, PIECE, 1),
        key_scores,
        query_scores,
        kernels.mul(k, since),
        kernels.mul(q, since),
        kernels.mul(k, _what_is_left(decay, _after())),
        kernels.exp(kernels.contiguous(last)).reshape(-1, 1, key_size),
        state,
        step,
        sizes,
    )


def kimi_delta(x, forget, beta, a_log, dt_bias, state, step, key_size, intermediate=None):
    heads = a_log.shape[0]
    sizes = (heads, heads, state.shape[1] // (heads * key_size), key_size)
    rates = recurrent.softplus(kernels.add(kernels.cast(forget, WIDE), dt_bias)).reshape(-1, heads, key_size)
    decay = kernels.mul(rates, kernels.mul(kernels.exp(a_log), -1.0).reshape(1, heads, 1)).reshape(forget.shape)
    compute = _one_token if host.decodes(step["forward_mode"]) else _kimi_pieces
    return kernels.cast(compute(x, kernels.sigmoid(kernels.cast(beta, WIDE)), decay, state, step, sizes), x.dtype)

"""Rows go to the ranks that have experts of them, and come back added up, whatever was chosen for how many rows."""

import itertools

import mindspore as ms
import numpy as np
import pytest
from distributed import dispatched
from distributed.test_collectives import run

from sglang.srt.layers_ms.ops.reference import collectives

SECONDS = 30


@pytest.mark.parametrize("size, replicas", [(2, [1, 2]), (3, [3, 1]), (4, [4, 2, 1])])
def test_rows_arrive_where_their_experts_are_and_come_back_added_up(size, replicas):
    # Wide rows are more than is shared at a time.
    assert run(size, dispatched.dispatches, replicas, [3, 64, 60_000], 120) == [[]] * size


def test_more_ranks_than_a_word_has_bits():
    assert run(34, dispatched.dispatches, [34, 17], [5], 12) == [[]] * 34


def test_ranks_of_two_hosts_send_rows_to_each_other():
    assert run(4, dispatched.dispatches, [4, 2, 1], [3, 60_000], 60, hosts=2) == [[]] * 4


def test_10000_dispatches_in_a_row_are_right():
    assert run(2, dispatched.dispatches, [2, 1], [1, 40, 513], 10_000) == [[], []]


@pytest.mark.parametrize(
    "what, said",
    [
        ("width", "a row of 1200000 bytes"),
        ("place", "a place is none of the "),
        ("replicas", "3 replicas among 2 ranks"),
        ("counts", "the step counts the tokens of 3 replicas, there are 2"),
    ],
)
def test_a_dispatch_that_cannot_be_is_refused(capfd, what, said):
    assert run(2, dispatched.refused, what) == ["RuntimeError: dispatch_experts failed"] * 2
    assert said in capfd.readouterr().err


class Simulated:
    """Ranks that run one after the other, twice: the second time each is given what all gave the first time."""

    def __init__(self, monkeypatch, size):
        self.size, self.given, self.rank = size, {}, 0
        self.calls = itertools.count()
        monkeypatch.setattr(collectives.ops, "AllGather", lambda group: self.gather)
        monkeypatch.setattr(collectives.ops, "ReduceScatter", lambda group: self.scatter)

    def run(self, body):
        """-> what body(rank) returned on each rank."""
        for _ in range(2):
            found = []
            for rank in range(self.size):
                self.rank, self.calls = rank, itertools.count()
                found.append(body(rank))
        return found

    def of_all(self, x):
        call = next(self.calls)
        self.given[call, self.rank] = x.asnumpy()
        return [self.given.get((call, rank), x.asnumpy()) for rank in range(self.size)]

    def gather(self, x):
        return ms.Tensor(np.concatenate(self.of_all(x)))

    def scatter(self, x):
        return ms.Tensor(np.split(sum(self.of_all(x)), self.size)[self.rank])


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_the_reference_gives_each_row_what_the_ranks_make_of_it(monkeypatch, replicas):
    size, held, tokens, top_k = 4, 2, 5, 3
    ranks, draw, inside = Simulated(monkeypatch, size), np.random.default_rng(0), size // replicas
    x, weights = draw.random((replicas, tokens, 7), np.float32), draw.random((replicas, tokens, top_k), np.float32)
    chosen = draw.integers(0, size * held, (replicas, tokens, top_k)).astype(np.int32)

    def body(rank):
        given = [ms.Tensor(array[rank // inside]) for array in (x, weights, chosen)]
        sizes = dict(attn_dp_size=replicas, size=size, group="ranks")
        rows, factors, places, routes = collectives.dispatch_experts(*given, {}, held, rank=rank, **sizes)
        mine = places.asnumpy() // held == rank
        factors = (factors.asnumpy() * (1 + places.asnumpy()) * mine).sum(1, keepdims=True)
        y = ms.Tensor(rows.asnumpy() * factors)
        return collectives.combine_experts(y, routes, {}, **sizes).asnumpy()

    found = ranks.run(body)
    wanted = x * (weights * (1 + chosen)).sum(2, keepdims=True)
    for rank, rows in enumerate(found):
        sent = np.arange(tokens) % inside == rank % inside  # the others of its replica send the other rows
        np.testing.assert_allclose(rows[sent], wanted[rank // inside][sent], rtol=1e-5)
        assert not rows[~sent].any()

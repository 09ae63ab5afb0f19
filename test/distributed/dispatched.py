"""Ranks that send rows to where their experts are, and add up what these make of them; run as in ranks.py.

What an expert makes of a row is here a multiple of it, by numpy: what comes back is known for any dispatch.
"""

import numpy as np
from distributed.ranks import DTYPES, Group, Operator, bits, floats


class Case:
    """A step of `replicas` replicas, which every rank draws alike."""

    def __init__(self, group: Group, draw: np.random.Generator, replicas: int, counts: list, width: int, dtype: str):
        self.group, self.dtype, self.counts = group, dtype, counts
        self.inside, self.replica = group.size // replicas, group.rank // (group.size // replicas)
        self.held, self.top_k = int(draw.integers(1, 4)), int(draw.integers(1, 5))
        places = self.held * group.size
        self.x, self.weights, self.chosen = [], [], []
        for count in counts:
            # Small whole numbers are exact in every dtype, and so are their products and sums.
            x = draw.integers(-3, 4, (count, width)).astype(np.float32)
            self.x.append(draw.standard_normal((count, width), np.float32) if dtype == "float32" else x)
            self.weights.append(draw.integers(1, 3, (count, self.top_k)).astype(np.float32))
            skewed = draw.integers(0, 2)  # whether all rows go to the first places
            self.chosen.append(draw.integers(0, 2 if skewed else places, (count, self.top_k)).astype(np.int32) % places)
        self.room = np.zeros((replicas, -(-group.size // 32)), np.int32)
        self.rows = max([1, *counts]) * replicas
        self.valid_rows = counts[self.replica], 0, *counts

    def factors(self, replica: int, token: int) -> dict:
        """{rank: what its experts make of the row, as a multiple of it}."""
        found = {}
        for place, weight in zip(self.chosen[replica][token], self.weights[replica][token], strict=True):
            rank = int(place) // self.held
            found[rank] = found.get(rank, 0) + weight * (1 + place % 3)
        return found

    def arrives(self) -> list:
        """(row, weights, experts) of all that this rank has an expert of, as bytes, sorted."""
        return sorted(
            (bits(row, self.dtype).tobytes(), weights.tobytes(), chosen.tobytes())
            for x, all_weights, all_chosen in zip(self.x, self.weights, self.chosen, strict=True)
            for row, weights, chosen in zip(x, all_weights, all_chosen, strict=True)
            if self.group.rank in chosen // self.held
        )

    def comes_back(self) -> np.ndarray:
        """Of this rank's replica's rows those that it has sent, each the sum over the ranks in order; else zeros."""
        x = floats(bits(self.x[self.replica], self.dtype), self.dtype).astype(np.float32)
        found = np.zeros_like(x)
        for token in range(self.group.rank % self.inside, len(x), self.inside):
            for _, factor in sorted(self.factors(self.replica, token).items()):
                found[token] += x[token] * np.float32(factor)
        return bits(found, self.dtype)

    def dispatch(self) -> list:
        """-> rows, weights, experts, routes and how many rows have come, with room for all that can come."""
        x = bits(self.x[self.replica], self.dtype)
        shapes = [(self.rows, x.shape[1]), *[(self.rows, self.top_k)] * 2, (self.rows, self.room.shape[1])]
        dtypes = [self.dtype, "float32", "int32", "int32"]
        shapes, dtypes = [*shapes, 2], [*dtypes, "int32"]
        arrays = [x.dtype, "f4", "i4", "i4", "i4"]
        found = [np.full(shape, 77, array) for shape, array in zip(shapes, arrays, strict=True)]
        integers = np.array([self.group.number, self.held], np.int32)
        given = [x, self.weights[self.replica], self.chosen[self.replica], self.room, integers]
        of_given = [*dtypes[:3], "int32", "int32"]
        Operator(self.group.library, "dispatch_experts", [*given, *found], [*of_given, *dtypes], self.valid_rows)()
        return found

    def combine(self, y: np.ndarray, routes: np.ndarray) -> np.ndarray:
        found = np.full_like(bits(self.x[self.replica], self.dtype), 77)
        integers = np.array([self.group.number], np.int32)
        arrays = [y, routes, self.room[:, 0].copy(), integers, found]
        dtypes = [self.dtype, *["int32"] * 3, self.dtype]
        Operator(self.group.library, "combine_experts", arrays, dtypes, self.valid_rows)()
        return found

    def multiplied(self, rows, weights, chosen) -> np.ndarray:
        """What this rank's experts make of the rows that have come."""
        mine = chosen // self.held == self.group.rank
        factors = (weights * (1 + chosen % 3) * mine).sum(1, keepdims=True, dtype=np.float32)
        return bits(floats(rows, self.dtype).astype(np.float32) * factors, self.dtype)

    def wrong(self) -> list[str]:
        """What is not as it should be."""
        rows, weights, chosen, routes, taken = self.dispatch()
        wanted = self.arrives()
        count = len(wanted)
        come = zip(rows[:count], weights[:count], chosen[:count], strict=True)
        found = [] if sorted(tuple(map(np.ndarray.tobytes, each)) for each in come) == wanted else ["what arrives"]
        y = np.full_like(rows, 77)  # without a meaning behind the rows that have come
        y[:count] = self.multiplied(rows[:count], weights[:count], chosen[:count])
        found += [] if taken.tolist() == [count, 0] else ["how many rows count"]
        found += [] if np.array_equal(self.combine(y, routes), self.comes_back()) else ["what comes back"]
        return [f"{what}: {self.counts} rows of {rows.shape[1]} {self.dtype}" for what in found]


def dispatches(group: Group, replicas: list[int], widths: list[int], calls: int) -> list[str]:
    """Random dispatches -> what was wrong."""
    group.join()
    found = []
    for number in range(calls):
        draw = np.random.default_rng([number, group.size])
        divided, width = replicas[number % len(replicas)], widths[number // len(replicas) % len(widths)]
        counts = draw.integers(0, draw.integers(1, 12), divided).tolist()
        found += Case(group, draw, divided, counts, width, DTYPES[number % 3]).wrong()
    return found


def refused(group: Group, what: str) -> str:
    """A call that cannot be -> what the rank is told."""
    group.join(2.0)
    counts = dict(counts=[2, 3, 1]).get(what, [2] * group.size)
    width = 300_000 if what == "width" else 5
    case = Case(group, np.random.default_rng(0), group.size, [2] * group.size, width, "float32")
    if what == "place":
        case.chosen[case.replica][:] = case.held * group.size
    if what == "replicas":
        case.room = np.zeros((group.size + 1, 1), np.int32)
    case.valid_rows = counts[0], 0, *counts
    case.dispatch()
    return "dispatched"

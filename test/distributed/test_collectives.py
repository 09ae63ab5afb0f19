"""Ranks on one host add up and exchange what they have through shared memory, and say so when one is missing."""

import queue

import pytest
from distributed import ranks

SECONDS = 30

# Less than a cache line, no multiple of a vector, more than one thread's piece, and more than is shared at a time.
SHAPES = [(1, 1), (3, 7), (8, 2048), (70, 515), (520, 1100)]
ULP = {"float32": 2**-22, "float16": 2**-10, "bfloat16": 2**-7}


def run(size, body, *arguments, hosts=1):
    """-> what each rank returned, in order; None for one that ended without a word."""
    processes, results = ranks.start(size, body, *arguments, hosts=hosts)
    found = {}
    try:
        while len(found) < size:
            try:
                rank, result = results.get(timeout=1)
                found[rank] = result
            except queue.Empty:
                ended = [process.exitcode for process in processes]  # of all: until it is read, one that ended is there
                silent = [rank for rank, code in enumerate(ended) if code and rank not in found]
                found.update(dict.fromkeys(silent))
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [found[rank] for rank in range(size)]


@pytest.mark.parametrize("size", [2, 3])
def test_every_rank_gets_the_same_bits_and_they_are_the_sum(size):
    found = run(size, ranks.sums, SHAPES)
    assert all(isinstance(result, list) for result in found), found
    for case in zip(*found, strict=True):
        assert len({same for *_, same in case}) == 1
    for number, (error, largest, _) in enumerate(found[0]):
        assert error <= ULP[ranks.DTYPES[number % 3]] * largest, (SHAPES[number // 3], ranks.DTYPES[number % 3])


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_on_two_hosts_get_the_bits_of_ranks_on_one(size):
    alone, apart = run(size, ranks.sums, SHAPES), run(size, ranks.sums, SHAPES, hosts=2)
    assert all(isinstance(result, list) for result in apart), apart
    assert [[bits for *_, bits in case] for case in apart] == [[bits for *_, bits in case] for case in alone]


def test_the_death_of_a_rank_is_noticed_on_every_host(capfd):
    found = run(4, ranks.dies, 2, hosts=2)
    assert found[2] is None
    assert all(0 <= found[rank] < 10 for rank in (0, 1, 3))
    assert "ranks on other hosts cannot be reached" in capfd.readouterr().err


def test_collectives_of_two_hosts_in_a_row_are_right():
    assert run(4, ranks.many, 1000, hosts=2) == [0] * 4
    assert run(3, ranks.many, 300, hosts=2) == [0] * 3  # two on the first, one on the second


def test_nothing_is_sent_to_another_host(capfd):
    assert run(2, ranks.sends_away, hosts=2) == ["RuntimeError: send failed", "nothing"]
    assert "rank 1 is on another host, to which nothing is sent" in capfd.readouterr().err


@pytest.mark.parametrize("size", [2, 3])
def test_columns_of_all_ranks_come_to_lie_side_by_side(size):
    shapes = [(1, 1), (3, 75), (2, 300_000)]  # the last row is more than is shared at a time
    assert run(size, ranks.side_by_side, shapes) == [[True] * len(shapes)] * size


def test_100000_collectives_in_a_row_are_right():
    assert run(2, ranks.many, 100_000) == [0, 0]


def test_collectives_among_some_of_the_ranks_give_what_numpy_does():
    # Wide rows are more than is shared at a time.
    assert run(4, ranks.subsets, [3, 64, 50_000], 12) == [[]] * 4


def test_a_number_of_rows_that_is_not_expected_is_an_error(capfd):
    assert run(2, ranks.unexpected) == ["received", "RuntimeError: all_to_all failed"]
    assert "a rank sends another number of rows" in capfd.readouterr().err


def test_a_rank_that_is_late_is_waited_for():
    assert run(2, ranks.late, 1, 2.0) == [10.0, 10.0]


def test_the_death_of_a_rank_is_noticed_at_once(capfd):
    found = run(3, ranks.dies, 1)
    assert found[1] is None
    assert all(0 <= seconds < 10 for seconds in (found[0], found[2]))
    assert "rank 1 (process " in capfd.readouterr().err


def test_a_rank_that_does_not_come_is_named_after_a_while(capfd):
    found = run(2, ranks.absent, 1.0)
    assert found == ["RuntimeError: all_reduce failed", "absent"]
    assert "has not come within 1 s (--dist-timeout)" in capfd.readouterr().err


def test_a_full_dev_shm_is_an_error_on_every_rank_and_leaves_nothing_there():
    found = run(2, ranks.without_room)
    assert all("cannot be had in /dev/shm: No space left on device" in result for result in found), found
    assert not ranks.shared_files()


def test_nothing_of_a_group_is_in_dev_shm_once_it_is_joined():
    assert run(2, ranks.left_behind) == [[], []]

"""Processes that are the ranks of a group, each running a function of this module.

They load the C++ operators without MindSpore, which would take most of the time.
"""

import ctypes
import importlib.util
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np

OPERATORS = Path(__file__).parents[2] / "python/sglang/srt/layers_ms/ops/cpu"
DTYPES = ["float32", "float16", "bfloat16"]


def start(size: int, body, *arguments, hosts=1):
    """`size` processes that call body(group, *arguments) -> the processes, and a queue of (rank, result or error).

    hosts: on how many, 1 or 2, the processes believe to be: the first half of them, or one more, on the first.
    """
    context = multiprocessing.get_context("spawn")
    results, boards = context.Queue(), [context.Queue() for _ in range(size)]
    barrier, cable = context.Barrier(size), context.Pipe()
    ends = {0: cable[0], -(-size // 2): cable[1]} if hosts == 2 else {}
    processes = [
        context.Process(
            target=_rank, args=(rank, boards, barrier, results, hosts, ends.get(rank), body, arguments), daemon=True
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for end in cable:
        end.close()  # so that each end is in one process, and ends with it
    results.shared = barrier, boards  # which have to live as long as they do
    return processes, results


def _rank(rank, boards, barrier, results, hosts, cable, body, arguments):
    def gather(value):
        for board in boards:
            board.put((rank, value))
        found = dict(boards[rank].get(timeout=60) for _ in boards)
        barrier.wait(60)  # so that no value of the next call comes before the last of this one
        return [found[each] for each in range(len(boards))]

    try:
        results.put((rank, body(Group(rank, len(boards), gather, hosts, cable), *arguments)))
    except Exception as error:
        results.put((rank, f"{type(error).__name__}: {error}"))


class Group:
    """A rank's side of a group of the C++ operators, called as MindSpore calls them."""

    def __init__(self, rank, size, gather, hosts, cable):
        self.rank, self.size, self.gather, self.hosts, self.cable = rank, size, gather, hosts, cable
        self.number = self.library = self.module = None

    def join(self, patience=60.0):
        spec = importlib.util.spec_from_file_location("shared_memory", OPERATORS / "shared_memory.py")
        shared_memory = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(shared_memory)
        self.module = shared_memory  # which keeps the memory
        (path,) = OPERATORS.glob("libmindspore_cpu*.so")
        self.library = ctypes.CDLL(str(path))
        nodes = [rank * self.hosts // self.size for rank in range(self.size)]
        self.number = shared_memory.init_group(
            self.library, self.rank, self.size, self.gather, patience, nodes, self.exchange
        )
        return self

    def exchange(self, address, stride, size):
        """Between the first ranks of two hosts."""
        memory = (ctypes.c_char * ((self.size - 1) * stride + size)).from_address(address)
        rows = np.ndarray((self.size, size), np.uint8, memory, strides=(stride, 1))
        half = -(-self.size // 2)
        halves = rows[:half], rows[half:]
        first = self.rank == 0
        if first:
            self.cable.send_bytes(halves[0].tobytes())
        received = np.frombuffer(self.cable.recv_bytes(), np.uint8).reshape(-1, size)
        if not first:
            self.cable.send_bytes(halves[1].tobytes())
        halves[first][:] = received

    def part(self, ranks: list[int]) -> "Group":
        """The group of these ranks. All ranks form groups at the same time, each rank one that it is in."""

        def gather(value):
            found = self.gather(value)
            return [found[rank] for rank in ranks]

        return Group(ranks.index(self.rank), len(ranks), gather, 1, None).join()

    def all_reduce(self, x: np.ndarray, dtype: str) -> np.ndarray:
        return Call(self, "all_reduce", x, dtype)()


class Operator:
    """An operator and its arguments, results last, as MindSpore calls it.

    valid_rows: of tokens, of requests, and of each rank or replica in the step; (0,): all rows count.
    """

    def __init__(self, library, name: str, arrays: list, dtypes: list, valid_rows=(0,)):
        arrays, dtypes = [np.array(valid_rows, np.int32), *arrays], ["int32", *dtypes]
        shapes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
        count = len(arrays)
        self.arguments = (
            count,
            (ctypes.c_void_p * count)(*[array.ctypes.data for array in arrays]),
            (ctypes.c_int * count)(*[array.ndim for array in arrays]),
            (ctypes.c_void_p * count)(*[ctypes.cast(shape, ctypes.c_void_p) for shape in shapes]),
            (ctypes.c_char_p * count)(*[each.encode() for each in dtypes]),
            None,
            None,
        )
        self.name, self.function, self.kept = name, getattr(library, name), (arrays, shapes)

    def __call__(self) -> None:
        """RuntimeError if the operator fails."""
        if self.function(*self.arguments):
            raise RuntimeError(f"{self.name} failed")


class Call:
    """One call of a group's operator, as MindSpore makes it: x [T, size], as the bits of `dtype` -> [rows, size]."""

    def __init__(self, group, name, x, dtype, integers=(), others=(), rows=None, counts=()):
        """others: int32 arguments; integers: after the group's number. counts: rows of each rank in the step."""
        self.name = name
        self.y = np.zeros((len(x) if rows is None else rows, x.shape[1]), x.dtype)
        arrays = [*(np.array(each, np.int32) for each in others), np.array([group.number, *integers], np.int32)]
        results, dtypes = [self.y], [dtype, *["int32"] * len(arrays), dtype]
        if name == "all_gather":  # which says how many rows it has gathered
            results, dtypes = [self.y, np.zeros(2, np.int32)], [*dtypes, "int32"]
        valid_rows = (counts[group.rank], 0, *counts) if len(counts) else (0,)
        self.operator = Operator(group.library, name, [x, *arrays, *results], dtypes, valid_rows)

    def __call__(self) -> np.ndarray:
        """The result, in memory that the next call overwrites. RuntimeError if the operator fails."""
        self.y.fill(0)
        self.operator()
        return self.y


def bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values -> what memory of that dtype holds."""
    if dtype != "bfloat16":
        return values.astype(dtype)
    whole = np.ascontiguousarray(values).view(np.uint32)
    return ((whole + 0x7FFF + ((whole >> 16) & 1)) >> 16).astype(np.uint16)


def floats(array: np.ndarray, dtype: str) -> np.ndarray:
    wide = (array.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else array
    return wide.astype(np.float64)


def sums(group: Group, shapes: list) -> list:
    """For every shape and dtype: (largest error of this rank's sum, largest value, the bits as bytes)."""
    group.join()
    found = []
    for number, shape in enumerate(shapes):
        for dtype in DTYPES:
            draws = [np.random.default_rng([number, rank]).standard_normal(shape) for rank in range(group.size)]
            parts = [bits(draw.astype(np.float32), dtype) for draw in draws]
            y = group.all_reduce(parts[group.rank], dtype)
            wanted = sum(floats(part, dtype) for part in parts)
            found.append((np.abs(floats(y, dtype) - wanted).max(), np.abs(wanted).max(), y.tobytes()))
    return found


def side_by_side(group: Group, shapes: list) -> list:
    """For every shape: whether this rank finds the columns of all ranks, each row in its place."""
    group.join()
    found = []
    for number, shape in enumerate(shapes):
        parts = [np.random.default_rng([number, rank]).random(shape, np.float32) for rank in range(group.size)]
        x, y = parts[group.rank], np.zeros((shape[0], group.size * shape[1]), np.float32)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (x, y))
        sizes = map(ctypes.c_int64, (shape[0], shape[1] * x.itemsize))
        failed = group.library.mindspore_cpu_gather_columns(group.number, *pointers, *sizes)
        found.append(not failed and np.array_equal(y, np.concatenate(parts, axis=1)))
    return found


def drawn(group: Group, draw: np.random.Generator, width: int, dtype: str) -> tuple[Call | None, np.ndarray]:
    """A collective of a kind, size and content that all ranks draw alike -> this rank's call, and what it should give.

    None for a rank that has no part in it. Ranks send to others of one host only.
    """
    size, rank = group.size, group.rank
    counts = draw.integers(0, 4, (size, size))  # rows, from each rank to each
    rows = [int(count) for count in counts[0]]
    # Small whole numbers are exact in every dtype, and so are their sums.
    values = draw.integers(-30, 30, (size, counts.sum() + 1, width)).astype(np.float32)
    held = bits(values, dtype)
    starts = np.concatenate([np.zeros((size, 1), int), counts.cumsum(1)], 1)
    kind = draw.choice(
        ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send"][
            : 5 + (size > 1 and group.hosts == 1)
        ]
    )
    if kind == "all_reduce":
        return Call(group, kind, held[rank], dtype), bits(values.sum(0), dtype)
    if kind == "all_gather":
        mine, wanted = held[rank, : rows[rank]], np.concatenate([held[each, : rows[each]] for each in range(size)])
        return Call(group, kind, mine, dtype, others=[[0] * size], rows=sum(rows), counts=rows), wanted
    if kind == "reduce_scatter":
        wanted = bits(values.sum(0), dtype)[starts[0, rank] : starts[0, rank + 1]]
        mine = held[rank, : sum(rows)]
        return Call(group, kind, mine, dtype, others=[[0] * size], rows=rows[rank], counts=rows), wanted
    if kind == "all_to_all":
        wanted = np.concatenate([held[each, starts[each, rank] : starts[each, rank + 1]] for each in range(size)])
        mine, room = held[rank, : counts[rank].sum()], len(wanted)
        return Call(group, kind, mine, dtype, others=[counts[rank], counts[:, rank], [0] * room], rows=room), wanted
    sender, receiver = rows[0] % size, (rows[0] + 1) % size
    if kind == "broadcast":
        return Call(group, kind, held[rank], dtype, [sender]), held[sender]
    if rank == sender:
        return Call(group, "send", held[rank], dtype, [receiver]), held[sender]
    if rank == receiver:
        return Call(group, "receive", held[rank], dtype, [sender]), held[sender]
    return None, held[sender]


def wrong(call: Call | None, wanted: np.ndarray) -> list[str]:
    return [] if call is None or np.array_equal(call(), wanted) else [f"{call.name} {wanted.shape}"]


def subsets(group: Group, widths: list[int], calls: int) -> list[str]:
    """Collectives of all kinds in groups of some of four ranks -> those that gave something wrong."""
    group.join()
    half, other = group.rank // 2 * 2, group.rank % 2
    groups = [group, group.part([half, half + 1]), group.part([other, other + 2]), group.part([group.rank])]
    found = []
    for width in widths:
        for number in range(calls):
            for place, part in enumerate(groups):
                draw = np.random.default_rng([number, width, place])
                found += wrong(*drawn(part, draw, width, DTYPES[(number + place) % 3]))
    return found


def many(group: Group, calls: int) -> int:
    """Collectives of random kind, size and content -> how many gave something wrong."""
    group.join()
    draw = np.random.default_rng(0)
    made = [drawn(group, draw, 1 + number % 50, DTYPES[number % 3]) for number in range(500)]
    return sum(len(wrong(*made[number])) for number in draw.integers(0, len(made), calls))


def unexpected(group: Group) -> str:
    """A rank sends another number of rows than its peer expects -> what that one is told."""
    group.join()
    x, counts = np.ones((2, 3), np.float32), [[1, 1], [1 + group.rank, 1], [0] * 4]
    Call(group, "all_to_all", x, "float32", others=counts, rows=4)()
    return "received"


def sends_away(group: Group) -> str:
    """The first rank of two hosts sends to the last -> what it is told."""
    group.join()
    if group.rank == 0:
        Call(group, "send", np.ones((1, 3), np.float32), "float32", [group.size - 1])()
    return "nothing"


def late(group: Group, rank: int, seconds: float) -> float:
    """One rank comes late -> the sum."""
    group.join()
    if group.rank == rank:
        time.sleep(seconds)
    return float(group.all_reduce(np.ones((1, 5), np.float32), "float32").sum())


def dies(group: Group, rank: int) -> float:
    """One rank is killed between two collectives -> seconds after which the others noticed."""
    group.join()
    x = np.ones((1, 5), np.float32)
    group.all_reduce(x, "float32")
    if group.rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    try:
        group.all_reduce(x, "float32")
    except RuntimeError:
        return time.monotonic() - began
    return -1.0


def absent(group: Group, patience: float) -> str:
    """The last rank never comes to the collective -> what the others are told."""
    group.join(patience)
    if group.rank == group.size - 1:
        time.sleep(3 * patience + 2)
        return "absent"
    return f"{group.all_reduce(np.ones((1, 5), np.float32), 'float32')}"


def without_room(group: Group) -> str:
    """No memory for the group."""

    def full(*_):
        raise OSError(28, "No space left on device")

    os.posix_fallocate = full
    group.join()
    return "joined"


def shared_files() -> list[str]:
    """Our files in /dev/shm."""
    return [str(file) for file in Path("/dev/shm").glob("sglang-mindspore-*")]


def left_behind(group: Group) -> list[str]:
    """-> shared_files() while the group is in use."""
    group.join()
    group.all_reduce(np.ones((1, 5), np.float32), "float32")
    return shared_files()

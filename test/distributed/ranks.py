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

    hosts: of how many the first halves of the processes believe to be, 1 or 2.
    """
    context = multiprocessing.get_context("spawn")
    results, boards = context.Queue(), [context.Queue() for _ in range(size)]
    barrier, cable = context.Barrier(size), context.Pipe()
    ends = {0: cable[0], size // 2: cable[1]} if hosts == 2 else {}
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
        self.library.mindspore_cpu_begin_step(ctypes.c_int64(-1), ctypes.c_int64(-1))
        nodes = [rank * self.hosts // self.size for rank in range(self.size)]
        self.number = shared_memory.join(
            self.library, self.rank, self.size, self.gather, patience, nodes, self.exchange
        )
        return self

    def exchange(self, address, stride, size):
        """Between the first ranks of two hosts."""
        memory = (ctypes.c_char * ((self.size - 1) * stride + size)).from_address(address)
        rows = np.ndarray((self.size, size), np.uint8, memory, strides=(stride, 1))
        halves = rows[: self.size // 2], rows[self.size // 2 :]
        first = self.rank == 0
        if first:
            self.cable.send_bytes(halves[0].tobytes())
        received = np.frombuffer(self.cable.recv_bytes(), np.uint8).reshape(-1, size)
        if not first:
            self.cable.send_bytes(halves[1].tobytes())
        halves[first][:] = received

    def all_reduce(self, x: np.ndarray, dtype: str) -> np.ndarray:
        """x [T, size], as the bits of `dtype`. RuntimeError if the operator fails."""
        y, number = np.zeros_like(x), np.array([self.number], np.int32)
        arrays, dtypes = [x, number, y], [dtype, "int32", dtype]
        shapes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
        failed = self.library.all_reduce(
            3,
            (ctypes.c_void_p * 3)(*[array.ctypes.data for array in arrays]),
            (ctypes.c_int * 3)(*[array.ndim for array in arrays]),
            (ctypes.c_void_p * 3)(*[ctypes.cast(shape, ctypes.c_void_p) for shape in shapes]),
            (ctypes.c_char_p * 3)(*[name.encode() for name in dtypes]),
            None,
            None,
        )
        if failed:
            raise RuntimeError("all_reduce failed")
        return y


def bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values -> what memory of that dtype holds."""
    if dtype != "bfloat16":
        return values.astype(dtype)
    whole = values.view(np.uint32)
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


def many(group: Group, calls: int) -> int:
    """Collectives of random size and content, all checked -> how many were wrong."""
    group.join()
    sizes = np.random.default_rng(0).integers(1, 300, calls)
    wrong = 0
    for call, size in enumerate(sizes):
        x = np.full((1, size), call % 251 + group.rank, np.float32)
        x[0, -1] = group.rank
        y = group.all_reduce(x, "float32")
        wanted = group.size * (call % 251) + sum(range(group.size))
        wrong += not (np.all(y[0, :-1] == wanted) and y[0, -1] == sum(range(group.size)))
    return wrong


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

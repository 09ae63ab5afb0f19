"""Memory that the ranks of a group on one host see, and what takes it to those on other hosts (src/group.h)."""

import ctypes
import logging
import mmap
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

FOLDER = "/dev/shm"
EXCHANGE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)

_kept = []  # for as long as the process lives


def init_group(
    library: ctypes.CDLL,
    rank: int,
    size: int,
    all_gather_object: Callable[[object], list],
    timeout: float,
    nodes: Sequence[int] = (),
    exchange: Callable[[int, int, int], None] | None = None,
) -> int:
    """As ops.init_group -> the group's number."""
    nodes = list(nodes) or [0] * size
    here = [other for other in range(size) if nodes[other] == nodes[rank]]
    first = here[0]
    length = _length(library, size)
    file = problem = None
    try:
        if rank == first:
            file = _create(length)
    except OSError as error:
        problem = f"rank {rank}: {length} bytes of shared memory cannot be had in {FOLDER}: {error.strerror}"
    found = all_gather_object((os.getpid(), file, problem))
    if problems := [problem for *_, problem in found if problem]:
        if file:
            Path(file).unlink()
        raise RuntimeError("the ranks of a host cannot share memory: " + "; ".join(problems))
    file = found[first][1]
    try:
        memory = _map(file, length)
    except OSError as error:
        problem = f"rank {rank} cannot open {file}, which rank {first} made: {error.strerror}; are both on one host?"
    problems = [problem for problem in all_gather_object(problem) if problem]
    if rank == first:
        Path(file).unlink()  # nothing is left behind, however the ranks end
    if problems:
        raise RuntimeError("the ranks cannot share memory: " + "; ".join(problems))
    callback = _callback(exchange) if len(here) < size else EXCHANGE()
    _kept.extend((memory, callback))
    processes = (ctypes.c_int * size)(*[found[other if other in here else first][0] for other in range(size)])
    start = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    host = (ctypes.c_int(first), ctypes.c_int(len(here)), callback)
    return library.mindspore_cpu_join(start, rank, size, processes, ctypes.c_double(timeout), *host)


def _length(library: ctypes.CDLL, size: int) -> int:
    library.mindspore_cpu_group_size.restype = ctypes.c_int64
    return library.mindspore_cpu_group_size(size)


def _callback(exchange):
    """`exchange` as the C++ operators call it, holding Python's lock; what it raises is told, and ends the step."""

    def call(address, stride, size):
        try:
            exchange(address, stride, size)
        except Exception:  # the border to C++
            logger.exception("ranks on other hosts cannot be reached")
            return 1
        return 0

    return EXCHANGE(call)


def _create(length: int) -> str:
    descriptor, file = tempfile.mkstemp(prefix="sglang-mindspore-", dir=FOLDER)
    try:
        os.posix_fallocate(descriptor, 0, length)  # a file without memory behind it would kill who writes to it
    except OSError:
        Path(file).unlink()
        raise
    finally:
        os.close(descriptor)
    return file


def _map(file: str, length: int) -> mmap.mmap:
    descriptor = os.open(file, os.O_RDWR)
    try:
        return mmap.mmap(descriptor, length)
    finally:
        os.close(descriptor)

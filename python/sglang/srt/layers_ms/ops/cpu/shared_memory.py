"""Memory that all ranks of a group on one host see (src/group.h)."""

import ctypes
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

FOLDER = "/dev/shm"
PATIENCE = 300.0  # seconds for which a rank waits for the others in a collective

_mapped = []  # for as long as the process lives


def join(library: ctypes.CDLL, rank: int, size: int, gather: Callable[[object], list]) -> int:
    """As ops.join -> the group's number."""
    library.mindspore_cpu_group_size.restype = ctypes.c_int64
    length = library.mindspore_cpu_group_size(size)
    file = problem = None
    try:
        if rank == 0:
            file = _create(length)
    except OSError as error:
        problem = f"{length} bytes of shared memory cannot be had in {FOLDER}: {error.strerror}"
    found = gather((os.getpid(), file, problem))
    processes, (_, file, problem) = [process for process, *_ in found], found[0]
    if problem:
        raise RuntimeError(f"the ranks of this host cannot share memory: {problem}")
    try:
        memory = _map(file, length)
    except OSError as error:
        problem = f"rank {rank} cannot open {file}, which rank 0 made: {error.strerror}; are all ranks on one host?"
    problems = [problem for problem in gather(problem) if problem]
    if rank == 0:
        Path(file).unlink()  # nothing is left behind, however the ranks end
    if problems:
        raise RuntimeError("the ranks cannot share memory: " + "; ".join(problems))
    _mapped.append(memory)
    start = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    return library.mindspore_cpu_join(start, rank, size, (ctypes.c_int * size)(*processes), ctypes.c_double(PATIENCE))


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

"""SGLang's own files in /dev/shm: they must fit there, and go with the server, however that ends."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from sglang.srt.model_executor_ms.seams import parallel

FOLDER = "/dev/shm"

_noted: list[str] = []  # files of the servers that this process has started


def make_queue(original, group, max_chunk_bytes, max_chunks, writer_rank=0):
    """Around SGLang's making of a queue from one rank to the others of its host, once all of them have it open.

    RuntimeError where there is no room for it: a write to memory that is not there kills the process without a word.
    """
    wanted, free = max_chunk_bytes * max_chunks, shutil.disk_usage(FOLDER).free
    if free < wanted:
        raise RuntimeError(
            f"SGLang's queue between ranks wants {wanted >> 20} MiB of shared memory, and {FOLDER} has "
            f"{free >> 20} MiB left: make it larger (docker run --shm-size), or remove what is not in use there"
        )
    queue = original(group, max_chunk_bytes, max_chunks, writer_rank)
    parallel.unlink_queue(queue)
    return queue


def note(port_args, *_arguments, **_others) -> None:
    """After the launcher has made up the names of a server."""
    from sglang.srt.managers.load_snapshot import shm_path_for

    _noted.append(shm_path_for(port_args.instance_id))


def remove(parent_pid, *_arguments, **_others) -> None:
    """Before processes are killed: what nobody will read, if they are this one's."""
    if parent_pid in (None, os.getpid()):
        while _noted:
            with suppress(OSError):
                Path(_noted.pop()).unlink(missing_ok=True)

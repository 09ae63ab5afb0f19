"""What --enable-memory-saver is on a CPU: memory goes back to the system while a server sleeps, and addresses stay.

SGLang's torch_memory_saver is for GPUs. Here the system takes the pages of the key/value pool, and of the weights, and
gives zeros when they are touched again (madvise(2), MADV_DONTNEED). So views, captured steps and whoever registered the
memory know it still.
"""

import contextlib
import ctypes
import mmap
from collections.abc import Callable, Iterable

Memory = tuple[int, int]  # address, bytes

_MADVISE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, use_errno=True)
_madvise = _MADVISE(("madvise", ctypes.CDLL(None)))


class HostMemorySaver:
    """In the place of SGLang's TorchMemorySaverAdapter. SGLang makes several, which are one for this process."""

    enabled = True
    _held: dict[str, Callable[[], Iterable[Memory]]] = {}
    _kept: set[str] = set()  # what --enable-weights-cpu-backup keeps: it lies in memory of the host already

    @classmethod
    def register(cls, tag: str, memory: Callable[[], Iterable[Memory]]) -> None:
        """memory() is private memory of this process that `pause` of this tag gives back."""
        cls._held[tag] = memory

    def pause(self, tag: str) -> None:
        """Give the memory of this tag back. It is zeros afterwards. OSError if the system does not take it."""
        if tag in self._kept or tag not in self._held:
            return
        for address, size in self._held[tag]():
            _give_back(address, size)

    def resume(self, tag: str) -> None:
        """Nothing is to be done: pages come when they are touched."""

    @contextlib.contextmanager
    def region(self, tag: str, enable_cpu_backup: bool = False):
        """What SGLang allocates in, which is nothing of ours."""
        if enable_cpu_backup:
            self._kept.add(tag)
        yield

    @contextlib.contextmanager
    def cuda_graph(self, **_options):
        yield

    @contextlib.contextmanager
    def disable(self):
        yield

    @contextlib.contextmanager
    def configure_subprocess(self):
        yield

    def check_validity(self, caller_name: str) -> None:
        """It saves memory always."""


def create(original, enable: bool):
    """Around TorchMemorySaverAdapter.create."""
    return HostMemorySaver() if enable else original(enable)


def _give_back(address: int, size: int) -> None:
    """The whole pages of this memory; what shares a page with something else stays."""
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > start and _madvise(start, end - start, mmap.MADV_DONTNEED):
        raise OSError(ctypes.get_errno(), f"{end - start} bytes cannot be given back to the system")

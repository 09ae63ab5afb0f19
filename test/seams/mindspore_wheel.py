"""What the path of an NPU relies on in MindSpore's libraries for Ascend, which load on no other machine.

    python test/seams/mindspore_wheel.py

looks for it in the installed wheel, and says what is not there. Each fact is the name of a function, of an environment
variable or of a graph's parameter, or a message. Sources were read for MindSpore 2.10.0; where one of these strings is
gone or new, read them again before the version changes.
"""

import importlib.util
import mmap
import sys
from pathlib import Path
from typing import NamedTuple


class Fact(NamedTuple):
    """A string of a library, and what would not be so without it."""

    library: str
    text: str
    because: str


BACKEND, COMMON = "lib/libmindspore_ms_backend.so", "lib/libmindspore_backend_common.so"
DEVICE, INTERNAL = (
    "lib/plugin/ascend/libmindspore_ascend_res_manager.so",
    "lib/plugin/ascend/libmindspore_internal_kernels.so",
)
KERNELS = "lib/plugin/ascend/ms_kernels_internal/internal_kernel/lib/libms_kernels_internal.so"
FACTS = (
    Fact(BACKEND, "ConvertNormalInputContiguous", "parameters that share memory become copies at each call"),
    Fact(COMMON, "ConvertContiguousTensorSync", "and the tensor keeps the copy"),
    Fact(
        BACKEND,
        "got a non-contiguous memory layout tensor",
        "an element of a tuple that shares memory cannot be captured: captured graphs have no tuple of inputs",
    ),
    Fact(BACKEND, "exceeded the hardware limit", "too many graphs are an error before a capture begins"),
    Fact(BACKEND, "graph_capture_max_number", "users may limit graphs by MS_DEV_RUNTIME_CONF"),
    Fact(BACKEND, "key_cache", "a captured graph reads parameters of this name in place"),
    Fact(BACKEND, "value_cache", "and of this one"),
    Fact(DEVICE, "MS_ENABLE_LCCL", "LCCL is switched off by it"),
    Fact(KERNELS, "MS_INTERNAL_DISABLE_CUSTOM_KERNEL_LIST", "attention kernels of its own are switched off by it"),
    Fact(INTERNAL, "q_seq_len", "attention kernels find lengths on the host by this name"),
    Fact(INTERNAL, "batch_valid_length", "and by this one"),
    Fact(KERNELS, "AsdPagedAttentionOp", "ATB's attention kernel is there"),
    Fact(KERNELS, "paged_attention_v2", "and MindSpore's own, which takes the mode TRAPEZOIDAL"),
    Fact(DEVICE, "aclmdlRICaptureBegin", "graphs are captured by CANN"),
)


def missing(root: Path, facts=FACTS) -> list[str]:
    """A line for each fact that is not in the package in this folder."""
    return [line for fact in facts if (line := _missing(root, fact))]


def _missing(root, fact):
    path = root / fact.library
    if not path.is_file():
        return f"{fact.library} is not there: {fact.because}"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = data.find(fact.text.encode()) >= 0
    return None if found else f"{fact.library} has no {fact.text!r}: {fact.because}"


def installed() -> Path:
    """The folder of the installed package; nothing of it is imported."""
    return Path(importlib.util.find_spec("mindspore").origin).parent


if __name__ == "__main__":
    lines = missing(installed())
    print("\n".join(lines) or f"all {len(FACTS)} facts are in {installed().name}'s libraries")
    sys.exit(bool(lines))

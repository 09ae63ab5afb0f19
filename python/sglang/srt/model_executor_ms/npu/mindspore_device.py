"""MindSpore's interfaces for Ascend, which a CPU has not: the only file that calls them, imported with an NPU only."""

from collections.abc import Sequence

import mindspore as ms
from mindspore import context
from mindspore._c_expression import GroupOptions
from mindspore.communication import create_group

from sglang.srt.model_executor_ms.environment import export

# Copies between host and device, which are no kernels of the device.
NOT_CAPTURED = ["MoveTo"]


def loads() -> str | None:
    """Why MindSpore's Ascend backend is not usable in this process, or None."""
    own = context.MSContext.get_instance()
    return None if own.is_pkg_support_device("Ascend") else own.load_plugin_error().strip() or "no reason given"


def take_card(card: int) -> None:
    """Take a card and nothing else, for a look at it."""
    ms.set_device("Ascend", card)


def start(card: int) -> None:
    """Take a card, before anything else asks MindSpore for what it is, or runs an operator."""
    take_card(card)
    # infer_boost: kernels that read and write SGLang's paged cache, and captured graphs, exist only with it.
    ms.set_context(mode=ms.PYNATIVE_MODE, jit_level="O0", infer_boost="on")


def limit_memory(most: str) -> None:
    """Cap the memory pool, such as at 20.5GB, before the first operator of the process."""
    ms.runtime.set_memory(max_size=most)


def compute_deterministically() -> None:
    """The same results of the same inputs, of kernels and of HCCL. Once, before communication starts."""
    ms.set_deterministic(True)


def keep_compiled_graphs(folder: str) -> None:
    """Compile only what is not in `folder` yet, and put it there. Before the first graph is compiled."""
    export({"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": folder})


_capture: list[bool] = []


def captures() -> bool:
    """Whether a graph of this process is captured already."""
    return bool(_capture)


def allow_capture(skipped: Sequence[str] = ()) -> None:
    """Let MindSpore capture graphs of the phase `increment`. Before the first one is compiled.

    skipped: primitives that are launched as they are, between what is captured.
    """
    _capture.append(True)
    ms.runtime.set_kernel_launch_capture(True, [*NOT_CAPTURED, *skipped])


def connect() -> None:
    """Join the cluster that the environment describes. RuntimeError, after MS_TOPO_TIMEOUT seconds, if others lack."""
    ms.communication.init("hccl")


def adopt(group: str, ranks: list[int], communicator: int) -> None:
    """Let graphs use torch's HCCL communicator as `group`.

    MindSpore asks HCCL for its name, by which MatmulAllReduceAddRmsNorm finds it, whoever made it.
    """
    options = GroupOptions()
    options.hccl_config = {"hccl_comm": communicator}
    create_group(group, ranks, options)

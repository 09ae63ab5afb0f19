"""MindSpore's interfaces for Ascend, which a CPU has not: the only file that calls them, imported with an NPU only."""

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


def start(card: int, memory: str) -> None:
    """Take a card, with a cap of the memory pool such as 20.5GB, before the first operator of the process."""
    ms.set_device("Ascend", card)
    ms.runtime.set_memory(max_size=memory)
    # infer_boost: kernels that read and write SGLang's paged cache, and captured graphs, exist only with it.
    ms.set_context(mode=ms.PYNATIVE_MODE, jit_level="O0", infer_boost="on")


def compute_deterministically() -> None:
    """The same results of the same inputs, of kernels and of HCCL. Once, before communication starts."""
    ms.set_deterministic(True)


def keep_compiled_graphs(folder: str) -> None:
    """Compile only what is not in `folder` yet, and put it there. Before the first graph is compiled."""
    export({"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": folder})


_capture: list[int] = []  # for how many shapes a graph of this process is captured


def captures() -> bool:
    """Whether a graph of this process is captured already."""
    return bool(_capture)


def allow_capture(shapes: int) -> None:
    """Let MindSpore capture graphs of the phase `increment`, for that many shapes. Before the first one is compiled."""
    _capture.append(shapes)
    export({"MS_DEV_RUNTIME_CONF": f"graph_capture_max_number:{shapes + 1}"})
    ms.runtime.set_kernel_launch_capture(True, NOT_CAPTURED)


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

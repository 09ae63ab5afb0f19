"""Our environment variables, read here and nowhere else, and checked into one frozen dataclass."""

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

OPERATOR_TABLE = "SGLANG_MS_OPS"
PROFILE = "SGLANG_MS_PROFILE"
ALLREDUCE_FUSION = "SGLANG_MS_ALLREDUCE_FUSION"
# SGLang's own: the processors of each rank, such as 0-15|16-31, or all; where traces go; the platform plugin to use;
# whether its CPU engine (sgl_kernel) is asked for; and how many layers each pipeline stage has, such as 12,16.
BINDING = "SGLANG_CPU_OMP_THREADS_BIND"
TRACES = "SGLANG_TORCH_PROFILER_DIR"
PLATFORM = "SGLANG_PLATFORM"
CPU_ENGINE = "SGLANG_USE_CPU_ENGINE"
BOUND_HERE = "SGLANG_MS_THREADS_BIND"  # what bind_ranks has set BINDING to
PARTITION = "SGLANG_PP_LAYER_PARTITION"
THREADS = "OMP_NUM_THREADS"
# What a rank that is not started by its launcher is given of that one's environment.
INHERITED = (OPERATOR_TABLE, PROFILE, ALLREDUCE_FUSION, TRACES, PLATFORM, PARTITION, THREADS)
PROCESSORS = "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE"  # SGLang's own: where more processors of images are
INHERITED += ("OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE", PROCESSORS)

# Set by CANN's and NNAL's set_env.sh.
CANN = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
NNAL = "ATB_HOME_PATH"

NPU_SETTINGS = {
    # MindSpore's own collectives, which it has on with infer_boost: one port a host for all servers, no cards of other
    # hosts, a counter that a captured graph freezes.
    "MS_ENABLE_LCCL": "off",
    # Attention kernels of MindSpore's own, where it has those of CANN's ATB too: vllm-mindspore and sgl-mindspore never
    # run the former, and pad decode graphs with rows without context.
    "MS_INTERNAL_DISABLE_CUSTOM_KERNEL_LIST": "FlashAttentionScore,PagedAttention",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",  # MindSpore wants a newer protobuf than CANN's tools
}
# Collectives on the cores that compute: a captured one takes one stream. In graphs it is for the cards of one host.
ONE_HOST_SETTINGS = {"HCCL_OP_EXPANSION_MODE": "AIV"}

CPU_PLATFORM = "mindspore_cpu"  # the entry point of platform.py, in setup.py
OWN_PROCESSORS = "sglang.srt.model_executor_ms.processors"


class Refusal(Exception):
    """The server cannot be started as it was asked to. The message is for whoever started it, and says what to do."""


class SettingError(Refusal):
    """An environment variable has a value that cannot be used. The message names every such variable."""


@dataclass(frozen=True)
class Environment:
    """What the environment of this process asks for."""

    ops_table: str | None = None  # the operator table to compute with; None: the device's preferred one
    profile: bool = False  # print the time of every forward
    traces: str | None = None  # the folder for traces; None: the temporary one
    binding: str | None = None  # the processors of each rank; None: all that the process may use
    threads: str | None = None  # how many threads compute; None: one a core
    platform: str | None = None  # the SGLang platform plugin to use; None: SGLang finds one
    cpu_engine: bool = False  # SGLang's torch kernels for CPUs are to be used
    pp_layer_partition: tuple[int, ...] = ()  # of each pipeline stage; (): as many in each
    allreduce_fusion: bool = True  # all-reduces may be computed with the norms behind them

    def as_on_npu(self, device: str) -> bool:
        """Whether steps are prepared and computed as on an NPU: on one, and with its tables on a CPU."""
        return device.startswith("npu") or (self.ops_table or "").startswith("ascend")


def read_environment(variables: Mapping[str, str] = os.environ) -> Environment:
    """The settings in `variables`. SettingError lists every malformed one; unset and empty are the default."""
    problems: list[str] = []
    table = variables.get(OPERATOR_TABLE) or None
    if table and not re.fullmatch("[a-z][a-z0-9_]*", table):
        problems.append(f"{OPERATOR_TABLE}={table!r}: expected the name of an operator table, such as reference")
    switches = {name: variables.get(name) or unset for name, unset in ((PROFILE, "0"), (ALLREDUCE_FUSION, "1"))}
    problems += [f"{name}={value!r}: expected 0 or 1" for name, value in switches.items() if value not in ("0", "1")]
    partition = variables.get(PARTITION) or ""
    if partition and not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", partition):
        problems.append(f"{PARTITION}={partition!r}: expected the layers of each pipeline stage, such as 12,16")
    if problems:
        raise SettingError("\n".join(problems))
    return Environment(
        ops_table=table,
        profile=switches[PROFILE] == "1",
        traces=variables.get(TRACES) or None,
        binding=variables.get(BINDING) or None,
        threads=variables.get(THREADS) or None,
        platform=variables.get(PLATFORM) or None,
        cpu_engine=variables.get(CPU_ENGINE) == "1",  # as SGLang reads it
        pp_layer_partition=tuple(map(int, partition.split(","))) if partition else (),
        allreduce_fusion=switches[ALLREDUCE_FUSION] == "1",
    )


@dataclass(frozen=True)
class AscendEnvironment:
    """What CANN's scripts have set up in this process."""

    cann: str | None = None  # the folder of its toolkit
    nnal: str | None = None  # the folder of its transformer kernels (ATB)


def read_ascend_environment(variables: Mapping[str, str] = os.environ) -> AscendEnvironment:
    """The folders that set_env.sh of CANN and of NNAL name; None where it was not sourced."""
    cann = next((variables[name] for name in CANN if variables.get(name)), None)
    return AscendEnvironment(cann, variables.get(NNAL) or None)


def export(variables: Mapping[str, str]) -> None:
    """Set environment variables for what starts later, here or in processes of this one; what the user set stays."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def dictate(variables: Mapping[str, str]) -> None:
    """Set environment variables of this process, over what the user set: what it is among those that it meets."""
    os.environ.update(variables)


def inherited(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `variables` over it, for a process that it starts."""
    return {**os.environ, **variables}


def add_up_in_one_order() -> None:
    """Let HCCL, in the processes started from here on, give the same sums of the same values each time.

    A setting that the user made stays.
    """
    export({"HCCL_DETERMINISTIC": "true"})


def let_idle_torch_threads_sleep() -> None:
    """Keep torch's OpenMP threads, in the processes started from here on, from spinning after each product.

    They would hold the cores that MindSpore's threads want: 25 ms a step of a small model instead of 3. A policy that
    the user set stays.
    """
    export({"OMP_WAIT_POLICY": "PASSIVE"})


def wait_for_no_cuda_dumps() -> None:
    """Let a launcher that ends because a rank failed not wait 60 s for CUDA's dumps of the others.

    A setting that the user made stays.
    """
    export({"SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0"})


def hide_threads_of_mindspore() -> None:
    """Let the processes started from here on see the OMP_NUM_THREADS of the user, or none.

    MindSpore, when it is imported, sets it to 1 where C finds it and os.environ does not: ranks that are started
    afterwards would compute with one thread.
    """
    if THREADS not in os.environ:
        os.unsetenv(THREADS)


def bind_ranks(groups: list[list[int]]) -> None:
    """Give each rank that is started from here on its processors, unless the user did; no groups: leave it to SGLang.

    Those that an earlier server of this process was given do not count as the user's.
    """
    if os.environ.get(BINDING) != os.environ.get(BOUND_HERE):
        return
    for name in (BINDING, BOUND_HERE):
        if groups:
            os.environ[name] = "|".join(",".join(map(str, group)) for group in groups)
        else:
            os.environ.pop(name, None)


def for_actors() -> dict[str, str]:
    """The variables of an actor of Ray that other ranks inherit from their launcher."""
    found = {name: os.environ[name] for name in INHERITED if name in os.environ}
    if os.environ.get(BINDING) != os.environ.get(BOUND_HERE):  # the user's, for each node
        found[BINDING] = os.environ[BINDING]
    return found


def forget_threads_of_ray(given: Mapping[str, str]) -> None:
    """Ray lets an actor compute with one thread where nobody said with how many. given: its variables by for_actors."""
    if THREADS not in given:
        os.environ.pop(THREADS, None)


def own_address_as_told() -> str | None:
    """Where other hosts reach this one, if the user said so, as SGLang reads it."""
    return os.environ.get("SGLANG_HOST_IP") or os.environ.get("HOST_IP") or None


def reach_hosts_by(interface: str | None, address: str) -> None:
    """Let torch's gloo, SGLang and HCCL reach other hosts by this interface and address, unless the user said how.

    Gloo would take the address that this host's name has, which often is a loopback one, and HCCL that of the interface
    whose name comes first.
    """
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if not own_address_as_told():
        os.environ["SGLANG_HOST_IP"] = address
    if not os.environ.get("HCCL_SOCKET_IFNAME"):  # which counts less than HCCL_IF_IP
        export({"HCCL_IF_IP": address})


def keep_convolution_states_in(dtype: str) -> None:
    """Let SGLang make the states of convolutions of this dtype, in its pools of this process.

    Theirs is bfloat16, whatever --dtype says. One that the user set stays.
    """
    export({"SGLANG_MAMBA_CONV_DTYPE": dtype})


def prepare_npu(hosts: int) -> None:
    """Set what MindSpore, CANN and HCCL read of the environment when they start, in processes of this one.

    Before any of them is imported, or torch makes a communicator. hosts: on which the ranks are. A setting that the
    user made stays.
    """
    export(NPU_SETTINGS if hosts > 1 else NPU_SETTINGS | ONE_HOST_SETTINGS)


def use_huge_pages() -> None:
    """Let torch, in the processes started from here on, keep large tensors, such as the cache, in huge pages.

    A setting that the user made stays.
    """
    export({"THP_MEM_ALLOC_ENABLE": "1"})


def send_prefixes_with_the_rest() -> None:
    """Let a prefill server send a cached prefix with what it computes: SGLang sends it ahead by events of a GPU."""
    dictate({"SGLANG_DISAGG_PREFILL_EARLY_SEND_CACHED_PREFIX": "0"})


def store_through_the_page_cache() -> None:
    """Let NIXL write stored pages as any file is written, unless the user asks for direct I/O.

    That wants pages whose size is a multiple of 4096 bytes, and not every file system has it: nothing is stored then.
    """
    export({"SGLANG_HICACHE_NIXL_USE_DIRECT_IO": "0"})


MEMFABRIC_STORE = "ASCEND_MF_STORE_URL"


def memfabric_store() -> str | None:
    """Where servers with NPUs find each other; the prefill server listens there. None: it is not said."""
    return os.environ.get(MEMFABRIC_STORE)


def compile_without_a_wrapper(variables: MutableMapping[str, str] = os.environ) -> None:
    """Let torch build extensions where CXX is such as `ccache g++`: it looks for a program whose name is all that."""
    wrapper, _, compiler = variables.get("CXX", "").partition(" ")
    if wrapper.rpartition("/")[2] in ("ccache", "sccache", "distcc") and compiler.strip():
        variables["CXX"] = compiler.strip()


def select_cpu_platform(wanted: bool) -> None:
    """Let the processes started from here on use platform.py's platform, or SGLang's own again.

    A platform that the user selected stays.
    """
    _select(PLATFORM, CPU_PLATFORM, wanted)


def select_image_processors(wanted: bool) -> None:
    """Let the processes started from here on use the processors of `processors/` too, or SGLang's own alone again.

    A package that the user selected stays.
    """
    _select(PROCESSORS, OWN_PROCESSORS, wanted)


def _select(name: str, own: str, wanted: bool) -> None:
    selected = os.environ.get(name)
    if wanted and not selected:
        os.environ[name] = own
    elif not wanted and selected == own:
        del os.environ[name]

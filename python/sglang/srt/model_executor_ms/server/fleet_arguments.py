"""Arguments of a server among others, and of what outlives its steps: which of them can be served here."""

import ctypes
import importlib.util

from sglang.srt.model_executor_ms.environment import (
    MEMFABRIC_STORE,
    compile_without_a_wrapper,
    memfabric_store,
    send_prefixes_with_the_rest,
    store_through_the_page_cache,
)
from sglang.srt.model_executor_ms.seams import memory
from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag

# What SGLang's traces are made and sent with.
OPENTELEMETRY = (
    "opentelemetry.sdk.trace",
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
)
# What sends keys and values between CPUs, or stores them: the package, the library of the system that it wants, and how
# to install both.
PACKAGES = {
    "nixl": ("nixl", None, "pip install --no-deps nixl nixl-cu12"),
    "mooncake": (
        "mooncake",
        "libibverbs.so.1",
        "pip install --no-deps mooncake-transfer-engine-non-cuda; apt install libibverbs1",
    ),
}


def check_fleet(view) -> None:
    """UnsupportedFlag, before any process is started."""
    _check_traces(view)
    _check_host_cache(view)
    _check_disaggregation(view)
    if view.enable_forward_pass_metrics and view.device != "cpu":
        raise UnsupportedFlag(
            f"--enable-forward-pass-metrics is served on CPUs only, and --device is {view.device}: SGLang times steps "
            "by events of torch's stream, and operators run on MindSpore's"
        )
    if view.enable_memory_saver and view.device != "cpu":
        raise UnsupportedFlag(
            f"--enable-memory-saver is served on CPUs only, and --device is {view.device}: captured graphs know "
            "addresses, which a device does not keep for memory that it takes back"
        )
    if view.enable_memory_saver and view.speculative_algorithm:
        raise UnsupportedFlag("--enable-memory-saver with --speculative-algorithm: not tried together yet")


def _check_traces(view) -> None:
    """UnsupportedFlag where a package is missing, without which SGLang ends each of its processes."""
    if not view.enable_trace:
        return
    try:
        lacking = [name for name in OPENTELEMETRY if importlib.util.find_spec(name) is None]
    except ModuleNotFoundError as error:  # what a module is in
        lacking = [error.name]
    if lacking:
        raise UnsupportedFlag(
            f"--enable-trace: {lacking[0]} is not installed: pip install opentelemetry-sdk opentelemetry-exporter-otlp"
        )


def _check_disaggregation(view) -> None:
    """UnsupportedFlag where prefill and decode on separate servers cannot be served."""
    mode, backend = view.disaggregation_mode, view.disaggregation_transfer_backend
    if mode == "null":
        return
    flag = f"--disaggregation-mode {mode}"
    named = f"{flag} --disaggregation-transfer-backend {backend}"
    if view.device == "cpu":
        check_transfers(named, backend.removesuffix("_tcp"))
    else:
        _check_transfers_of_npus(named, backend)
    if view.pp_size > 1 or view.speculative_algorithm or view.kv_cache_dtype != "auto":
        raise UnsupportedFlag(
            f"{flag} with --pp-size, --speculative-algorithm or --kv-cache-dtype: not tried together yet"
        )
    if mode == "prefill":
        send_prefixes_with_the_rest()


def check_transfers(flag: str, backend: str) -> None:
    """UnsupportedFlag where a backend is not served, or lacks what it wants."""
    if backend not in PACKAGES:
        raise UnsupportedFlag(f"{flag}: only nixl, mooncake and mooncake_tcp are served on CPUs")
    check_package(flag, backend)


def check_package(flag: str, backend: str) -> None:
    """UnsupportedFlag, with the command that installs it, where what sends or stores keys and values is missing."""
    package, library, command = PACKAGES[backend]
    command = f"{command} (no GPU is needed)"
    if importlib.util.find_spec(package) is None:
        raise UnsupportedFlag(f"{flag}: the package {package} is not installed: {command}")
    try:
        if library:
            ctypes.CDLL(library)
    except OSError as error:
        raise UnsupportedFlag(f"{flag}: {package} wants {library}: {error}: {command}") from error


def _check_transfers_of_npus(flag: str, backend: str) -> None:
    """UnsupportedFlag where NPUs cannot send keys and values by MemFabric, or do not know where to meet."""
    if backend != "ascend":
        raise UnsupportedFlag(f"{flag}: only ascend is served on NPUs")
    if importlib.util.find_spec("memfabric_hybrid") is None:
        raise UnsupportedFlag(
            f"{flag}: the package memfabric_hybrid is not installed: pip install --no-deps memfabric-hybrid"
        )
    store = memfabric_store()
    if store is None or not store.startswith("tcp://"):
        raise UnsupportedFlag(
            f"{flag}: {MEMFABRIC_STORE} is {store!r}: export {MEMFABRIC_STORE}=tcp://HOST:PORT on all servers, with an "
            "address of the prefill server's host and a free port"
        )


def _check_host_cache(view) -> None:
    """UnsupportedFlag where a cache of the host is asked for and cannot be; builds what a storage behind it wants."""
    if not view.enable_hierarchical_cache:
        return
    if view.device != "cpu":
        raise UnsupportedFlag(f"--enable-hierarchical-cache is served on CPUs only, and --device is {view.device}")
    if view.speculative_algorithm:
        raise UnsupportedFlag("--enable-hierarchical-cache with --speculative-algorithm: not tried together yet")
    if view.hicache_storage_backend:
        _check_storage(view)


def _check_storage(view) -> None:
    """UnsupportedFlag where pages cannot be stored; builds what names them."""
    flag = f"--hicache-storage-backend {view.hicache_storage_backend}"
    if view.quantization_param_path:
        raise UnsupportedFlag(
            f"{flag} with --quantization-param-path: names of stored pages do not say which scales they have"
        )
    if view.hicache_storage_backend in PACKAGES:
        check_package(flag, view.hicache_storage_backend)
    if view.hicache_storage_backend == "nixl":
        store_through_the_page_cache()
    if view.hicache_storage_backend == "dynamic" and not view.hicache_storage_backend_extra_config:
        raise UnsupportedFlag(
            f"{flag} wants --hicache-storage-backend-extra-config with backend_name, module_path and class_name"
        )
    compile_without_a_wrapper()  # here, and in the processes that load what is built
    try:
        memory.build_page_hashes()
    except RuntimeError as error:
        raise UnsupportedFlag(
            f"{flag}: the C++ extension by which SGLang names "
            f"stored pages cannot be built: {error.__cause__ or error}. It wants g++, ninja and OpenSSL's headers: "
            "apt install g++ ninja-build libssl-dev"
        ) from error

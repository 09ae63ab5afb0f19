"""What a server among others lacks is said before any process is started, with the line that installs it."""

import ctypes
import importlib.util
import os
from types import SimpleNamespace

import pytest

from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag
from sglang.srt.model_executor_ms.server.fleet_arguments import check_fleet

SECONDS = 1
EARLY = "SGLANG_DISAGG_PREFILL_EARLY_SEND_CACHED_PREFIX"
PLAIN = dict(
    device="cpu",
    enable_trace=False,
    enable_hierarchical_cache=False,
    hicache_storage_backend=None,
    hicache_storage_backend_extra_config=None,
    quantization_param_path=None,
    enable_memory_saver=False,
    enable_forward_pass_metrics=False,
    disaggregation_mode="null",
    disaggregation_transfer_backend="mooncake",
    speculative_algorithm=None,
    kv_cache_dtype="auto",
    pp_size=1,
)


def absent(name):
    """As find_spec where a package is not there."""
    if "." in name:  # an absent package has no modules
        raise ModuleNotFoundError(f"No module named {name.partition('.')[0]!r}", name=name.partition(".")[0])


CASES = {
    "mooncake": "package mooncake is not installed: pip install --no-deps mooncake-transfer-engine-non-cuda",
    "nixl": "package nixl is not installed: pip install --no-deps nixl nixl-cu12",
    "ascend": "only nixl, mooncake and mooncake_tcp are served on CPUs",
}


@pytest.mark.parametrize("backend", CASES)
def test_a_way_to_send_keys_and_values_that_is_not_installed_is_named(monkeypatch, backend):
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    check_fleet(SimpleNamespace(**PLAIN))  # SGLang's default backend is no problem without a mode
    view = SimpleNamespace(**PLAIN | dict(disaggregation_mode="decode", disaggregation_transfer_backend=backend))
    with pytest.raises(UnsupportedFlag, match=f"--disaggregation-transfer-backend {backend}: .*{CASES[backend]}"):
        check_fleet(view)


def test_a_library_that_mooncake_wants_is_named(monkeypatch):
    def lacking(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(ctypes, "CDLL", lacking)
    with pytest.raises(UnsupportedFlag, match="libibverbs.so.1: cannot open.* apt install libibverbs1"):
        check_fleet(SimpleNamespace(**PLAIN | dict(disaggregation_mode="decode")))


def test_npus_send_by_memfabric_alone_and_are_told_where_to_meet(monkeypatch):
    view = SimpleNamespace(**PLAIN | dict(device="npu", disaggregation_mode="prefill"))
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    monkeypatch.delenv("ASCEND_MF_STORE_URL", raising=False)
    for backend in ("nixl", "mooncake", "mooncake_tcp"):
        view.disaggregation_transfer_backend = backend
        with pytest.raises(UnsupportedFlag, match=f"{backend}: only ascend is served on NPUs"):
            check_fleet(view)
    view.disaggregation_transfer_backend = "ascend"
    with pytest.raises(UnsupportedFlag, match="ascend: the package memfabric_hybrid is not installed: pip install"):
        check_fleet(view)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for given in (None, "127.0.0.1:9000"):
        if given:
            monkeypatch.setenv("ASCEND_MF_STORE_URL", given)
        with pytest.raises(UnsupportedFlag, match=f"ASCEND_MF_STORE_URL is {given!r}: export"):
            check_fleet(view)
    monkeypatch.setenv("ASCEND_MF_STORE_URL", "tcp://127.0.0.1:9000")
    monkeypatch.setenv(EARLY, "1")
    check_fleet(view)
    assert os.environ[EARLY] == "0"
    view.pp_size = 2
    with pytest.raises(UnsupportedFlag, match="--pp-size"):
        check_fleet(view)


def test_traces_without_their_packages_are_refused(monkeypatch):
    traced = SimpleNamespace(**PLAIN | dict(enable_trace=True))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    check_fleet(traced)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "sdk" in name else name)
    with pytest.raises(UnsupportedFlag, match="sdk.trace is not installed: pip install opentelemetry-sdk"):
        check_fleet(traced)
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(UnsupportedFlag, match="opentelemetry is not installed"):
        check_fleet(traced)


def test_forward_pass_metrics_are_those_of_a_cpu():
    metrics = dict(enable_forward_pass_metrics=True)
    check_fleet(SimpleNamespace(**PLAIN | metrics))
    with pytest.raises(
        UnsupportedFlag, match="--enable-forward-pass-metrics is served on CPUs only, and --device is npu"
    ):
        check_fleet(SimpleNamespace(**PLAIN | metrics | dict(device="npu")))


def test_a_storage_is_refused_with_scales_that_its_names_do_not_have():
    stored = dict(enable_hierarchical_cache=True, hicache_storage_backend="file", quantization_param_path="scales.json")
    with pytest.raises(UnsupportedFlag, match="backend file with --quantization-param-path"):
        check_fleet(SimpleNamespace(**PLAIN | stored))


@pytest.mark.parametrize("backend", ["nixl", "mooncake"])
def test_a_storage_that_is_not_installed_is_named(monkeypatch, backend):
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    stored = dict(enable_hierarchical_cache=True, hicache_storage_backend=backend)
    with pytest.raises(UnsupportedFlag, match=f"--hicache-storage-backend {backend}: .*{CASES[backend]}"):
        check_fleet(SimpleNamespace(**PLAIN | stored))


def test_a_storage_of_the_users_own_is_named_by_the_user():
    stored = dict(enable_hierarchical_cache=True, hicache_storage_backend="dynamic")
    with pytest.raises(UnsupportedFlag, match="dynamic wants .*extra-config with backend_name, module_path and class"):
        check_fleet(SimpleNamespace(**PLAIN | stored))

"""What MindSpore, CANN and HCCL read of the environment is set before they do, unless the user has set it."""

import dataclasses
import os
from types import SimpleNamespace

import mindspore as ms
import pytest

from sglang.srt.arg_groups import memory_hook
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.model_executor_ms import environment, plugin
from sglang.srt.model_executor_ms.npu import mindspore_device
from sglang.srt.model_executor_ms.server import framework, frameworks
from sglang.srt.server_args import ServerArgs

SECONDS = 3
SET = environment.NPU_SETTINGS | environment.ONE_HOST_SETTINGS
# Which call reads what: MindSpore's, in the order in which a rank makes them; None: the start of a process.
READ_BY = {
    None: ("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "HCCL_OP_EXPANSION_MODE"),
    "set_context": ("MS_INTERNAL_DISABLE_CUSTOM_KERNEL_LIST",),
    "init": ("MS_ENABLE_LCCL", "HCCL_OP_EXPANSION_MODE"),
}


@pytest.fixture
def start(monkeypatch):
    """A start with --device npu on a machine with a card -> what SGLang finds in the environment when it goes on."""
    for name in SET:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(framework, "accelerator", lambda: "npu")
    for name in ("refuse_unsupported", "check_hosts"):
        monkeypatch.setattr(framework, name, lambda server_args: None)
    chosen = dataclasses.replace(plugin.MINDSPORE, configure=framework.configure, verify=lambda server_args: None)
    monkeypatch.setattr(frameworks, "decide", lambda server_args: chosen)

    def run(**flags):
        seen = {}
        server_args = ServerArgs(model_path="none", device="npu", **flags)
        plugin._resolve_with_framework(lambda server_args: seen.update(os.environ), server_args)
        return {name: seen[name] for name in SET if name in seen}

    return run


def test_everything_is_set_before_sglang_resolves_arguments_or_starts_a_process(start):
    assert start() == SET
    assert set(SET) == {name for names in READ_BY.values() for name in names}


def test_on_several_hosts_collectives_are_expanded_as_hccl_does(start):
    assert start(nnodes=2) == environment.NPU_SETTINGS


def test_what_the_user_set_stays(start, monkeypatch):
    for name in SET:
        monkeypatch.setenv(name, "the user's")
    assert start() == dict.fromkeys(SET, "the user's")


def test_without_an_npu_nothing_is_set(start, monkeypatch):
    monkeypatch.setattr(framework, "accelerator", lambda: None)
    monkeypatch.setattr(framework, "bind_processes", lambda server_args: None)
    monkeypatch.setenv(environment.PLATFORM, "")
    with pytest.raises(framework.UnsupportedFlag):
        start()
    assert not set(SET) & set(os.environ)


def test_each_call_of_mindspore_finds_what_it_reads(start, monkeypatch):
    calls = []

    def noting(name):
        def call(*_, **__):
            wanted = READ_BY.get(name, ())
            calls.append((name, {one: os.environ.get(one) for one in wanted}))

        return call

    for owner, name in ((ms, "set_device"), (ms.runtime, "set_memory"), (ms, "set_context")):
        monkeypatch.setattr(owner, name, noting(name))
    monkeypatch.setattr(ms.communication, "init", noting("init"))
    start()
    mindspore_device.start(0)
    mindspore_device.limit_memory("20GB")
    mindspore_device.connect()
    assert [name for name, _ in calls] == ["set_device", "set_context", "set_memory", "init"]
    for name, found in calls:
        assert found == {one: SET[one] for one in READ_BY.get(name, ())}


def test_what_a_decode_server_retracts_is_kept_as_tensors_of_the_host(start, monkeypatch):
    """Not in a pool of the host, whose kernels are for SGLang's own pools of NPUs."""
    seen = []
    monkeypatch.setattr(framework, "check_hosts", seen.append)
    start(disaggregation_mode="decode", disaggregation_transfer_backend="ascend")
    assert resolving_view(seen[0]).disaggregation_decode_retraction_backup == "cpu_tensor"


# ---- memory that SGLang keeps for graphs ----


def of_flags(**flags):
    graphs = SimpleNamespace(decode=SimpleNamespace(max_bs=160))
    flags = dict(disable_cuda_graph=False, disable_decode_cuda_graph=False) | flags
    return SimpleNamespace(model_impl="mindspore", device="npu", cuda_graph_config=graphs, **flags)


@pytest.mark.parametrize(
    "changed, kept",
    [
        ({}, 320),
        (dict(disable_cuda_graph=True), 0),
        (dict(disable_decode_cuda_graph=True), 0),
        (dict(device="cpu"), 0),
        (dict(model_impl="auto"), 0),
    ],
)
def test_sglang_keeps_memory_for_decode_graphs_that_it_knows_nothing_of(monkeypatch, changed, kept):
    view = of_flags()
    vars(view).update(changed)
    monkeypatch.setattr("sglang.srt.arg_groups.overrides.resolving_view", lambda server_args: view)
    assert framework.reserve_for_graphs(lambda server_args: 7.0, "arguments") == 7.0 + kept


def test_sglang_keeps_as_much_for_each_request_of_its_own_graphs(monkeypatch):
    server_args = ServerArgs(model_path="none", device="npu")
    known = resolving_view(server_args)
    assert [getattr(known, name) for name in ("disable_cuda_graph", "disable_decode_cuda_graph")] == [False, False]
    decode = SimpleNamespace(backend="full", max_bs=100)
    prefill = SimpleNamespace(backend=memory_hook.Backend.DISABLED)
    graphs = SimpleNamespace(decode=decode, prefill=prefill)
    view = SimpleNamespace(cuda_graph_config=graphs, disaggregation_mode="null")
    monkeypatch.setattr(memory_hook, "resolving_view", lambda server_args: view)
    monkeypatch.setattr(memory_hook, "resolved_view", lambda server_args: view)
    monkeypatch.setattr(memory_hook, "attn_dp_enabled_of", lambda view: False)
    assert memory_hook.reserve_for_graph_mb(server_args) == 100 * framework.GRAPH_MB
    decode.backend = memory_hook.Backend.DISABLED
    assert memory_hook.reserve_for_graph_mb(server_args) == 0

"""The two files that call a card's own interfaces, with fakes that note what is called: order and arguments."""

import importlib
import inspect
import sys
from dataclasses import replace
from types import SimpleNamespace

import mindspore as ms
import pytest
import torch

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms.cache_spec import FullAttentionSpec, SlidingWindowSpec
from sglang.srt.layers_ms.ops.ascend import kernels_collectives
from sglang.srt.layers_ms.ops.table import SingleBlock
from sglang.srt.model_executor_ms.npu import build, mindspore_device, start
from sglang.srt.model_executor_ms.parallel import groups, rendezvous
from sglang.srt.model_executor_ms.runner import device, swa_pool
from sglang.srt.model_executor_ms.runner.causal_lm import MindSporeForCausalLM

SECONDS = 1
TORCHS, MINDSPORES = 0x70, 0x80  # addresses of streams


@pytest.fixture
def calls():
    return []


def noting(calls, name, answer=0):
    def call(*arguments, **options):
        calls.append((name, *arguments, *options.values()))
        return answer

    return call


# ---- streams ----


@pytest.fixture
def acl(calls, monkeypatch):
    """CANN's Python interface, with events 1 and 2."""
    events = iter((1, 2))
    runtime = SimpleNamespace(
        create_event_ex_with_flag=lambda flag: (next(events), 0),
        record_event=noting(calls, "record"),
        stream_wait_event=noting(calls, "wait"),
    )
    monkeypatch.setitem(sys.modules, "acl", SimpleNamespace(rt=runtime))
    monkeypatch.setattr(
        torch, "npu", SimpleNamespace(current_stream=lambda: SimpleNamespace(npu_stream=TORCHS)), raising=False
    )
    monkeypatch.setattr(ms.runtime, "default_stream", lambda: SimpleNamespace(stream_ptr=MINDSPORES))
    return runtime


@pytest.fixture
def streams(acl):
    yield importlib.import_module("sglang.srt.model_executor_ms.npu.streams")
    sys.modules.pop("sglang.srt.model_executor_ms.npu.streams")


def test_each_way_one_stream_records_and_the_other_waits_for_that_event(streams, calls):
    order = streams.NpuStreams()
    order.mindspore_waits()
    order.torch_waits()
    assert calls == [("record", 1, TORCHS), ("wait", MINDSPORES, 1), ("record", 2, MINDSPORES), ("wait", TORCHS, 2)]


def test_an_event_that_is_refused_is_an_error_with_its_code(streams, acl):
    order = streams.NpuStreams()
    acl.stream_wait_event = lambda *_: 507000
    with pytest.raises(streams.StreamError, match="stream_wait_event returned 507000"):
        order.torch_waits()


# ---- MindSpore ----


def test_a_card_is_taken_and_kernels_are_chosen_and_its_memory_is_capped(calls, monkeypatch):
    monkeypatch.setattr(ms, "set_device", noting(calls, "device"))
    monkeypatch.setattr(ms.runtime, "set_memory", noting(calls, "memory"))
    monkeypatch.setattr(ms, "set_context", lambda **chosen: calls.append(("context", chosen)))
    mindspore_device.start(3)
    mindspore_device.limit_memory("20.5GB")
    context = {"mode": ms.PYNATIVE_MODE, "jit_level": "O0", "infer_boost": "on"}
    assert calls == [("device", "Ascend", 3), ("context", context), ("memory", "20.5GB")]


@pytest.mark.parametrize("skipped", [(), start.EXCHANGES])
def test_copies_between_host_and_device_and_exchanges_of_replicas_are_not_captured(calls, monkeypatch, skipped):
    monkeypatch.setattr(ms.runtime, "set_kernel_launch_capture", noting(calls, "capture"))
    monkeypatch.setattr(mindspore_device, "_capture", [])
    mindspore_device.allow_capture(skipped)
    assert mindspore_device.captures()
    assert calls == [("capture", True, ["MoveTo", *skipped])]


def test_capture_is_told_the_kernels_that_exchange_rows_by_their_primitives_names():
    sources = "".join(map(inspect.getsource, (kernels_collectives.all_gather, kernels_collectives.reduce_scatter)))
    assert all(f"ops.{name}(" in sources for name in start.EXCHANGES)


@pytest.mark.parametrize("replicas, skipped", [(1, ()), (2, start.EXCHANGES)])
def test_replicas_that_exchange_rows_capture_fewer_graphs_and_not_the_exchanges(calls, monkeypatch, replicas, skipped):
    monkeypatch.setattr(mindspore_device, "allow_capture", noting(calls, "capture"))
    monkeypatch.setattr(mindspore_device, "_capture", [])
    assert start._allowed((1, 2), replicas > 1) == (1, 2) and calls == [("capture", skipped)]
    split = start._split_by(Shard(0, 2, "tp", attn_dp_size=replicas))
    assert split == (1, 1 + len(skipped))


def test_what_torch_is_about_to_overwrite_is_waited_for(calls, monkeypatch):
    monkeypatch.setattr(ms.runtime, "synchronize", noting(calls, "synchronize"))
    device.synchronize("cpu")
    assert not calls
    device.synchronize("npu")
    assert calls == [("synchronize",)]


def test_torchs_communicator_is_handed_over_by_its_handle(calls, monkeypatch):
    monkeypatch.setattr(mindspore_device, "create_group", noting(calls, "group"))
    mindspore_device.adopt("tp", [0, 1], 0xABC)
    ((_, name, ranks, options),) = calls
    assert (name, ranks, options.hccl_config["hccl_comm"]) == ("tp", [0, 1], 0xABC)


def test_this_machine_has_no_ascend_backend_and_mindspore_says_why():
    reason = mindspore_device.loads()
    if reason is None:
        pytest.skip("this machine has CANN")
    assert ".so" in reason


# ---- ranks ----


@pytest.fixture
def adopted(monkeypatch):
    """Groups of eight ranks in two stages, in which two replicas have two ranks each, as rank 6 has them; `new` ones.

    -> function of ranks of the second stage: torch's group of them
    """
    communication = importlib.import_module("sglang.srt.model_executor_ms.npu.communication")
    of_stage = SimpleNamespace(ranks=[4, 5, 6, 7], world_size=4, device_group="SGLang's of a stage")
    of_replica = SimpleNamespace(ranks=[6, 7], world_size=2, device_group="SGLang's of a replica")
    made = []
    monkeypatch.setattr(communication, "get_parallel", lambda: SimpleNamespace(attn_tp_group=of_replica))
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda group: "hccl")
    monkeypatch.setattr(torch.distributed, "new_group", lambda ranks, backend: made.append(ranks) or (backend, ranks))
    return lambda *members: (communication._of(members, of_stage), made)


def test_sglangs_groups_are_adopted_and_ranks_of_other_replicas_get_one_of_their_own(adopted):
    assert adopted(0, 1, 2, 3) == ("SGLang's of a stage", [])
    assert adopted(2, 3) == ("SGLang's of a replica", [])
    assert adopted(0, 2) == (("hccl", [4, 6]), [[0, 2], [1, 3], [4, 6], [5, 7]])  # torch makes them on all ranks


def test_the_handle_is_that_of_this_card_once_the_communicator_was_used(monkeypatch, calls):
    communication = importlib.import_module("sglang.srt.model_executor_ms.npu.communication")
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *sizes, device: zeros(*sizes))
    monkeypatch.setattr(torch, "device", noting([], "device"))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor, group: calls.append("used"))
    monkeypatch.setattr(torch.distributed, "get_process_group_ranks", lambda group: [0, 2])
    handles = {3: 0xABC, 1: 0}
    backend = SimpleNamespace(get_hccl_comm=lambda card: calls.append(card) or handles[card])
    group = SimpleNamespace(_get_backend=lambda device: backend)
    assert communication.communicator(group, 3) == 0xABC and calls == ["used", 3]
    with pytest.raises(rendezvous.RendezvousError, match=r"no HCCL communicator for the ranks \[0, 2\]"):
        communication.communicator(group, 1)


@pytest.mark.parametrize("where", ["npu", "cpu"])
@pytest.mark.parametrize(
    "replicas, wanted", [(1, ["tp"]), (4, ["tp"]), (2, ["tp", "tp@attn_dp", "tp@attn_tp"])], ids=str
)
def test_a_rank_knows_its_share_of_tensors_and_of_experts_wherever_it_computes(monkeypatch, where, replicas, wanted):
    sizes = SimpleNamespace(tp_rank=1, tp_size=4, ep_size=2, attn_dp_size=replicas, enable_dp_lm_head=replicas > 1)
    group = SimpleNamespace(cpu_group=None, ranks=[0, 1, 2, 3])
    joined = []
    monkeypatch.setattr(groups, "get_parallel", lambda: sizes)
    flags = SimpleNamespace(moe=SimpleNamespace(moe_a2a_backend="none"))
    monkeypatch.setattr(groups, "get_exec", lambda: flags)
    monkeypatch.setattr("sglang.srt.distributed.get_tp_group", lambda: group)
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: "store")
    monkeypatch.setattr(
        "sglang.srt.model_executor_ms.npu.communication.join",
        lambda names, *_: joined.extend((name, "npu") for name in names),
    )
    monkeypatch.setattr(groups.hosts, "join", lambda name, *_: joined.append((name, "cpu")))
    shard = Shard(1, 4, "tp", expert_size=2, attn_dp_size=replicas, dp_lm_head=replicas > 1)
    join = groups.join_on_cpus
    if where == "npu":
        join = importlib.import_module("sglang.srt.model_executor_ms.npu.causal_lm").NpuForCausalLM.join
    monkeypatch.setattr(groups, "_joined", set())
    for _ in ("target", "draft"):  # both are in the groups that the process joins once
        assert groups.join_tensor_parallel((), join) == shard
    assert joined == [(name, where) for name in wanted]


@pytest.mark.parametrize(
    "stages, size, refused, divided",
    [(1, 16, False, True), (2, 16, False, False), (1, 16, True, False), (1, 32, True, True)],
)
def test_layers_with_a_window_have_a_pool_of_their_own_where_there_is_one_stage(
    monkeypatch, stages, size, refused, divided
):
    """size: of heads of the other layers; refused: by --disable-hybrid-swa-memory, which two sizes cannot do with."""
    specs = SlidingWindowSpec(2, 16, sliding_window=9), FullAttentionSpec(2, size)
    layers = [("", SimpleNamespace(layer_id=layer, cache_spec=spec)) for layer, spec in enumerate(specs)]
    model = SimpleNamespace(network=SimpleNamespace(cells_and_names=lambda: layers))
    flags = SimpleNamespace(disable_hybrid_swa_memory=refused)
    made = SimpleNamespace(model=model, model_config=SimpleNamespace(), server_args=flags, device="npu")
    monkeypatch.setattr(swa_pool, "get_parallel", lambda: SimpleNamespace(pp_size=stages))
    swa_pool.divide_pool(made)
    assert made.is_hybrid_swa == divided
    assert not divided or made.sliding_window_size == 8  # SGLang leaves out the token that looks


# ---- which decode graphs, and for how long ----


@pytest.fixture
def made(calls, monkeypatch):
    """start.runner with SGLang's list of sizes -> the buckets of the runner that is made.

    blockwise: what the one layer of its network says of its cache.
    """
    graph = SimpleNamespace(disable_cuda_graph=False, disable_decode_cuda_graph=False)
    graph.cuda_graph_config = SimpleNamespace(decode=SimpleNamespace(bs=[1, 2, 4, 8, 16]))
    monkeypatch.setattr("sglang.srt.runtime_context.get_exec", lambda: SimpleNamespace(graph=graph))
    monkeypatch.setattr(start, "npu_runner", lambda *arguments: arguments[-2])
    monkeypatch.setattr(start, "compile_kinds", lambda *_: None)
    caches = SimpleNamespace(k_caches=(0,) * 3, pages=lambda: 16)
    limits = build.Limits(tokens=64, requests=6, blocks=4)

    def runner(first=True, blockwise=False, **flags):
        vars(graph).update(flags)
        cells = [("attention", SimpleNamespace(layer_id=0, cache_spec=FullAttentionSpec(2, 16, blockwise)))]
        config = SimpleNamespace(shard=Shard())
        network = SimpleNamespace(cells_and_names=lambda: cells, config=config, whole_prompts=False)
        return start.runner(network, caches, limits, torch.zeros(4, 4), 4, 99, first)

    return runner


def test_decode_graphs_are_for_sglangs_sizes_up_to_the_most_requests(made):
    assert made() == (1, 2, 4, 6)


def test_attention_in_rounds_is_captured_for_as_many_requests_as_one_round_has_room_for(made, monkeypatch):
    capabilities = replace(start.host.capabilities(), single_block=SingleBlock("single block", 16, 3))
    monkeypatch.setattr(start.host, "capabilities", lambda: capabilities)
    assert made(blockwise=True) == (1, 2, 3)


@pytest.mark.parametrize("flag", ["disable_cuda_graph", "disable_decode_cuda_graph"])
def test_sglangs_flags_switch_capture_off(made, flag):
    assert made(**{flag: True}) == ()


def test_after_the_pool_has_moved_nothing_is_captured_again(made):
    assert made(first=False) == ()


@pytest.mark.parametrize("moved", [False, True])
def test_a_pool_that_has_moved_gets_new_views_before_the_step_is_prepared(moved):
    done = []
    model = SimpleNamespace(
        kv_caches=SimpleNamespace(stale=lambda: moved),
        _prepare=lambda pool: done.append(pool),
        model_runner=SimpleNamespace(lora_manager=None),
        runner=SimpleNamespace(prepare=lambda batch: (batch, list(done))),
    )
    assert MindSporeForCausalLM.prepare(model, "batch", "pool") == ("batch", ["pool"] if moved else [])

"""Before a card computes: refusals, its memory, the meeting of ranks, and what SGLang's bookkeeping is made to use."""

import inspect
import socket
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.mem_cache import allocation as sglangs
from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator
from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator
from sglang.srt.model_executor_ms import environment
from sglang.srt.model_executor_ms.npu import allocation, start
from sglang.srt.model_executor_ms.npu import graph_cache as graph_cache_module
from sglang.srt.model_executor_ms.npu.graph_cache import graph_cache
from sglang.srt.model_executor_ms.npu.memory import GB, memory_cap, weights_on_card, with_redundant_experts
from sglang.srt.model_executor_ms.parallel import rendezvous
from sglang.srt.model_executor_ms.parallel.groups import all_agree
from sglang.srt.model_executor_ms.runner.graphs import Limits
from sglang.srt.model_executor_ms.server import framework
from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag

SECONDS = 5


# ---- is there a card ----


def test_device_npu_is_refused_without_torch_npu_and_the_check_is_named(monkeypatch):
    monkeypatch.setattr(framework, "accelerator", lambda: None)
    with pytest.raises(UnsupportedFlag, match="torch_npu is not installed.*check_env.*--device cpu"):
        framework.refuse_without_npu()


def test_device_npu_is_refused_where_torch_npu_sees_no_card(monkeypatch):
    monkeypatch.setattr(framework, "accelerator", lambda: None)
    monkeypatch.setattr(framework.importlib.util, "find_spec", lambda name: object())
    told = (
        "torch_npu sees no card.* an environment without torch_npu serves with --device cpu"  # SGLang's is_npu raises
    )
    with pytest.raises(UnsupportedFlag, match=told):
        framework.refuse_without_npu()


def test_device_npu_is_let_in_with_a_card(monkeypatch):
    monkeypatch.setattr(framework, "accelerator", lambda: "npu")
    framework.refuse_without_npu()


# ---- memory ----


def test_mindspore_may_take_the_weights_and_what_is_left_beside_the_cache():
    cap = memory_cap(total=64 * GB, free=60 * GB, fraction=0.75, weights=20 * GB)
    assert cap == f"{1.05 * 20 + 16:.1f}GB"


def test_it_may_not_take_more_than_is_free_nor_less_than_its_pool_begins_with():
    assert memory_cap(64 * GB, 10 * GB, 0.5, 20 * GB) == "10.0GB"
    assert memory_cap(64 * GB, 60 * GB, 1.0, GB // 100) == "2.0GB"
    assert memory_cap(64 * GB, 60 * GB, 0.8, None) == "60.0GB"


def test_a_cap_is_written_as_mindspore_wants_it():
    from mindspore.runtime.memory import _check_memory_conf_valid

    _check_memory_conf_valid(memory_cap(64 * GB, 60 * GB, 0.75, 123456789))


def test_the_weights_of_a_rank_are_its_share_of_the_parameters_that_files_become(tmp_path):
    float8, four_bits = torch.zeros(8, 100).to(torch.float8_e4m3fn), torch.zeros(3, 2, 16, dtype=torch.uint8)
    tensors = {"a": torch.zeros(40, 10), "b": torch.zeros(50, dtype=torch.int8), "c": float8, "d_blocks": four_bits}
    tensors["e.qweight"] = torch.zeros(5, 8, dtype=torch.int32)  # eight values in each
    save_file(tensors, tmp_path / "model.safetensors")
    assert weights_on_card(tmp_path, "auto", 1) == 2 * 400 + 50 + 2 * 800 + 2 * 2 * 96 + 2 * 8 * 40
    assert weights_on_card(tmp_path, "auto", 4, itemsize=4) == (4 * 400 + 50 + 4 * 800 + 4 * 2 * 96 + 4 * 8 * 40) // 4
    assert weights_on_card(tmp_path, "dummy", 4) is None
    assert weights_on_card("some/model-on-the-hub", "auto", 4) is None
    assert weights_on_card(tmp_path, "pt", 4) is None  # the loader says what is wrong


def test_each_replica_of_attention_has_all_that_belongs_to_no_expert(tmp_path):
    names = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.experts.0.up_proj.weight")
    save_file({name: torch.zeros(10, 40) for name in names}, tmp_path / "model.safetensors")
    assert weights_on_card(tmp_path, "auto", 8, attn_dp_size=4) == 2 * 400 // 2 + 2 * 400 // 8


def test_experts_with_a_second_place_take_their_share_of_the_card():
    assert with_redundant_experts(1000, 8, 2) == 1250
    assert with_redundant_experts(None, 8, 2) is None


def test_a_draft_with_a_checkpoint_of_its_own_takes_its_share_of_the_card(tmp_path):
    save_file({"fc.weight": torch.zeros(40, 10)}, tmp_path / "model.safetensors")
    model = SimpleNamespace(model_path="target", load_format="auto")
    spec = SimpleNamespace(speculative_draft_model_path=str(tmp_path), speculative_draft_load_format=None)
    assert start.with_draft(1000, model, spec, 2, 4) == 1000 + 4 * 400 // 2
    assert start.with_draft(None, model, spec, 2, 4) is None
    for path, wanted in ((None, 1000), ("target", 1000), ("some/draft-on-the-hub", None)):
        spec.speculative_draft_model_path = path
        assert start.with_draft(1000, model, spec, 2, 4) == wanted


# ---- compiled graphs ----


def test_graphs_depend_on_what_drafts_and_on_how_many_drafts_are_verified(tmp_path):
    spec = SimpleNamespace(speculative_algorithm=None)
    assert start.drafts(spec) == ()
    (tmp_path / "config.json").write_text('{"eagle_config": {}}')
    spec = SimpleNamespace(speculative_algorithm="EAGLE3", speculative_num_draft_tokens=4)
    spec.speculative_draft_model_path = str(tmp_path)
    assert start.drafts(spec) == ("EAGLE3", 4, '{"eagle_config": {}}')
    for path in ("some/draft-on-the-hub", None):
        spec.speculative_draft_model_path = path
        assert start.drafts(spec) == ("EAGLE3", 4, path)


def test_graphs_are_kept_by_what_they_were_made_of(tmp_path):
    first = graph_cache("config", 128, home=tmp_path)
    assert first.is_dir() and first.is_relative_to(tmp_path)
    assert graph_cache("config", 128, home=tmp_path) == first
    assert graph_cache("config", 64, home=tmp_path) != first
    assert graph_cache("config1", 28, home=tmp_path) != first


def test_graphs_of_other_sources_are_not_found(tmp_path, monkeypatch):
    first = graph_cache(home=tmp_path)
    monkeypatch.setattr(graph_cache_module, "_sources", lambda: ["other sources"])
    assert graph_cache(home=tmp_path) != first


def test_without_a_home_graphs_are_kept_in_the_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setattr(graph_cache_module.tempfile, "gettempdir", lambda: str(tmp_path))
    assert graph_cache(home=tmp_path / "home").is_relative_to(tmp_path / "sglang-mindspore")


# ---- decode graphs ----

SIZES = [1, 2, 4, 8, 16, 24, 32, 64]


@pytest.mark.parametrize(
    "rounds, replicas, chip, first, wanted",
    [
        (False, 1, "ascend910b", True, (1, 2, 4, 8, 16, 24, 30)),
        (False, 2, "ascend910b", True, (1, 2, 4, 8, 16, 24, 30)),
        (True, 1, "ascend910b", True, (1, 2, 4, 8, 16)),  # of which all copy the keys of a round
        (True, 2, "ascend910b", True, ()),  # which do not know each other's contexts
        (False, 1, "ascend310p", True, ()),
        (False, 1, "ascend910b", False, ()),
    ],
)
def test_decode_graphs_are_captured_where_they_can_be(monkeypatch, rounds, replicas, chip, first, wanted):
    made, compiled = [], []
    decode = SimpleNamespace(decode=SimpleNamespace(bs=SIZES))
    graph = SimpleNamespace(disable_cuda_graph=False, disable_decode_cuda_graph=False, cuda_graph_config=decode)
    monkeypatch.setattr("sglang.srt.runtime_context.get_exec", lambda: SimpleNamespace(graph=graph))
    monkeypatch.setattr(start, "blockwise", lambda network: rounds)
    monkeypatch.setattr(start, "npu_runner", lambda *given: made.append(given) or "runner")
    monkeypatch.setattr(start, "compile_kinds", lambda *given: compiled.append(given))
    monkeypatch.setattr(kernels, "soc", lambda: chip)
    shard = Shard(0, replicas, "tp", attn_dp_size=replicas)
    network = SimpleNamespace(config=SimpleNamespace(shard=shard), whole_prompts=False)
    caches, limits = SimpleNamespace(k_caches=[0] * 3, pages=lambda: 9), Limits(100, 30, 7)
    assert start.runner(network, caches, limits, torch.zeros(1), 16, 131, first) == "runner"
    assert [given[-2:] for given in made] == [(wanted, all_agree if replicas > 1 else bool)]
    assert compiled == [("runner", 9, 16, 131, False)]


# ---- the meeting of ranks ----

# Stands for MindSpore's scheduler: listens where it is told to, says so, and stays.
LISTENS = """
import os, socket, time
found = socket.socket(socket.AF_INET6 if ":" in os.environ["MS_SCHED_HOST"] else socket.AF_INET)
found.bind((os.environ["MS_SCHED_HOST"], int(os.environ["MS_SCHED_PORT"])))
found.listen()
print(os.environ["MS_ROLE"], os.environ["MS_WORKER_NUM"], flush=True)
time.sleep(60)
"""


def test_the_scheduler_listens_has_its_own_log_and_ends_without_a_trace():
    found = rendezvous.Scheduler(4, 30, LISTENS)
    with socket.create_connection((found.host, found.port), timeout=5):
        assert found.log.read_text().split() == ["MS_SCHED", "4"]
    found.close()
    assert found.process.poll() is not None and not found.folder.exists()
    found.close()


def test_a_scheduler_that_does_not_start_is_tried_again_and_then_quoted():
    with pytest.raises(rendezvous.RendezvousError, match="does not start.*\n.*libhccl.so is missing"):
        rendezvous.Scheduler(4, 30, "raise SystemExit('libhccl.so is missing')")


def test_the_scheduler_ends_when_the_process_that_started_it_is_killed():
    import subprocess
    import time

    import psutil

    code = (
        "import time; from sglang.srt.model_executor_ms.parallel import rendezvous;"
        f"found = rendezvous.Scheduler(2, 30, 'import ctypes; ctypes.CDLL(None).prctl(1, 15);' + {LISTENS!r});"
        "print(found.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("host", ["127.0.0.2", "::1"])
def test_the_scheduler_listens_at_the_address_at_which_other_hosts_reach_this_one(host):
    if ":" in host:
        try:
            socket.create_server((host, 0), family=socket.AF_INET6).close()
        except OSError as error:
            pytest.skip(f"a host without IPv6: {error}")
    found = rendezvous.Scheduler(4, 30, LISTENS, host)
    assert found.host == host
    socket.create_connection((host, found.port), timeout=5).close()
    found.close()


def test_a_scheduler_that_listens_elsewhere_has_not_started(monkeypatch):
    monkeypatch.setattr(rendezvous, "ATTEMPTS", 1)
    with pytest.raises(rendezvous.RendezvousError, match="does not start"):
        rendezvous.Scheduler(4, 1, LISTENS.replace('int(os.environ["MS_SCHED_PORT"])', "0"))


def test_an_address_of_another_host_is_refused_with_what_may_be_wrong():
    with pytest.raises(rendezvous.RendezvousError, match="^192.0.2.1 is no address of this host: .*SGLANG_HOST_IP"):
        rendezvous.Scheduler(4, 30, LISTENS, "192.0.2.1")  # of no host: RFC 5737


def test_a_port_that_is_taken_meanwhile_is_left_to_who_has_it(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        places = [taken.getsockname(), rendezvous.free_address("127.0.0.2")]
        monkeypatch.setattr(rendezvous, "free_address", lambda host: places.pop(0))
        found = rendezvous.Scheduler(4, 30, LISTENS, "127.0.0.2")
        assert found.port != taken.getsockname()[1] and not places
    found.close()


def test_the_address_is_free_and_of_ipv6_where_there_is_no_ipv4(monkeypatch):
    host, port = rendezvous.free_address()
    assert host == "127.0.0.1" and 0 < port < 65536
    monkeypatch.setattr(rendezvous, "LOOPBACKS", ((socket.AF_INET, "203.0.113.1"), (socket.AF_INET6, "::1")))
    try:
        assert rendezvous.free_address()[0] == "::1"
    except rendezvous.RendezvousError as error:  # a host without IPv6
        assert "neither" in str(error)


def test_ranks_meet_when_all_have_come():
    store = torch.distributed.HashStore()
    threads = [
        threading.Thread(target=rendezvous.wait_for_ranks, args=(store, "meet", rank, 3, 20.0, 0.01))
        for rank in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_a_rank_that_does_not_come_is_named():
    store = torch.distributed.HashStore()
    store.set("mindspore/meet/2", "1")
    with pytest.raises(rendezvous.RendezvousError, match="rank 1, rank 3 of 4 did not come within 0 s to meet"):
        rendezvous.wait_for_ranks(store, "meet", 0, 4, 0.1, 0.01)


def test_roles_are_what_mindspore_reads_whatever_was_set_before_but_its_patience_is_the_users(monkeypatch):
    roles = rendezvous.roles("MS_WORKER", 1, 2, "fd00::1", 5000, "fd00::2")
    assert (roles["MS_SCHED_HOST"], roles["MS_NODE_ID"], roles["MS_WORKER_IP"]) == ("fd00::1", "1", "fd00::2")
    assert "MS_WORKER_IP" not in rendezvous.roles("MS_WORKER", 1, 2, "::1", 5000)
    monkeypatch.setenv("MS_TOPO_TIMEOUT", "900")
    for name in roles:
        monkeypatch.setenv(name, "another start's")
    environment.export(rendezvous.topology_timeout(60))
    environment.dictate(roles)
    inherited = environment.inherited({"MS_ROLE": "MS_SCHED"})
    assert (inherited["MS_TOPO_TIMEOUT"], inherited["MS_ROLE"], inherited["MS_NODE_ID"]) == ("900", "MS_SCHED", "1")


# ---- SGLang's bookkeeping of pages ----


def test_an_allocator_of_sglangs_npu_backend_is_made_where_none_is_given(monkeypatch):
    asked = {}

    def original(configurator, **known):
        asked.update(known)
        return known["token_to_kv_pool_allocator"]

    monkeypatch.setattr(allocation, "_npu_allocator", lambda configurator, sizes, pool: ("allocator of", pool))
    known = dict(sizes=1, token_to_kv_pool="pool", is_dsv4_model=False, req_to_token_pool=2)
    one_pool, two_pools = SimpleNamespace(is_hybrid_swa=False), SimpleNamespace(is_hybrid_swa=True)
    assert allocation.paged_allocator(original, one_pool, token_to_kv_pool_allocator=None, **known) == (
        "allocator of",
        "pool",
    )
    assert {name: asked[name] for name in known} == known
    assert allocation.paged_allocator(original, one_pool, token_to_kv_pool_allocator="given", **known) == "given"
    assert allocation.paged_allocator(original, two_pools, token_to_kv_pool_allocator=None, **known) is None


def test_for_two_pools_sglang_makes_an_allocator_with_two_of_its_npu_backend():
    built = inspect.getsource(KVCacheConfigurator._build_token_to_kv_pool_allocator)
    assert "elif self.is_hybrid_swa:\n                    token_to_kv_pool_allocator = SWATokenTo" in built
    source = inspect.getsource(SWATokenToKVPoolAllocator.__init__)
    assert "elif _is_npu:\n                PagedTokenToKVPoolAllocatorClass = NPUPagedTokenToKVPoolAllocator" in source


def test_sglang_builds_its_allocator_where_the_hook_is_and_chooses_by_the_name_ascend():
    method = KVCacheConfigurator._build_token_to_kv_pool_allocator
    names = set(inspect.signature(method).parameters)
    assert names >= {"sizes", "token_to_kv_pool", "is_dsv4_model", "token_to_kv_pool_allocator"}
    source = inspect.getsource(method)
    assert "if token_to_kv_pool_allocator is None:" in source
    assert 'attention_backend == "ascend"' in source and "NPUPagedTokenToKVPoolAllocator(" in source


def test_last_slots_are_sglangs_without_its_triton_kernels():
    assert list(inspect.signature(allocation.last_slots).parameters) == list(
        inspect.signature(sglangs.get_last_loc).parameters
    )
    table = torch.arange(12).reshape(3, 4)
    found = allocation.last_slots(table, torch.tensor([2, 0]), torch.tensor([3, 0]))
    assert found.tolist() == [10, -1]


def test_the_runner_leaves_mindspores_start_to_the_model():
    from sglang.srt.model_executor_ms.model_runner import MindSporeModelRunner

    assert "init_mindspore_runner" in vars(MindSporeModelRunner)
    assert MindSporeModelRunner.init_mindspore_runner(SimpleNamespace()) is None

"""What we rely on in SGLang 0.5.23 where the operator table has the caches, and where a chip has no Triton."""

import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from seams.contract import Reached, assert_in_order, names, parameters, reached, works_around

from sglang.srt.arg_groups import memory_hook
from sglang.srt.configs import model_config
from sglang.srt.hardware_backend.npu import allocator_npu
from sglang.srt.mem_cache import allocation, kv_cache_configurator
from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator
from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.mem_cache.pool_host.base import HostKVCache
from sglang.srt.mem_cache.pool_host.mamba import MambaPoolHost
from sglang.srt.model_executor_ms.runner import device_layout_cache, host_pools
from sglang.srt.model_executor_ms.runner.host_memory_saver import HostMemorySaver
from sglang.srt.utils import torch_memory_saver_adapter
from sglang.srt.utils.common import support_triton

SECONDS = 8


def test_a_pools_class_is_chosen_when_the_model_is_there():
    """memory.choose_pool_with; compiled code, since pools are made of a model that is loaded"""
    assert parameters(KVCacheConfigurator._resolve_kv_pool_class) == ["self", "kind", "default"]
    assert "model" in KVCacheConfigurator.__dataclass_fields__
    configurator = "srt.mem_cache.kv_cache_configurator"
    built = names(configurator, "KVCacheConfigurator._build_token_to_kv_pool")
    assert_in_order(built, "_resolve_kv_pool_class", "MHATokenToKVPool")
    assert "mha_pool_class" in parameters(KVCacheConfigurator._build_mha_kv_pool)


def test_the_choice_by_platform_is_no_seam_for_npus_whose_platform_is_sglangs(monkeypatch):
    """memory.choose_pool_with"""
    asked = []
    platform = SimpleNamespace(get_kv_pool_cls=lambda kind: asked.append(kind))
    monkeypatch.setattr(kv_cache_configurator, "current_platform", platform)
    KVCacheConfigurator._resolve_kv_pool_class(SimpleNamespace(), kind="mha", default=list)
    assert asked == ["mha"]


def test_on_an_npu_latent_rows_beside_states_would_be_in_two_buffers(monkeypatch):
    """memory.choose_hybrid_pool_with"""
    npu_pools = "sglang.srt.hardware_backend.npu.memory_pool_npu"
    monkeypatch.setitem(sys.modules, npu_pools, SimpleNamespace(NPUMLATokenToKVPool=set))
    monkeypatch.setattr(kv_cache_configurator, "_is_npu", True)
    config = SimpleNamespace(hf_config=SimpleNamespace(architectures=["KimiLinearForCausalLM"]))
    configurator = SimpleNamespace(use_mla_backend=True, model_config=config)
    chosen, classes = KVCacheConfigurator._hybrid_full_attention_pool_class, ("mha", "mla", "dsa")
    asked = {f"{kind}_pool_class": kind for kind in classes}
    assert chosen(configurator, **asked) is set
    assert "k_buffer" in names("srt.hardware_backend.npu.memory_pool_npu", "NPUMLATokenToKVPool.get_key_buffer")
    assert "v_buffer" in names("srt.hardware_backend.npu.memory_pool_npu", "NPUMLATokenToKVPool.get_value_buffer")
    assert device_layout_cache.choose_hybrid_pool(chosen, configurator, **asked) == "mla"
    monkeypatch.setattr(kv_cache_configurator, "_is_npu", False)
    configurator.use_mla_backend, configurator.kv_cache_dtype_str = False, "auto"
    assert device_layout_cache.choose_hybrid_pool(chosen, configurator, **asked) == "mha"


def test_a_pool_makes_its_buffers_on_the_device_that_it_names_and_counts_them_by_their_shapes():
    """device_layout_cache.MetaKVPool"""

    class OnNone(MHATokenToKVPool):
        def _create_buffers(self):
            self.device = "meta"
            super()._create_buffers()
            self.device = "cpu"

    sizes = dict(head_num=2, head_dim=16, layer_num=2, device="cpu", enable_memory_saver=False)
    pool = OnNone(48, page_size=16, dtype=torch.float16, **sizes)
    assert all(buffer.is_meta and buffer.shape == (64, 2, 16) for buffer in (*pool.k_buffer, *pool.v_buffer))
    assert pool.get_kv_size_bytes() == (2 * 64 * 2 * 16 * 2,) * 2
    assert pool.get_key_buffer(1).data_ptr() == 0


@pytest.mark.parametrize("made", [MHATokenToKVPool, MLATokenToKVPool])
def test_a_pool_of_bytes_has_a_byte_a_value_and_one_of_float8_is_not_for_every_cpu(made):
    """MindSporeModelRunner.configure_kv_cache_dtype"""
    sizes = dict(head_num=2, head_dim=16) if made is MHATokenToKVPool else dict(kv_lora_rank=24, qk_rope_head_dim=8)
    pool = made(48, page_size=16, dtype=torch.uint8, layer_num=2, device="cpu", enable_memory_saver=False, **sizes)
    assert pool.get_key_buffer(1).dtype == torch.uint8 and pool.get_key_buffer(1)[0].numel() == 32
    assert "kv_cache_dtype" in names("srt.model_executor.model_runner", "ModelRunner.configure_kv_cache_dtype")
    told = names("srt.mem_cache.kv_cache_configurator", "KVCacheConfigurator.configure")
    assert "CPU FP8 KV cache requires Intel AMX support." in told
    assert "CPU FP8 KV cache is only supported for MHA." in told


def test_an_allocator_without_triton_hands_out_pages_with_torch(monkeypatch):
    """memory.make_allocator_with"""
    pool = SimpleNamespace()
    made = PagedTokenToKVPoolAllocator(64, 16, torch.float16, "cpu", pool, need_sort=False)
    assert made.use_triton_kernels is False
    monkeypatch.setattr("sglang.srt.mem_cache.allocator.paged.alloc_extend_naive", reached)
    none, lengths = torch.zeros(1, dtype=torch.int64), torch.tensor([3])
    with pytest.raises(Reached):
        made.alloc_extend(none, none, lengths, lengths, torch.tensor([-1]), 3)


def test_the_writers_of_tables_ask_whether_there_is_triton():
    """memory.support_triton_with, memory.find_last_slots_with"""
    assert parameters(support_triton) == ["backend"]
    assert "support_triton" in names("srt.mem_cache.allocation", "write_cache_indices")
    assert "support_triton" in names("srt.model_executor.forward_batch_info", "compute_position")
    assert parameters(allocation.get_last_loc) == parameters(allocation.get_last_loc_torch)


def test_the_allocator_of_npus_uses_a_kernel_of_triton_for_few_pages_only():
    """npu.allocation"""
    assert hasattr(allocator_npu.NPUPagedTokenToKVPoolAllocator, "alloc_extend")
    found = names("srt.hardware_backend.npu.allocator_npu", "NPUPagedTokenToKVPoolAllocator.alloc_extend")
    assert_in_order(found, 200, "int")


def test_the_memory_that_is_kept_for_graphs_is_asked_for_in_mb_of_the_arguments():
    """arguments.reserve_for_graphs_with"""
    assert parameters(memory_hook.reserve_for_graph_mb) == ["server_args"]
    assert "reserve_for_graph_mb" in names("srt.arg_groups.memory_hook", "handle_gpu_memory_settings")


# ---- pools of the host ----


@works_around("copies pages by kernels of a GPU only: memory.copy_pages_with")
def test_pages_are_copied_without_a_gpu():
    """By functions that the pools' modules name, and do not have."""
    for module in ("mha", "mla", "mamba"):
        assert {copy.__name__ for copy in host_pools.COPIES} <= set(names(f"srt.mem_cache.pool_host.{module}"))
    code = (
        "from sglang.srt.mem_cache.pool_host import mha; import sys; sys.exit(not hasattr(mha, 'transfer_kv_direct'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_pool_of_the_host_is_made_with_keywords_and_has_a_tag_of_its_format():
    """memory.make_host_pools_with, memory.tag_pages"""
    made = inspect.signature(inspect.unwrap(HostKVCache.__init__)).parameters
    assert "pin_memory" in made and all(one.kind is one.KEYWORD_ONLY for name, one in made.items() if name != "self")
    made = inspect.signature(inspect.unwrap(MambaPoolHost.__init__)).parameters
    assert made["pin_memory"].kind is inspect.Parameter.KEYWORD_ONLY and issubclass(MambaPoolHost, HostKVCache)
    assert HostKVCache.storage_format_tag is None
    assert "storage_format_tag" in names("srt.managers.cache_controller", "storage_model_name")


@works_around("builds what names stored pages in the first request: memory.build_page_hashes")
def test_what_names_stored_pages_is_built_before_a_server_is_ready():
    assert "_load_native_hash_module" in names("srt.managers.scheduler", "Scheduler.__init__")


def test_memory_of_a_sleeping_server_is_released_by_an_adapter_of_one_maker():
    """memory.make_memory_saver_with, HostMemorySaver"""
    adapter = torch_memory_saver_adapter.TorchMemorySaverAdapter
    assert parameters(adapter.create) == ["enable"]
    wanted = {name for name, value in vars(adapter).items() if callable(value) or isinstance(value, property)}
    assert {name for name in wanted if name[0] != "_"} - {"create"} <= set(dir(HostMemorySaver))
    assert "memory_saver_adapter" in names("srt.managers.scheduler", "Scheduler.init_weight_updater")


def test_one_function_says_whether_a_model_has_sparse_attention():
    """arguments.attend_densely"""
    config = SimpleNamespace(architectures=["DeepseekV32ForCausalLM"], index_topk=2048)
    assert inspect.unwrap(model_config.is_deepseek_dsa)(config)
    for module in ("mem_cache.kv_cache_configurator", "model_executor.pool_configurator", "arg_groups.overrides"):
        assert "is_deepseek_dsa" in names(f"srt.{module}")
    assert "DeepseekV32ForCausalLM" in names("srt.configs.model_config")  # whose attention is MLA then


def test_two_sizes_say_how_wide_the_rows_of_latent_attention_are():
    """arguments.widen_latent_rows_with"""
    derive, sizes = model_config.ModelConfig._derive_model_shapes, {"kv_lora_rank", "qk_rope_head_dim"}
    assert parameters(inspect.unwrap(derive)) == ["self"]
    made = names("srt.configs.model_config", "ModelConfig.__init__")
    assert_in_order(made, "_derive_context_length", "_derive_model_shapes")
    for module in ("mem_cache.kv_cache_configurator", "model_executor.pool_configurator"):
        assert sizes <= set(names(f"srt.{module}"))
    assert {*sizes, "kv_cache_dim"} <= set(names("srt.mem_cache.memory_pool", "MLATokenToKVPool.__init__"))
    assert "scaling" in names("srt.configs.model_config", "ModelConfig._init_mla_scaling")  # before rows are widened

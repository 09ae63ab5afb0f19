"""What we rely on in SGLang 0.5.23 where adapters are loaded, come into slots, and belong to requests."""

import pytest
from seams.contract import assert_in_order, names, parameters

from sglang.srt.lora.backend.triton_backend import TritonLoRABackend
from sglang.srt.lora.mem_pool import LoRAMemoryPool
from sglang.srt.lora.utils import get_normalized_target_modules
from sglang.srt.managers.tp_worker import BaseTpWorker
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.model_executor_ms.model_runner import MindSporeModelRunner
from sglang.srt.model_executor_ms.runner.lora import MindSporeLoRAManager, MindSporeLoRAMemoryPool
from sglang.srt.model_executor_ms.seams import batches

SECONDS = 1
OWN = {  # what they add to SGLang's
    MindSporeLoRAManager: {"__init__", "_forgetting", "_prepare", "_read", "_check", "_names", "_wanted", "_heads"}
    | {"note_slots", "refuse", "_slots", "follow_experts"},
    MindSporeLoRAMemoryPool: {"__init__", "_write", "rewrite"},
}


@pytest.mark.parametrize("ours", OWN)
def test_what_is_overridden_is_there_with_the_same_parameters(ours):
    """lora.MindSporeLoRAManager, lora.MindSporeLoRAMemoryPool"""
    overridden = {name for name, value in vars(ours).items() if callable(value)} - OWN[ours]
    assert overridden
    for name in overridden - {"load_lora_weight_to_buffer"}:
        assert parameters(getattr(ours, name)) == parameters(getattr(ours.__mro__[1], name)), name
    given = parameters(LoRAMemoryPool.load_lora_weight_to_buffer)
    assert given[:4] == ["self", "uid", "buffer_id", "lora_adapter"]


def test_the_manager_is_made_when_the_model_is_loaded_and_before_memory_is_measured():
    """model_runner.MindSporeModelRunner.init_lora_manager; compiled code, since it takes a model"""
    assert parameters(MindSporeModelRunner.init_lora_manager) == parameters(ModelRunner.init_lora_manager) == ["self"]
    started = names("srt.model_executor.model_runner")
    assert_in_order(started, "maybe_init_lora_manager", "maybe_enable_batch_invariant_mode", "configure_kv_cache_dtype")
    assert "init_lora_manager" in names("srt.model_executor.model_runner", "ModelRunner.maybe_init_lora_manager")


def test_a_manager_reads_adapters_then_shapes_then_makes_room_then_slots():
    """lora.MindSporeLoRAManager; compiled code"""
    found = names("srt.lora.lora_manager", "LoRAManager.init_state")
    assert_in_order(
        found, "init_lora_adapters", "init_lora_shapes", "init_lora_modules", "init_memory_pool", "update_lora_info"
    )
    loaded = names("srt.lora.lora_manager", "LoRAManager._load_lora_adapter")
    assert_in_order(loaded, "validate_new_adapter", "configs", "load_lora_weights", "lora_refs")
    assert "parameters" in names("srt.lora.lora_manager", "LoRAManager.__init__")


def test_an_adapter_of_tensors_is_read_by_a_method_of_the_worker():
    """control.load_adapters_with; compiled code: whatever is wrong with the tensors is raised before the manager has
    them, or is its answer.
    """
    assert parameters(BaseTpWorker.load_lora_adapter_from_tensors) == ["self", "recv_req"]
    found = names("srt.managers.tp_worker", "BaseTpWorker.load_lora_adapter_from_tensors")
    assert_in_order(found, "deserialize_own_rank", "reconstruct_tensors", "expected_checksums", "model_runner")
    assert_in_order(found, "model_runner", "load_lora_adapter_from_tensors", "to_ref", "config_dict")
    assert "added_tokens_config" in found


def test_adapters_of_a_batch_are_in_their_slots_before_the_step_is_prepared():
    """batches.note_lora_slots, batches.dp_lora_slots; compiled code. What a batch is copied to has its fields only."""
    assert "fetch_new_loras" in names("srt.model_executor.forward_batch_info", "ForwardBatch.init_new")
    assert "replace" in names("srt.model_executor.runner.eager_runner", "EagerRunner.load_batch")
    assert "lora_ids" in ForwardBatch.__dataclass_fields__ and not hasattr(ForwardBatch, "__slots__")
    batch = ForwardBatch.__new__(ForwardBatch)
    assert batches.lora_slots(batch) is None
    batches.note_lora_slots(batch, [1, -1])
    assert batches.lora_slots(batch) == [1, -1]


def test_attention_dp_ranks_prepare_adapters_once_in_each_pass_and_those_are_pinned():
    """lora.MindSporeLoRAManager.prepare_lora_batch; compiled code: all ranks must call it, and no other time."""
    passes = names("srt.model_executor.model_runner", "ModelRunner._prepare_eager_forward_batch")
    assert_in_order(passes, "prepare_mlp_sync_batch", "attn_dp_enabled", "prepare_lora_batch")
    made = names("srt.model_executor.forward_batch_info", "ForwardBatch.init_new")
    assert_in_order(made, "attn_dp_enabled", "fetch_new_loras", "prepare_lora_batch")
    assert "pinned" in names("srt.lora.lora_manager", "LoRAManager.validate_new_adapter")
    assert "all_gather_object" in names("srt.lora.lora_manager", "LoRAManager.prepare_lora_batch")
    assert TritonLoRABackend.supports_dp_attention


def test_one_of_the_matrices_that_are_multiplied_as_one_stands_for_all():
    """lora.MindSporeLoRAManager.init_lora_shapes"""
    assert get_normalized_target_modules({"q_proj"}) == get_normalized_target_modules({"v_proj"}) == {"qkv_proj"}
    assert get_normalized_target_modules({"up_proj", "dense_h"}) == {"gate_up_proj", "dense_h"}
    assert get_normalized_target_modules({"all"}) == {"all"}


def test_slots_are_chosen_alike_on_all_ranks():
    """lora.MindSporeLoRAMemoryPool; compiled code: which adapter goes must not depend on a process's hash seed"""
    assert_in_order(names("srt.lora.mem_pool", "LoRAMemoryPool.prepare_lora_batch"), "sorted", "select_victim")
    assert "remove_lora" in names("srt.lora.lora_manager", "LoRAManager._unload_lora_adapter")

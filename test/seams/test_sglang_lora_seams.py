"""What we rely on in SGLang 0.5.23 where adapters are loaded, come into slots, and belong to requests."""

import pytest
from seams.contract import assert_in_order, names, parameters

from sglang.srt.lora.mem_pool import LoRAMemoryPool
from sglang.srt.lora.utils import get_normalized_target_modules
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.model_executor_ms.model_runner import MindSporeModelRunner
from sglang.srt.model_executor_ms.runner.lora import MindSporeLoRAManager, MindSporeLoRAMemoryPool
from sglang.srt.model_executor_ms.seams import batches

SECONDS = 1
OWN = {  # what they add to SGLang's
    MindSporeLoRAManager: {"__init__", "_forgetting", "_keep", "_check", "_names", "_wanted", "_heads", "note_slots"},
    MindSporeLoRAMemoryPool: {"__init__", "_write"},
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


def test_adapters_of_a_batch_are_in_their_slots_before_the_step_is_prepared():
    """batches.note_lora_slots; compiled code. What a batch is copied to has its fields, and nothing else."""
    assert "fetch_new_loras" in names("srt.model_executor.forward_batch_info", "ForwardBatch.init_new")
    assert "replace" in names("srt.model_executor.runner.eager_runner", "EagerRunner.load_batch")
    assert "lora_ids" in ForwardBatch.__dataclass_fields__ and not hasattr(ForwardBatch, "__slots__")
    batch = ForwardBatch.__new__(ForwardBatch)
    assert batches.lora_slots(batch) is None
    batches.note_lora_slots(batch, [1, -1])
    assert batches.lora_slots(batch) == [1, -1]


def test_one_of_the_matrices_that_are_multiplied_as_one_stands_for_all():
    """lora.MindSporeLoRAManager.init_lora_shapes"""
    assert get_normalized_target_modules({"q_proj"}) == get_normalized_target_modules({"v_proj"}) == {"qkv_proj"}
    assert get_normalized_target_modules({"up_proj", "dense_h"}) == {"gate_up_proj", "dense_h"}
    assert get_normalized_target_modules({"all"}) == {"all"}


def test_slots_are_chosen_alike_on_all_ranks():
    """lora.MindSporeLoRAMemoryPool; compiled code: which adapter goes must not depend on a process's hash seed"""
    assert_in_order(names("srt.lora.mem_pool", "LoRAMemoryPool.prepare_lora_batch"), "sorted", "select_victim")
    assert "remove_lora" in names("srt.lora.lora_manager", "LoRAManager._unload_lora_adapter")

"""What we rely on in SGLang 0.5.23 from the model to its requests, and what we work around; a test names one seam.

What a whole server would have to run is looked up in SGLang's compiled code (seams.contract.names).
"""

import contextlib
import dataclasses
import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from seams.contract import assert_in_order, names, parameters, works_around

from sglang.srt.configs.model_config import ModelConfig, ModelImpl
from sglang.srt.layers.attention import attention_registry
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.layers.logits_processor import LogitsProcessor, should_apply_lm_head_quant_method
from sglang.srt.layers.sampler import Sampler
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.model_executor import model_runner
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode
from sglang.srt.model_executor.model_runner_components import (
    attention_backend_setup,
    cuda_graph_setup,
    load_model_utils,
    weight_updater,
)
from sglang.srt.model_executor.model_runner_components.weight_exporter import WeightExporter
from sglang.srt.model_executor_ms.runner.weights import MindSporeWeightExporter, MindSporeWeightUpdater
from sglang.srt.model_executor_ms.seams import batches, runner
from sglang.srt.model_loader import loader, utils
from sglang.srt.utils.weight_checker import WeightChecker

RUNNER = "srt.model_executor.model_runner"

SECONDS = 10


# ---- the model ----


def test_every_architecture_is_mindsporeforcausallm_with_model_impl_mindspore(monkeypatch):
    """runner.register_model"""
    registry = SimpleNamespace(is_arch_supported=lambda name: False, resolve_model_cls=lambda known: (dict, known[0]))
    monkeypatch.setattr("sglang.srt.models.registry.ModelRegistry", registry)
    config = SimpleNamespace(
        hf_config=SimpleNamespace(architectures=["OfATestForCausalLM"]),
        model_impl=ModelImpl.MINDSPORE,
        quantization=None,
    )
    assert utils.get_model_architecture(config) == (dict, "MindSporeForCausalLM")


def test_an_external_package_defers_the_import_of_sglangs_models():
    """runner.register_model"""
    code = "from sglang.srt.model_executor_ms.seams import runner; import sys; runner.register_model(dict);"
    code += "from sglang.srt.models.registry import ModelRegistry as known;"
    code += "assert known.resolve_model_cls(['MindSporeForCausalLM']) == (dict, 'MindSporeForCausalLM');"
    code += "sys.exit('sglang.srt.models.llama' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_model_notes_the_shared_experts_that_it_fuses():
    """Our loader builds models without SGLang's function, which would know of the target's server arguments only."""
    build = names("srt.model_loader.loader", "_initialize_model")
    assert_in_order(build, "resolve_shared_experts_config", "shared_experts_config")
    assert parameters(loader.resolve_shared_experts_config) == ["model_class", "hf_config", "quant_config"]


def test_a_model_config_has_what_a_model_is_built_of():
    """MindSporeForCausalLM.__init__"""
    config = names("srt.configs.model_config", "ModelConfig")
    assert {"hf_config", "model_path", "revision", "quantization", "context_len", "is_generation"} <= set(config)
    assert "dtype" in config


def test_all_weights_come_through_one_loader():
    """runner.replace_loader"""
    assert parameters(loader.get_model_loader) == ["load_config", "model_config"]
    assert load_model_utils.get_model_loader is weight_updater.get_model_loader
    assert loader.BaseModelLoader.preloaded_weights_bytes == 0
    loads = names("srt.model_executor.model_runner_components.load_model_utils", "load_model_with_memory_saver")
    assert_in_order(loads, "get_model_loader", "load_model", "model_config")
    assert {"model_config", "device_config"} <= set(parameters(loader.BaseModelLoader.load_model))


def test_a_model_says_why_its_weights_are_not_exported():
    """MindSporeForCausalLM._weight_export_error"""
    model = torch.nn.Module()
    model._weight_export_error = "no export"
    exporter = WeightExporter(tp_rank=0, tp_size=1, gpu_id=0, get_model_path=str, get_model=lambda: model)
    with pytest.raises(RuntimeError, match="no export"):
        exporter.save_remote_model("somewhere")


def test_single_weights_are_handed_out_by_the_exporter_and_checked_by_the_checker():
    """MindSporeWeightExporter, MindSporeWeightChecker"""
    fields = {one.name for one in dataclasses.fields(WeightExporter) if one.default_factory is dataclasses.MISSING}
    assert fields == set(parameters(MindSporeWeightExporter.__init__)) - {"self", "_weights_send_group"}
    assert parameters(WeightExporter.get_weights_by_name)[1:] == ["name", "truncate_size"]
    made = names(RUNNER, "ModelRunner.__init__")
    assert_in_order(made, "_weight_checker", "init_weight_updater", "init_weight_exporter")
    assert parameters(WeightChecker._compare) == ["self", "allow_quant_error", "skip_tensor_list"]
    held = {"_snapshot_tensors", "_snapshot_arena", "_skip_compare_names"}
    assert held <= set(names("srt.utils.weight_checker", "WeightChecker._compare"))
    assert {"_model_state", "_get_model"} <= set(names("srt.utils.weight_checker", "WeightChecker._compute_checksum"))


def test_updates_are_those_of_the_updater_whose_answers_are_sent():
    """MindSporeWeightUpdater"""
    manager = names("srt.managers.scheduler_components.weight_updater", "SchedulerWeightUpdaterManager")
    assert_in_order(manager, "receive_weights_from_distributed", "load_weights_from_distributed")
    for name in ("begin_weight_update", "end_weight_update", "load_weights_from_distributed"):
        own, theirs = (getattr(one, name) for one in (MindSporeWeightUpdater, weight_updater.WeightUpdater))
        assert parameters(own) == parameters(theirs), name
    # Later stages are members of no group, and are given nothing by one.
    received = inspect.signature(weight_updater.WeightUpdater.receive_weights_from_distributed).parameters.values()
    assert all(one.kind is one.KEYWORD_ONLY for one in list(received)[1:])
    assert parameters(MindSporeWeightUpdater.destroy_weights_update_group) == ["self", "group_name"]


def test_the_weight_updater_has_these_fields_and_methods():
    """MindSporeModelRunner.init_weight_updater"""
    updater = weight_updater.WeightUpdater
    fields = {field.name for field in dataclasses.fields(updater) if field.default_factory is dataclasses.MISSING}
    assert fields <= set(names(RUNNER, "ModelRunner.init_weight_updater"))
    assert fields <= set(parameters(MindSporeWeightUpdater.__init__))
    assert parameters(updater.update_weights_from_disk)[1:3] == ["model_path", "load_format"]
    for refused in ("init_weights_update_group", "load_weights_from_distributed", "update_weights_from_tensor"):
        assert hasattr(updater, refused)


def test_the_model_of_quantized_weights_is_built_without_sglangs_layers():
    """runner.leave_quantization_to_model, runner.note_checkpoint"""
    config = SimpleNamespace(quantization="w8a8_int8", model_path="before")
    runner.leave_quantization_to_model(config)
    runner.note_checkpoint(config, "after")
    assert (config.quantization, config.requested_quantization) == (None, "w8a8_int8")
    assert config.model_path == "after"
    assert "quantization" in names("srt.model_loader.loader", "_get_quantization_config")


def test_a_models_record_takes_notes_and_each_process_makes_its_own():
    """runner.note_weights, runner.noted_weights"""
    config = object.__new__(ModelConfig)
    config.model_path = "hub/name"
    assert runner.noted_weights(config) == ("hub/name", "dummy")
    runner.note_weights(config, "folder", "auto")
    assert runner.noted_weights(config) == ("folder", "auto")
    assert "from_server_args" in names("srt.managers.tp_worker", "TpModelWorker._init_model_config")


# ---- the runner ----


def test_the_runner_is_looked_up_where_it_is_built():
    """runner.replace_runner"""
    built = names("srt.managers.tp_worker", "TpModelWorker._init_model_runner")
    assert {"sglang.srt.model_executor.model_runner", "ModelRunner"} <= set(built)
    assert "ModelRunner" in names("benchmark.one_batch", "load_model")


def test_the_runner_prepares_forward_passes_once_pools_and_backends_exist():
    """MindSporeModelRunner.init_cuda_graphs"""
    assert parameters(model_runner.ModelRunner.init_cuda_graphs) == ["self", "capture_decode_cuda_graph"]
    found = names("srt.managers.scheduler")
    assert_in_order(found, "alloc_memory_pool", "init_attention_backends", "init_cuda_graphs")


def test_no_decode_graph_is_captured_for_mindspore(monkeypatch):
    """MindSporeModelRunner.init_cuda_graphs"""
    model = SimpleNamespace(model_impl="mindspore")
    monkeypatch.setattr(cuda_graph_setup, "get_model", lambda: model)
    capture = cuda_graph_setup.capture_decode_graph
    speculative = SimpleNamespace(is_speculative=lambda: False)
    made = SimpleNamespace(is_draft_worker=False, spec_algorithm=speculative, is_generation=True)
    assert capture(model_runner=made).runner is None  # before it asks which device this is, and which graphs


def test_mindspores_communication_is_started_by_a_method_of_the_runner(monkeypatch):
    """MindSporeModelRunner.init_mindspore_runner"""
    assert "init_mindspore_runner" in names(RUNNER, "ModelRunner.__init__")
    assert parameters(model_runner.ModelRunner.init_mindspore_runner) == ["self"]


@pytest.mark.parametrize("step", ["_execute_decode", "_execute_extend"])
def test_a_forward_pass_plans_first_and_then_calls_the_model(step):
    """MindSporeAttnBackend.init_forward_metadata, MindSporeForCausalLM.forward; a pass wants a whole runner"""
    found = names("srt.model_executor.runner.eager_runner", f"EagerRunner.{step}")
    assert_in_order(found, "load_batch", "init_forward_metadata", "forward", "input_ids", "positions")


def test_the_sampler_is_made_before_the_model_is_loaded_and_takes_the_largest_logits_of_greedy_steps(monkeypatch):
    """HostSampler"""
    assert_in_order(names(RUNNER, "ModelRunner.initialize"), "create_sampler", "load_model")
    assert parameters(Sampler.forward)[:4] == ["self", "logits_output", "sampling_info", "return_logprob"]
    steps = names("srt.layers.sampler", "Sampler.forward")
    assert_in_order(steps, "_preprocess_logits", "sampling_mask_batch_indices", "is_all_greedy", "argmax")
    assert_in_order(steps, "argmax", "_sync_token_ids_across_tp")


def test_pipeline_parallelism_is_read_off_the_signature_of_forward():
    """MindSporeForCausalLM.forward"""
    assert_in_order(names(RUNNER), "pp_proxy_tensors", "signature", "forward", "parameters")


def test_an_attention_backend_is_registered_by_name_and_built_of_the_runner():
    """runner.register_attention_backend"""
    runner.register_attention_backend("of a test", lambda runner: ("built of", runner))
    build = attention_backend_setup._build_full_attention_backend_from_str
    try:
        made = SimpleNamespace(init_new_workspace=False)
        given = dict.fromkeys(parameters(build), made) | dict(backend_str="of a test")
        assert build(**given) == ("built of", made)
    finally:
        attention_registry.ATTENTION_BACKENDS.pop("of a test")


def test_an_attention_backend_asks_for_the_host_mirrors_of_lengths():
    """MindSporeAttnBackend.needs_cpu_seq_lens"""
    assert AttentionBackend.needs_cpu_seq_lens is True


def test_a_batch_has_the_host_mirrors_that_a_step_is_made_of():
    """step_inputs.from_forward_batch"""
    fields = {field.name for field in dataclasses.fields(ForwardBatch)}
    assert {"seq_lens_cpu", "extend_seq_lens_cpu", "req_pool_indices", "out_cache_loc", "forward_mode"} <= fields


def test_the_logits_processor_takes_hidden_states_and_leaves_the_head_to_its_quant_method():
    """lm_head.LMHead"""
    first = ["self", "input_ids", "hidden_states", "lm_head", "logits_metadata"]
    assert parameters(LogitsProcessor.forward)[:5] == first
    head = SimpleNamespace(weight=torch.zeros(1), apply=lambda lm_head, hidden, bias: (lm_head is head, hidden, bias))
    head.quant_method = head
    assert should_apply_lm_head_quant_method(head, head)
    processor = LogitsProcessor.__new__(LogitsProcessor)
    torch.nn.Module.__init__(processor)
    with contextlib.suppress(AttributeError):  # of what it does with logits afterwards
        assert processor._compute_lm_head("hidden", head, None) == (True, "hidden", None)


# ---- requests ----


def test_every_request_is_checked_before_it_is_sent_to_the_scheduler():
    """processes.check_requests_with"""
    assert parameters(TokenizerManager._validate_one_request) == ["self", "obj", "input_ids"]
    manager = names("srt.managers.tokenizer_manager", "TokenizerManager")
    # Of one request, of each of a batch, and where it is defined.
    assert manager.count("_validate_one_request") >= 3


@works_around("sends any JSON as positional_embed_overrides to the scheduler: request_validation.py")
def test_overrides_of_embeddings_are_checked_by_sglang():
    check = names("srt.managers.tokenizer_manager", "TokenizerManager._validate_one_request")
    always = check[check.index("_validate_joint_schema_request") :]  # before it: only for one kind of model
    assert "positional_embed_overrides" in always


def test_embeddings_in_place_of_tokens_are_given_to_the_model():
    """request_validation.TENSORS"""
    assert "input_embeds" in names(RUNNER, "ModelRunner._extend_forward_kwargs")
    assert "input_embeds" in {field.name for field in dataclasses.fields(ForwardBatch)}


def test_whole_blocks_of_quantized_experts_are_asked_for_by_a_method_of_the_runner(monkeypatch):
    """MindSporeModelRunner.check_quantized_moe_compatibility"""
    found = names(RUNNER, "ModelRunner.__init__")
    assert_in_order(found, "initialize", "check_quantized_moe_compatibility")
    assert parameters(model_runner.ModelRunner.check_quantized_moe_compatibility) == ["self"]


def test_a_batch_says_whether_its_requests_show_something():
    """batches.has_media"""
    shown = SimpleNamespace(
        contains_audio_inputs=lambda: False, contains_video_inputs=lambda: False, contains_image_inputs=lambda: True
    )
    prefill, decode, verify = ForwardMode.EXTEND, ForwardMode.DECODE, ForwardMode.TARGET_VERIFY
    cases = (prefill, [None, shown], True), (prefill, None, False), (decode, [shown], False), (verify, [shown], False)
    for mode, inputs, found in cases:
        batch = object.__new__(ForwardBatch)
        batch.forward_mode, batch.mm_inputs = mode, inputs
        assert batches.has_media(batch) is found

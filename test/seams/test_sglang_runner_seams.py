"""What we rely on in SGLang 0.5.23 from the model to its requests, and what we work around; a test names one."""

import dataclasses
import importlib
import inspect
from types import SimpleNamespace

import pytest
import torch
from seams.sglang_source import assert_in_order, parameters, source, works_around

from sglang.srt.layers.attention import attention_registry
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.layers.logits_processor import LogitsProcessor, should_apply_lm_head_quant_method
from sglang.srt.layers.sampler import Sampler
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.model_executor import model_runner
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.model_executor.model_runner_components import cuda_graph_setup, load_model_utils, weight_updater
from sglang.srt.model_executor.model_runner_components.weight_exporter import WeightExporter
from sglang.srt.model_executor.runner.eager_runner import EagerRunner
from sglang.srt.model_loader import loader

SECONDS = 1


# ---- the model ----


def test_every_architecture_is_mindsporeforcausallm_with_model_impl_mindspore():
    architecture = source("srt.model_loader.utils:get_model_architecture")
    assert_in_order(
        architecture,
        "ModelImpl.MINDSPORE",
        '["MindSporeForCausalLM"]',
        "ModelRegistry.resolve_model_cls(architectures)",
    )


def test_an_external_package_defers_the_import_of_sglangs_models():
    registry = source("srt.models.registry")
    assert_in_order(registry, "envs.SGLANG_EXTERNAL_MODEL_PACKAGE.get()", "_default_models_loaded = False", "else:")
    assert_in_order(registry, "def _load_default_models", "if self._default_models_loaded:", "return")


def test_a_model_notes_the_shared_experts_that_it_fuses():
    """Our loader builds models without SGLang's function, which would know of the target's server arguments only."""
    build = source("srt.model_loader.loader:_initialize_model")
    assert_in_order(build, "resolve_shared_experts_config(", "model.shared_experts_config = shared_experts")
    assert parameters(loader.resolve_shared_experts_config) == ["model_class", "hf_config", "quant_config"]


def test_a_model_config_has_what_a_model_is_built_of():
    config = source("srt.configs.model_config:ModelConfig")
    for name in ("hf_config", "model_path", "revision", "quantization", "context_len", "is_generation", "dtype"):
        assert f"self.{name} =" in config or f"self.{name}:" in config, name


def test_all_weights_come_through_one_loader():
    assert parameters(loader.get_model_loader) == ["load_config", "model_config"]
    assert load_model_utils.get_model_loader is weight_updater.get_model_loader
    assert loader.BaseModelLoader.preloaded_weights_bytes == 0
    assert_in_order(
        source("srt.model_executor.model_runner_components.load_model_utils:load_model_with_memory_saver"),
        "get_model_loader(",
        "loader.load_model(",
        "model_config=model_config",
        "device_config=device_config",
    )


def test_a_model_says_why_its_weights_are_not_exported():
    model = torch.nn.Module()
    model._weight_export_error = "no export"
    exporter = WeightExporter(tp_rank=0, tp_size=1, gpu_id=0, get_model_path=str, get_model=lambda: model)
    with pytest.raises(RuntimeError, match="no export"):
        exporter.save_remote_model("somewhere")
    assert exporter.get_weights_by_name("lm_head.weight") is None


def test_the_weight_updater_has_these_fields_and_methods():
    updater = weight_updater.WeightUpdater
    fields = {field.name for field in dataclasses.fields(updater) if field.default_factory is dataclasses.MISSING}
    built = source("srt.model_executor.model_runner:ModelRunner:init_weight_updater")
    assert fields == {line.split("=")[0].strip() for line in built.splitlines() if "=" in line and "," in line}
    assert parameters(updater.update_weights_from_disk)[1:3] == ["model_path", "load_format"]
    for refused in ("init_weights_update_group", "load_weights_from_distributed", "update_weights_from_tensor"):
        assert hasattr(updater, refused)


# ---- the runner ----


def test_the_runner_is_looked_up_where_it_is_built():
    built = source("srt.managers.tp_worker:TpModelWorker:_init_model_runner")
    assert_in_order(built, "from sglang.srt.model_executor.model_runner import ModelRunner", "ModelRunner(")
    assert "= ModelRunner(" in source("benchmark.one_batch:load_model")


def test_the_runner_prepares_forward_passes_once_pools_and_backends_exist():
    assert parameters(model_runner.ModelRunner.init_cuda_graphs) == ["self", "capture_decode_cuda_graph"]
    assert_in_order(
        source("srt.managers.scheduler"), ".alloc_memory_pool(", ".init_attention_backends(", ".init_cuda_graphs("
    )


def test_no_decode_graph_is_captured_for_mindspore():
    captured = inspect.getsource(cuda_graph_setup.capture_decode_graph)
    assert_in_order(captured, "ModelImpl.MINDSPORE", "return no_capture", "GraphRunnerCls(")


def test_mindspores_communication_is_started_on_an_npu_only():
    assert "ModelImpl.MINDSPORE and _is_npu" in source(
        "srt.model_executor.model_runner:ModelRunner:init_mindspore_runner"
    )


@pytest.mark.parametrize("step", ["_execute_decode", "_execute_extend"])
def test_a_forward_pass_plans_first_and_then_calls_the_model(step):
    assert_in_order(
        inspect.getsource(getattr(EagerRunner, step)),
        "self.load_batch(forward_batch",
        "attn_backend.init_forward_metadata(forward_batch)",
        "model_runner.model.forward(",
        "forward_batch.input_ids,",
        "forward_batch.positions,",
        "forward_batch,",
    )


def test_the_sampler_is_made_before_the_model_is_loaded_and_takes_the_largest_logits_of_greedy_steps():
    start = source("srt.model_executor.model_runner:ModelRunner:initialize")
    assert_in_order(start, "self.sampler = create_sampler()", "load_model(")
    assert parameters(Sampler.forward)[:4] == ["self", "logits_output", "sampling_info", "return_logprob"]
    assert_in_order(
        source("srt.layers.sampler:Sampler:forward"),
        "self._preprocess_logits(logits, sampling_info)",
        "sampling_mask_batch_indices = sampling_info.sampling_mask_batch_indices",
        "if sampling_info.is_all_greedy:",
        "torch.argmax(logits, -1)",
        "if return_logprob:",
        "self._sync_token_ids_across_tp(batch_next_token_ids, sampling_info)",
        "if return_sampling_mask:",
        "return batch_next_token_ids",
    )


def test_pipeline_parallelism_is_read_off_the_signature_of_forward():
    assert '"pp_proxy_tensors" in inspect.signature(self.model.forward)' in inspect.getsource(model_runner)


def test_an_attention_backend_is_registered_by_name_and_built_of_the_runner():
    attention_registry.register_attention_backend("of a test")(lambda runner: ("built of", runner))
    assert attention_registry.ATTENTION_BACKENDS.pop("of a test")("runner") == ("built of", "runner")
    setup = source(
        "srt.model_executor.model_runner_components.attention_backend_setup:_build_full_attention_backend_from_str"
    )
    assert "ATTENTION_BACKENDS[backend_str](model_runner)" in setup


def test_an_attention_backend_asks_for_the_host_mirrors_of_lengths():
    assert AttentionBackend.needs_cpu_seq_lens is True


def test_a_batch_has_the_host_mirrors_that_a_step_is_made_of():
    fields = {field.name for field in dataclasses.fields(ForwardBatch)}
    assert {"seq_lens_cpu", "extend_seq_lens_cpu", "req_pool_indices", "out_cache_loc", "forward_mode"} <= fields


def test_the_logits_processor_takes_hidden_states_and_leaves_the_head_to_its_quant_method():
    assert parameters(LogitsProcessor.forward)[:5] == [
        "self",
        "input_ids",
        "hidden_states",
        "lm_head",
        "logits_metadata",
    ]
    head = SimpleNamespace(weight=torch.zeros(1), apply=print)
    assert should_apply_lm_head_quant_method(head, head)
    assert "quant_method.apply(lm_head, hidden_states, embedding_bias)" in inspect.getsource(LogitsProcessor)


# ---- requests ----


def test_every_request_is_checked_before_it_is_sent_to_the_scheduler():
    assert parameters(TokenizerManager._validate_one_request) == ["self", "obj", "input_ids"]
    manager = inspect.getsource(importlib.import_module("sglang.srt.managers.tokenizer_manager"))
    assert manager.count("self._validate_one_request(") == 2  # of one request, and of each of a batch


@works_around("sends any JSON as positional_embed_overrides to the scheduler: request_validation.py")
def test_overrides_of_embeddings_are_checked_by_sglang():
    check = source("srt.managers.tokenizer_manager:TokenizerManager:_validate_one_request")
    always = check[check.index("self._validate_joint_schema_request") :]  # before it: only for one kind of model
    assert "positional_embed_overrides" in always


def test_embeddings_in_place_of_tokens_are_given_to_the_model():
    assert 'kwargs["input_embeds"]' in inspect.getsource(model_runner.ModelRunner._extend_forward_kwargs)


def test_whole_blocks_of_quantized_experts_are_asked_for_by_a_method_of_the_runner():
    asked = "self.check_quantized_moe_compatibility()"
    assert_in_order(source("srt.model_executor.model_runner:ModelRunner:__init__"), "self.initialize()", asked)
    assert source("srt.model_executor.model_runner:ModelRunner:check_quantized_moe_compatibility")

"""What we rely on in SGLang 0.5.23 from its start to its processes, and what we work around; a test names one seam.

Most of SGLang's start cannot be run in a test of milliseconds: those tests read its source, at the lines we rely on.
A workaround's test is expected to fail: where it passes, with a later SGLang, the workaround can go.
"""

import importlib
import inspect
import pickle
import subprocess
import sys

import msgspec
import pytest
from seams.sglang_source import assert_in_order, parameters, source, works_around

import sglang
from sglang.srt.arg_groups import overrides, resolution_hooks, validation_hook
from sglang.srt.entrypoints.engine import Engine
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.runtime_context import get_platform, override_platform, publish
from sglang.srt.server_args import ServerArgs, prepare_server_args

SECONDS = 5


def record(**fields) -> ServerArgs:
    return ServerArgs(model_path="no/such/model", **fields)


def test_the_version_is_the_one_these_seams_were_tried_with():
    assert sglang.__version__ == "0.5.23"


def test_methods_of_quantization_are_known_by_one_dict_that_can_be_added_to():
    from sglang.srt.configs import model_config
    from sglang.srt.layers import quantization

    assert model_config.QUANTIZATION_METHODS is quantization.QUANTIZATION_METHODS
    assert "supported_quantization = [*QUANTIZATION_METHODS]" in source(
        "srt.configs.model_config:ModelConfig:_verify_quantization"
    )


def test_mxfp4_is_made_bfloat16_where_sglang_adjusts_to_the_model():
    assert 'overrides["dtype"] = "bfloat16"' in source("srt.arg_groups.model_overrides.gpt_oss")
    adjust = source("srt.arg_groups.model_hook:handle_model_specific_adjustments")
    assert "server_args._resolved_overrides.extend(model_overrides)" in adjust


def test_an_architecture_is_known_when_sglang_adjusts_to_the_model():
    adjust = source("srt.arg_groups.model_hook:handle_model_specific_adjustments")
    assert_in_order(adjust, "model_config = model_config_of(server_args)", "torch.cuda.get_device_capability()")


# ---- packages and entry points ----


def test_sglang_srt_is_a_namespace_to_which_other_distributions_add():
    assert importlib.import_module("sglang.srt").__file__ is None


def test_platforms_and_plugins_are_found_by_entry_point():
    plugins = importlib.import_module("sglang.srt.plugins")
    assert (plugins.PLATFORM_PLUGINS_GROUP, plugins.GENERAL_PLUGINS_GROUP) == (
        "sglang.srt.platforms",
        "sglang.srt.plugins",
    )


def test_a_platform_is_activated_by_its_name_and_its_class_by_dotted_path():
    resolve = source("srt.platforms:_resolve_platform")
    assert_in_order(resolve, "envs.SGLANG_PLATFORM.get()", "ep_map[selected].load()", "_load_platform_class(result)()")
    assert "load_plugins_by_group(PLATFORM_PLUGINS_GROUP)" in resolve  # and all of them are asked where none is named


def test_the_platform_is_asked_for_before_the_arguments_are_imported():
    code = "import sys, sglang; from sglang.srt import platforms; print(platforms._current_platform is not None, "
    code += "'sglang.srt.server_args' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ended.stdout.splitlines()[-1] == "True False"


@pytest.mark.parametrize(
    "process",
    [
        "srt.entrypoints.engine:Engine:__init__",
        "srt.entrypoints.engine:Engine:_launch_subprocesses",
        "srt.managers.scheduler:run_scheduler_process",
        "srt.managers.detokenizer_manager:run_detokenizer_process",
        "launch_server",
        "cli.serve:serve",
    ],
)
def test_a_process_loads_plugins(process):
    assert "load_plugins()" in source(process)


@works_around("prints the arguments of `sglang serve` without loading plugins: import_hook.py")
def test_the_help_of_sglang_serve_has_the_arguments_of_plugins():
    assert "load_plugins" in source("cli.serve:_print_llm_help")


@works_around("loads no plugins in its single-batch benchmark: import_hook.py, benchmark/bench_one_batch.py")
def test_the_single_batch_benchmark_loads_plugins():
    assert "load_plugins" in source("benchmark.one_batch")


@works_around("reads the throughput benchmark's arguments before it loads plugins: import_hook.py")
def test_the_throughput_benchmark_loads_plugins_before_it_reads_its_arguments():
    assert "load_plugins" in source("benchmark.offline_throughput")


# ---- hooks ----


def test_a_hook_is_applied_to_one_target_and_keeps_static_and_class_methods():
    class Target:
        @staticmethod
        def static(value):
            return value

        @classmethod
        def of_class(cls, value):
            return cls, value

    module = importlib.import_module(__name__)
    module.Target = Target
    try:
        after = [(HookType.AFTER, lambda result, value: result + 1, None)]
        HookRegistry._apply_target(f"{__name__}.Target.static", after)
        around = [(HookType.AROUND, lambda original, cls, value: (original(cls, value), "seen"), None)]
        HookRegistry._apply_target(f"{__name__}.Target.of_class", around)
        assert Target.static(1) == 2
        assert Target.of_class(1) == ((Target, 1), "seen")
        assert f"{__name__}.Target.static" not in HookRegistry._patched
    finally:
        del module.Target


@works_around("leaves out a target that another plugin has hooked before: plugin._apply")
def test_hooks_can_be_added_to_a_hooked_target():
    assert "continue" not in source("srt.plugins.hook_registry:HookRegistry:apply_hooks")


def test_a_replaced_class_reaches_the_modules_that_imported_it():
    assert "sys.modules" in source("srt.plugins.hook_registry:_propagate_patch")


# ---- the flag ----


def test_the_arguments_parse_and_become_a_record_in_two_methods():
    assert isinstance(vars(ServerArgs)["add_cli_args"], staticmethod)
    assert isinstance(vars(ServerArgs)["from_cli_args"], classmethod)
    assert_in_order(source("srt.server_args:prepare_server_args"), "add_cli_args(parser)", "from_cli_args(raw_args)")


def test_an_attribute_of_the_record_reaches_another_process():
    asked = record()
    asked._framework = "mindspore"
    assert pickle.loads(pickle.dumps(asked))._framework == "mindspore"


def test_an_attribute_may_be_noted_on_a_resolved_record():
    resolved = record()
    resolved._resolution_finished = True
    with pytest.raises(AttributeError, match="read-only"):
        resolved.tp_size = 2
    resolved._framework = "mindspore"


@works_around("assembles ServerArgs at import: the choice of framework rides on an attribute")
def test_a_field_can_be_added_to_the_arguments():
    assert "framework" in {field.name for field in msgspec.structs.fields(ServerArgs)}


def test_the_engine_builds_its_record_by_an_attribute_of_the_class_once_plugins_are_loaded():
    assert "server_args_class" in vars(Engine)
    assert_in_order(
        source("srt.entrypoints.engine:Engine:__init__"), "load_plugins()", "self.server_args_class(**kwargs)"
    )


def test_every_launcher_resolves_checks_and_publishes_in_this_order():
    launch = source("srt.entrypoints.engine:Engine:_launch_subprocesses")
    assert_in_order(launch, "server_args.resolve_once()", "load_plugins()", "check_server_args()", "publish(")
    assert "server_args.resolve_once()" in source("launch_server:run_server")
    assert "server_args.resolve_once()" in source("benchmark.one_batch:main")


def test_resolving_is_done_once_and_says_whether_it_was():
    resolve = source("srt.server_args:ServerArgs:resolve_once")
    assert_in_order(resolve, "_resolution_finished", "_resolution_failed", "run_resolution_pipeline(self)")


@pytest.mark.parametrize(
    ("process", "then"),
    [
        ("srt.managers.scheduler:run_scheduler_process", "Scheduler("),
        ("srt.managers.detokenizer_manager:run_detokenizer_process", "detokenizer_manager_class("),
        ("srt.entrypoints.engine:Engine:_launch_subprocesses", "_launch_scheduler_processes("),
        ("benchmark.one_batch:latency_test", "load_model("),
    ],
)
def test_a_process_publishes_its_record_before_it_builds_anything(process, then):
    assert_in_order(source(process), "publish(", "role=", then)


def test_the_published_record_and_role_come_first():
    assert parameters(publish)[:2] == ["server_args", "role"]


# ---- what we decide about the arguments ----


def test_a_decision_made_before_resolving_is_part_of_the_result():
    decided = record()
    overrides.declare_resolution(decided, "a test", page_size=4, attention_backend="mindspore")
    view = overrides.resolving_view(decided)
    assert (view.page_size, decided.page_size) == (4, None)
    assert overrides.attention_backends_of(view) == ("mindspore", "mindspore")
    assert_in_order(source("srt.arg_groups.pipeline"), "_raw_input", 'getattr(server_args, "_resolved_overrides", ())')


def test_the_defaults_of_a_cpu_leave_a_chosen_attention_backend():
    assert_in_order(
        source("srt.arg_groups.platform_hook:handle_cpu_backends"), "if cfg.attention_backend is None", "intel_amx"
    )


@works_around("overwrites the attention backend on an NPU: framework.keep_attention_backend")
def test_the_defaults_of_an_npu_leave_a_chosen_attention_backend():
    assert 'attention_backend="ascend"' not in source("srt.hardware_backend.npu.utils:set_default_server_args")


def test_a_step_of_resolving_can_be_wrapped(monkeypatch):
    monkeypatch.setattr(resolution_hooks, "_HOOKS", {})
    seen = []
    resolution_hooks.register_resolution_hook("handle_npu_backends")(lambda args, previous: seen.append(args))

    def handle_npu_backends(server_args):
        pytest.fail("not wrapped")

    resolution_hooks.run_hook(handle_npu_backends, "arguments")
    assert seen == ["arguments"]


@works_around("lets mindspore run on an NPU only: framework.as_npu")
def test_the_check_of_the_arguments_lets_mindspore_run_anywhere():
    assert "MindSpore model impl is only supported on Ascend npu" not in inspect.getsource(validation_hook)


def test_the_check_of_the_arguments_asks_nothing_else_of_the_platform():
    assert source("srt.arg_groups.validation_hook:check_server_args").count("get_platform()") == 1
    with override_platform(is_npu=True):
        assert get_platform().is_npu
    assert not get_platform().is_npu


def test_model_impl_mindspore_is_an_argument():
    assert prepare_server_args(["--model-path", "x", "--model-impl", "mindspore"]).model_impl == "mindspore"

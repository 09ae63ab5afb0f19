"""What we rely on in SGLang 0.5.23 from its start to its processes, and what we work around; a test names one seam.

A workaround's test is expected to fail: where it passes, with a later SGLang, the workaround can go.
"""

import importlib
import inspect
import pickle
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import msgspec
import pytest
from seams.contract import Reached, assert_in_order, names, parameters, reached, works_around
from transformers import AutoConfig
from transformers.models.step3p7.configuration_step3p7 import Step3p7TextConfig

import sglang
from sglang.srt import platforms
from sglang.srt.arg_groups import overrides, platform_hook, resolution_hooks, validation_hook
from sglang.srt.configs import Step3p5Config, model_config
from sglang.srt.entrypoints.engine import Engine
from sglang.srt.environ import envs
from sglang.srt.layers import quantization
from sglang.srt.model_executor_ms.seams import arguments, hooks
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.runtime_context import get_platform, override_platform, publish
from sglang.srt.server_args import ServerArgs, prepare_server_args

SECONDS = 5


def record(**fields) -> ServerArgs:
    return ServerArgs(model_path="no/such/model", **fields)


def test_the_version_is_the_one_these_seams_were_tried_with():
    assert sglang.__version__ == "0.5.23"


def test_methods_of_quantization_are_known_by_one_dict_that_can_be_added_to():
    """arguments.register_quantization_names"""
    arguments.register_quantization_names()
    assert model_config.QUANTIZATION_METHODS is quantization.QUANTIZATION_METHODS
    assert {"mxfp4", "gptq"} <= set(model_config.QUANTIZATION_METHODS)


def test_transformers_class_of_step_3_5_cannot_be_asked_how_many_heads_there_are():
    """arguments.read_step_by_sglangs_class: SGLang asks it whatever it has, to copy it."""
    kinds = ["full_attention", "sliding_attention"]
    sizes = dict(num_hidden_layers=2, num_attention_heads=4, layer_types=kinds, moe_layers_enum="1")
    made = Step3p7TextConfig(**sizes, attention_other_setting=dict(num_attention_heads=8))
    with pytest.raises(RuntimeError, match="num_attention_heads"):
        hasattr(made, "num_attention_heads")
    arguments.read_step_by_sglangs_class()
    assert isinstance(AutoConfig.for_model("step3p5"), Step3p5Config)


# ---- packages and entry points ----


def test_sglang_srt_is_a_namespace_to_which_other_distributions_add():
    assert importlib.import_module("sglang.srt").__file__ is None


def test_platforms_and_plugins_are_found_by_entry_point():
    plugins = importlib.import_module("sglang.srt.plugins")
    assert (plugins.PLATFORM_PLUGINS_GROUP, plugins.GENERAL_PLUGINS_GROUP) == (
        "sglang.srt.platforms",
        "sglang.srt.plugins",
    )


@pytest.fixture
def entry_points(monkeypatch):
    """Two platforms; -> those whose entry point was called."""
    asked = []

    def entry(name, found):
        return SimpleNamespace(name=name, value=name, dist=None, load=lambda: lambda: asked.append(name) or found)

    known = [entry("one", "sglang.srt.platforms.cpu.CpuSRTPlatform"), entry("other", None)]
    for place in ("sglang.srt.platforms.entry_points", "sglang.srt.plugins.entry_points"):
        monkeypatch.setattr(place, lambda group: known)
    return asked


def test_a_platform_is_activated_by_its_name_and_its_class_by_dotted_path(entry_points):
    """platform.activate"""
    with envs.SGLANG_PLATFORM.override("one"):
        assert type(platforms._resolve_platform()).__name__ == "CpuSRTPlatform"
    assert entry_points == ["one"]


def test_all_platforms_are_asked_where_none_is_named(entry_points):
    """platform.activate, which is None where the platform was not selected"""
    with envs.SGLANG_PLATFORM.override(""):
        assert type(platforms._resolve_platform()).__name__ == "CpuSRTPlatform"
    assert entry_points == ["one", "other"]


def test_the_platform_is_asked_for_before_the_arguments_are_imported():
    code = "import sys, sglang; from sglang.srt import platforms; print(platforms._current_platform is not None, "
    code += "'sglang.srt.server_args' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ended.stdout.splitlines()[-1] == "True False"


@pytest.mark.parametrize(
    "process",
    [
        ("srt.entrypoints.engine", "Engine.__init__"),
        ("srt.entrypoints.engine", "Engine._launch_subprocesses"),
        ("srt.managers.scheduler", "run_scheduler_process"),
        ("srt.managers.detokenizer_manager", "run_detokenizer_process"),
        ("launch_server", None),
        ("cli.serve", "serve"),
    ],
    ids=lambda process: process[1] or process[0],
)
def test_a_process_loads_plugins(process):
    """plugin.register; compiled code, since each of these starts a server"""
    assert "load_plugins" in names(*process)


@works_around("prints the arguments of `sglang serve` without loading plugins: import_hook.py")
def test_the_help_of_sglang_serve_has_the_arguments_of_plugins():
    assert "load_plugins" in names("cli.serve", "_print_llm_help")


@works_around("loads no plugins in its single-batch benchmark: import_hook.py, benchmark/bench_one_batch.py")
def test_the_single_batch_benchmark_loads_plugins():
    assert "load_plugins" in names("benchmark.one_batch")


@works_around("reads the throughput benchmark's arguments before it loads plugins: import_hook.py")
def test_the_throughput_benchmark_loads_plugins_before_it_reads_its_arguments():
    assert "load_plugins" in names("benchmark.offline_throughput")


# ---- hooks ----


class Hooked:
    """A class of which each test takes off its hooks again."""

    @staticmethod
    def static(value):
        return value

    @classmethod
    def of_class(cls, value):
        return cls, value


class Replaced:
    pass


@pytest.fixture(autouse=True)
def unhooked(monkeypatch):
    for name in ("static", "of_class"):
        monkeypatch.setattr(Hooked, name, vars(Hooked)[name])
    importlib.import_module(__name__).Hooked = Hooked
    importlib.import_module(__name__).Replaced = Replaced


def test_a_hook_is_applied_to_one_target_and_keeps_static_and_class_methods():
    """hooks.after, hooks.around"""
    hooks.after(f"{__name__}.Hooked.static", lambda result, value: result + 1)
    hooks.around(f"{__name__}.Hooked.of_class", lambda original, cls, value: (original(cls, value), "seen"))
    assert Hooked.static(1) == 2
    assert Hooked.of_class(1) == ((Hooked, 1), "seen")
    assert f"{__name__}.Hooked.static" not in HookRegistry._patched


def test_a_hooked_target_can_be_hooked_again():
    """hooks.before, hooks.after"""
    seen = []
    hooks.before(f"{__name__}.Hooked.static", lambda value: seen.append(value))
    hooks.after(f"{__name__}.Hooked.static", lambda result, value: result + 1)
    assert Hooked.static(1) == 2 and seen == [1]


@works_around("leaves out a target that another plugin has hooked before: seams.hooks")
def test_hooks_can_be_added_to_a_hooked_target(monkeypatch):
    monkeypatch.setattr(HookRegistry, "_hooks", {})
    target, after = f"{__name__}.Hooked.static", [(HookType.AFTER, lambda result, value: result + 1, None)]
    monkeypatch.setattr(HookRegistry, "_patched", {target})
    HookRegistry._hooks[target] = after
    HookRegistry.apply_hooks()
    assert Hooked.static(1) == 2


def test_a_replaced_class_reaches_the_modules_that_imported_it(monkeypatch):
    """hooks.replace"""

    class Replacement:
        pass

    importer = ModuleType("sglang.of_a_test")
    importer.Replaced = Replaced
    monkeypatch.setitem(sys.modules, "sglang.of_a_test", importer)
    hooks.replace(f"{__name__}.Replaced", Replacement)
    assert importer.Replaced is Replacement


# ---- the flag ----


def test_the_arguments_parse_and_become_a_record_in_two_methods(monkeypatch):
    """arguments.add_flag"""
    assert isinstance(vars(ServerArgs)["add_cli_args"], staticmethod)
    assert isinstance(vars(ServerArgs)["from_cli_args"], classmethod)
    add = ServerArgs.add_cli_args
    flag = ("--of-a-test",)
    monkeypatch.setattr(ServerArgs, "add_cli_args", lambda parser: (add(parser), parser.add_argument(*flag)))
    monkeypatch.setattr(ServerArgs, "from_cli_args", lambda namespace: SimpleNamespace(found=namespace.of_a_test))
    assert prepare_server_args(["--model-path", "x", "--of-a-test", "3"]).found == "3"


def test_an_attribute_of_the_record_reaches_another_process():
    """arguments.note_framework"""
    asked = record()
    arguments.note_framework(asked, "mindspore")
    assert arguments.noted_framework(pickle.loads(pickle.dumps(asked))) == "mindspore"


def test_an_attribute_may_be_noted_on_a_resolved_record():
    """arguments.note_framework, note_command_line"""
    resolved = record()
    resolved._resolution_finished = True
    with pytest.raises(AttributeError, match="read-only"):
        resolved.tp_size = 2
    arguments.note_framework(resolved, "mindspore")
    assert not arguments.is_from_command_line(resolved)
    arguments.note_command_line(resolved)
    assert arguments.is_from_command_line(resolved)


@works_around("assembles ServerArgs at import: the choice of framework rides on an attribute")
def test_a_field_can_be_added_to_the_arguments():
    assert "framework" in {field.name for field in msgspec.structs.fields(ServerArgs)}


def test_the_engine_builds_its_record_by_an_attribute_of_the_class_once_plugins_are_loaded(monkeypatch):
    """arguments.make_engine_arguments_with"""
    loaded = []
    monkeypatch.setattr("sglang.srt.entrypoints.engine.load_plugins", lambda: loaded.append("plugins"), raising=False)
    monkeypatch.setattr("sglang.srt.plugins.load_plugins", lambda: loaded.append("plugins"))
    monkeypatch.setattr(Engine, "server_args_class", staticmethod(lambda **fields: reached(fields)))
    with pytest.raises(Reached) as caught:
        Engine(model_path="no/such/model", framework="mindspore")
    assert loaded == ["plugins"]
    assert caught.value.args[0].items() >= {"model_path": "no/such/model", "framework": "mindspore"}.items()


def test_every_launcher_resolves_checks_and_publishes_in_this_order():
    """arguments.resolve_with; compiled code, since launchers start processes"""
    launch = names("srt.entrypoints.engine", "Engine._launch_subprocesses")
    assert_in_order(launch, "resolve_once", "load_plugins", "check_server_args", "publish")
    assert "resolve_once" in names("launch_server", "run_server")
    assert "resolve_once" in names("benchmark.one_batch", "main")


def test_resolving_is_done_once_and_says_whether_it_was(monkeypatch):
    """arguments.resolve_with"""
    monkeypatch.setattr("sglang.srt.arg_groups.pipeline.run_resolution_pipeline", reached)
    resolve = inspect.unwrap(ServerArgs.resolve_once)
    done, failing = record(), record()
    done._resolution_finished = True
    resolve(done)
    with pytest.raises(Reached):
        resolve(failing)
    assert failing._resolution_failed


@pytest.mark.parametrize(
    ("process", "then"),
    [
        (("srt.managers.scheduler", "run_scheduler_process"), "Scheduler"),
        (("srt.managers.detokenizer_manager", "run_detokenizer_process"), "init_process"),
        (("srt.entrypoints.engine", "Engine._launch_subprocesses"), "_launch_scheduler_processes"),
        (("benchmark.one_batch", "latency_test"), "load_model"),
    ],
    ids=lambda given: given[1] if isinstance(given, tuple) else given,
)
def test_a_process_publishes_its_record_before_it_builds_anything(process, then):
    """arguments.activate_with; compiled code, since each of these is a process of a server"""
    found = names(*process)
    assert "role" in found
    assert_in_order(found, "publish", then if then in found else "event_loop")


def test_the_published_record_and_role_come_first():
    """arguments.activate_with"""
    assert parameters(publish)[:2] == ["server_args", "role"]


# ---- what we decide about the arguments ----


def test_a_decision_made_before_resolving_is_part_of_the_result():
    decided = record()
    overrides.declare_resolution(decided, "a test", page_size=4, attention_backend="mindspore")
    view = overrides.resolving_view(decided)
    assert (view.page_size, decided.page_size) == (4, None)
    assert overrides.attention_backends_of(view) == ("mindspore", "mindspore")


def test_the_defaults_of_a_cpu_leave_a_chosen_attention_backend():
    decided = record(device="cpu")
    overrides.declare_resolution(decided, "a test", attention_backend="mindspore")
    platform_hook.handle_cpu_backends(decided)
    assert overrides.attention_backends_of(overrides.resolving_view(decided)) == ("mindspore", "mindspore")


@works_around("overwrites the attention backend on an NPU: framework.keep_attention_backend")
def test_the_defaults_of_an_npu_leave_a_chosen_attention_backend():
    """Compiled code, since the defaults ask the card for its memory."""
    found = names("srt.hardware_backend.npu.utils", "set_default_server_args")
    assert "attention_backend" not in found or "ascend" not in found


@pytest.mark.parametrize("step", ["handle_npu_backends", "handle_model_specific_adjustments"])
def test_a_step_of_resolving_can_be_replaced(step, monkeypatch):
    """arguments.resolve_step_with"""
    monkeypatch.setattr(resolution_hooks, "_HOOKS", {})
    seen = []
    arguments.resolve_step_with(step, lambda args, previous: seen.append(args))

    def original(server_args):
        pytest.fail("not replaced")

    original.__name__ = step
    resolution_hooks.run_hook(original, "arguments")
    assert seen == ["arguments"]


def resolved(model_impl: str) -> ServerArgs:
    """With what the check looks at before it comes to the platform."""
    return record(model_impl=model_impl, device="cpu", served_model_name="x", chunked_prefill_size=64, page_size=1)


@pytest.fixture
def asked(monkeypatch):
    """What the check of the arguments asks the platform."""
    questions = []

    class Platform:
        def __getattr__(self, name):
            questions.append(name)
            return getattr(get_platform(), name)

    monkeypatch.setattr(validation_hook, "get_platform", Platform)
    return questions


@works_around("lets mindspore run on an NPU only: arguments.accept_mindspore_on_any_device")
def test_the_check_of_the_arguments_lets_mindspore_run_anywhere():
    inspect.unwrap(validation_hook.check_server_args)(resolved("mindspore"))


def test_the_check_of_the_arguments_asks_nothing_else_of_the_platform(asked):
    """arguments.accept_mindspore_on_any_device"""
    arguments._check_as_npu(validation_hook.check_server_args, resolved("mindspore"))
    assert asked == ["is_npu"]


def test_the_check_finds_the_platform_that_it_is_told():
    """arguments.accept_mindspore_on_any_device"""
    with override_platform(is_npu=True):
        assert get_platform().is_npu
    assert not get_platform().is_npu


def test_model_impl_mindspore_is_an_argument():
    assert prepare_server_args(["--model-path", "x", "--model-impl", "mindspore"]).model_impl == "mindspore"

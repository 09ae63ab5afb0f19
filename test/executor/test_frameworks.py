"""The registry of frameworks: what is installed, what is usable here and why not, and which one a server gets."""

import json
import logging
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from tiers import SLOW

from sglang.srt.model_executor_ms.server import framework, frameworks
from sglang.srt.model_executor_ms.server.frameworks import Framework, FrameworkUnavailable
from sglang.srt.server_args import ServerArgs

SECONDS = 35, 50
MODEL = Path(__file__).parents[2] / "ms_example/demo_model"
LACKS = "no such chip"
CODE = "test_frameworks_entry_points"  # a module that only these tests' entry points name


def server_args(framework=None, **fields) -> ServerArgs:
    made = ServerArgs(model_path="no/such/model", **fields)
    frameworks.ask(made, framework)
    return made


@pytest.fixture
def installed(monkeypatch):
    """Makes these objects, by name, the installed frameworks; `logged` are the registry's messages."""

    def install(**objects):
        module = type(sys)(CODE)
        vars(module).update(objects)
        monkeypatch.setitem(sys.modules, CODE, module)
        entries = [EntryPoint(name, f"{CODE}:{name}", frameworks.GROUP) for name in objects]
        monkeypatch.setattr(frameworks, "entry_points", lambda group: entries)

    return install


@pytest.fixture
def logged(monkeypatch, caplog):
    """The messages of the registry, whatever SGLang has made of the root logger."""
    caplog.set_level(logging.INFO, frameworks.logger.name)
    monkeypatch.setattr(frameworks.logger, "disabled", False)
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    monkeypatch.setattr(frameworks.logger, "handlers", [handler])
    return records


@pytest.fixture
def plain_cpu(monkeypatch):
    """A machine without an accelerator and without SGLang's kernels for CPUs."""
    monkeypatch.setattr(frameworks, "accelerator", lambda: None)
    monkeypatch.delenv("SGLANG_USE_CPU_ENGINE", raising=False)


def usable(name):
    return Framework(name, lambda: None)


def unusable(name):
    return Framework(name, lambda: LACKS)


# ---- what is installed, and usable ----


def test_torch_and_mindspore_are_installed_as_entry_points():
    assert {"torch", "mindspore"} <= set(frameworks.names())
    assert frameworks.get("torch") is frameworks.TORCH
    assert frameworks.get("mindspore").name == "mindspore"


def test_torch_is_not_usable_on_a_plain_cpu_and_says_what_it_lacks(plain_cpu):
    reason = frameworks.TORCH.unavailable()
    assert "accelerator" in reason
    assert "sgl_kernel" in reason
    assert "SGLANG_USE_CPU_ENGINE=1" in reason


def test_torch_is_usable_with_an_accelerator(monkeypatch):
    monkeypatch.setattr(frameworks, "accelerator", lambda: "cuda")
    assert frameworks.TORCH.unavailable() is None


def test_mindspore_is_usable_here():
    assert framework.unavailable() is None


def test_mindspore_says_that_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(framework.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(framework.platform, "machine", lambda: "x86_64")
    assert "pip install mindspore==2.10.0" in framework.unavailable()
    monkeypatch.setattr(framework.platform, "machine", lambda: "aarch64")
    assert "pip's wheel is for x86-64, and this is aarch64" in framework.unavailable()


def test_mindspore_says_that_numpy_is_too_new(monkeypatch):
    monkeypatch.setattr(framework.importlib.metadata, "version", lambda name: "2.4.1")
    assert "numpy 2.4.1" in framework.unavailable()


# ---- asking for one ----


def test_an_unknown_framework_is_an_error_that_lists_all_with_reasons(installed):
    installed(torch=unusable("torch"), mindspore=usable("mindspore"))
    with pytest.raises(FrameworkUnavailable) as caught:
        frameworks.usable("jax")
    assert str(caught.value).splitlines() == [
        "there is no framework 'jax'",
        "frameworks:",
        "  mindspore: usable",
        f"  torch: {LACKS}",
    ]


def test_an_unusable_framework_is_an_error_that_says_why_and_lists_all(installed):
    installed(mindspore=unusable("mindspore"), torch=usable("torch"))
    with pytest.raises(FrameworkUnavailable) as caught:
        frameworks.decide(server_args("mindspore"))
    message = str(caught.value)
    assert message.startswith(f"framework 'mindspore' cannot be used: {LACKS}\n")
    assert "  torch: usable" in message


def test_sglangs_own_framework_is_used_where_it_was_asked_for_and_the_doubt_is_logged(plain_cpu, logged):
    assert frameworks.decide(server_args("torch")) is frameworks.TORCH
    assert [message for message in logged if "torch (asked for)" in message]


def test_a_framework_that_cannot_be_imported_is_listed_with_its_error(monkeypatch, installed):
    installed(torch=usable("torch"), broken=None)
    monkeypatch.delattr(sys.modules[CODE], "broken")
    with pytest.raises(FrameworkUnavailable, match="'broken'.*cannot be loaded: AttributeError"):
        frameworks.usable("broken")
    assert "  broken: " in frameworks.describe()


def test_an_entry_point_that_is_no_framework_is_listed_as_such(installed):
    installed(torch=usable("torch"), number=7)
    with pytest.raises(FrameworkUnavailable, match="is a int, not a Framework"):
        frameworks.usable("number")


def test_two_frameworks_of_one_name_are_an_error_that_names_both(monkeypatch):
    entries = [EntryPoint("twice", value, frameworks.GROUP) for value in ("one:A", "other:B")]
    monkeypatch.setattr(frameworks, "entry_points", lambda group: entries)
    with pytest.raises(FrameworkUnavailable, match="one:A, other:B"):
        frameworks.usable("twice")


# ---- none asked for ----


def test_the_only_usable_framework_is_chosen_and_that_is_logged(plain_cpu, logged):
    assert frameworks.decide(server_args()).name == "mindspore"
    (message,) = logged
    assert message.startswith("framework: mindspore, the only one usable here")
    assert "torch: no accelerator" in message


def test_torch_is_chosen_beside_other_usable_frameworks(installed, monkeypatch):
    monkeypatch.setattr(frameworks, "accelerator", lambda: "cuda")
    installed(mindspore=usable("mindspore"), torch=frameworks.TORCH)
    assert frameworks.decide(server_args()) is frameworks.TORCH


def test_more_than_one_usable_framework_without_torch_is_a_question(installed):
    installed(torch=unusable("torch"), mindspore=usable("mindspore"), other=usable("other"))
    with pytest.raises(FrameworkUnavailable, match="choose one of mindspore, other with --framework"):
        frameworks.decide(server_args())


def test_sglang_reports_what_it_lacks_where_nothing_is_usable(installed):
    installed(torch=unusable("torch"), mindspore=unusable("mindspore"))
    assert frameworks.decide(server_args()) is frameworks.TORCH


# ---- beside --model-impl ----


def test_model_impl_mindspore_means_the_same():
    args = server_args(model_impl="mindspore")
    assert frameworks.decide(args).name == "mindspore"
    assert frameworks.decided(args).name == "mindspore"


@pytest.mark.parametrize("model_impl", ["sglang", "transformers"])
def test_another_model_impl_means_torch(model_impl):
    assert frameworks.decide(server_args(model_impl=model_impl)) is frameworks.TORCH


@pytest.mark.parametrize(
    ("framework", "model_impl"), [("torch", "mindspore"), ("mindspore", "transformers"), ("mindspore", "sglang")]
)
def test_a_contradiction_with_model_impl_names_both_flags(framework, model_impl):
    with pytest.raises(FrameworkUnavailable) as caught:
        frameworks.decide(server_args(framework, model_impl=model_impl))
    assert f"--framework {framework}" in str(caught.value)
    assert f"--model-impl {model_impl}" in str(caught.value)


def test_a_record_that_was_resolved_without_us_is_torchs():
    assert frameworks.decided(ServerArgs(model_path="no/such/model")) is frameworks.TORCH


# ---- with torch, nothing of ours is active ----

# What sys.argv[1] names is resolved and published as in a scheduler; prints which module each object of SGLang is from.
PROBE = """
import json, sys
from sglang.srt.plugins import load_plugins
load_plugins()
import sglang.srt.model_executor.model_runner, sglang.srt.managers.tp_worker, sglang.srt.model_loader.loader
import sglang.srt.managers.tokenizer_manager
import sglang.srt.arg_groups.validation_hook, sglang.srt.arg_groups.resolution_hooks as resolution
from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.entrypoints.engine import Engine
from sglang.srt.runtime_context import publish
framework, model = sys.argv[1:]
server_args = Engine.server_args_class(model_path=model, framework=framework, device="cpu", max_total_tokens=64)
server_args.resolve_once()
started = "mindspore" in sys.modules
publish(server_args, role="scheduler")
publish(server_args, role="tokenizer")
modules = sys.modules
found = {
    "ModelRunner": modules["sglang.srt.model_executor.model_runner"].ModelRunner,
    "ModelRunner of tp_worker": modules["sglang.srt.managers.tp_worker"].__dict__.get("ModelRunner"),
    "get_model_loader": modules["sglang.srt.model_loader.loader"].get_model_loader,
    "check_server_args": modules["sglang.srt.arg_groups.validation_hook"].check_server_args,
    "validate request": modules["sglang.srt.managers.tokenizer_manager"].TokenizerManager._validate_one_request,
}
answer = {name: thing.__module__ for name, thing in found.items() if thing is not None}
answer["wrapped"] = sorted(name for name, thing in found.items() if hasattr(thing, "__wrapped__"))
answer["attention backend"] = "mindspore" in ATTENTION_BACKENDS
answer["resolution hooks"] = sorted(resolution._HOOKS)
registry = modules.get("sglang.srt.models.registry")
answer["models"] = sorted(registry.ModelRegistry.models) if registry else []
answer["mindspore"] = "mindspore" in modules
answer["mindspore in the parent"] = started
answer["model_impl"] = str(resolving_view(server_args).model_impl)
print("ANSWER" + json.dumps(answer))
"""


def probe(framework: str) -> dict:
    command = [sys.executable, "-c", PROBE, framework, str(MODEL)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("ANSWER")]
    return json.loads(line.removeprefix("ANSWER"))


def test_with_torch_every_object_of_sglang_is_the_original():
    assert probe("torch") == {
        "ModelRunner": "sglang.srt.model_executor.model_runner",
        "get_model_loader": "sglang.srt.model_loader.loader",
        "check_server_args": "sglang.srt.arg_groups.validation_hook",
        "validate request": "sglang.srt.managers.tokenizer_manager",
        "wrapped": [],
        "attention backend": False,
        "resolution hooks": [],
        "models": [],
        "mindspore": False,
        "mindspore in the parent": False,
        "model_impl": "auto",
    }


def test_with_mindspore_the_same_look_finds_what_is_ours():
    found = probe("mindspore")
    assert found["ModelRunner"] == "sglang.srt.model_executor_ms.model_runner"
    assert {"check_server_args", "get_model_loader"} <= set(found["wrapped"])
    assert found["attention backend"] and found["mindspore"] and not found["mindspore in the parent"]
    assert found["resolution hooks"] == ["handle_model_specific_adjustments", "handle_npu_backends"]
    assert (found["models"], found["model_impl"]) == (["MindSporeForCausalLM"], "mindspore")


# ---- threads of ranks ----

# What a process that was started now would find, after MindSpore was imported and an engine's arguments resolved.
STARTED = """
import os, subprocess, sys
from sglang.srt.plugins import load_plugins
load_plugins()
import mindspore
from sglang.srt.entrypoints.engine import Engine
found = lambda: subprocess.run(["printenv", "OMP_NUM_THREADS"], capture_output=True, text=True).stdout.strip()
before = found()
Engine.server_args_class(model_path=sys.argv[1], framework="mindspore", device="cpu").resolve_once()
print("ANSWER", before, found() or "none")
"""


@pytest.mark.parametrize(
    ("asked", "before", "after"),
    [({}, "1", "none"), pytest.param({"OMP_NUM_THREADS": "3"}, "3", "3", marks=SLOW)],
)
def test_ranks_start_with_the_users_number_of_threads_not_with_mindspores(asked, before, after):
    """`before`: what MindSpore leaves behind, for which the number is hidden; without it the workaround can go."""
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | asked
    command = [sys.executable, "-c", STARTED, str(MODEL)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables)
    assert ended.stdout.splitlines()[-1:] == [f"ANSWER {before} {after}"], ended.stderr

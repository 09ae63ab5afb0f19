"""SGLang's server arguments: a flag, the framework's place in their resolution, and what SGLang refuses of ours."""

from collections.abc import Callable

from sglang.srt.model_executor_ms.seams import hooks

RECORD = "sglang.srt.server_args.ServerArgs"


def add_flag(add: Callable, keep: Callable) -> None:
    """add(_, parser) adds the flag; keep(original, cls, arguments) makes the record and notes the flag's value.

    ServerArgs is assembled at import: a field cannot be added, and the value rides on an attribute of the record.
    """
    hooks.after(f"{RECORD}.add_cli_args", add)
    hooks.around(f"{RECORD}.from_cli_args", keep)


def resolve_with(hook: Callable) -> None:
    """hook(original, server_args) around the resolution; every launcher resolves once, before it starts anything."""
    hooks.around(f"{RECORD}.resolve_once", hook)


def activate_with(hook: Callable) -> None:
    """hook(_, server_args, role=...) once a process has published its record, before it builds anything."""
    hooks.after("sglang.srt.runtime_context.publish", hook)


def make_engine_arguments_with(make: Callable) -> None:
    """make(**fields) makes the record of an Engine, in its own override point.

    Engine.__init__ itself runs already when SGLang first loads plugins.
    """
    from sglang.srt.entrypoints.engine import Engine

    Engine.server_args_class = staticmethod(make)


def note_framework(server_args, name: str) -> None:
    """Keep the framework's name on the record, which SGLang sends to its processes."""
    server_args._framework = name


def noted_framework(server_args) -> str | None:
    """The name that note_framework kept; None: nobody asked for one, or decided."""
    return getattr(server_args, "_framework", None)


def note_command_line(server_args) -> None:
    """Keep on the record that it was made of a command line."""
    server_args._from_command_line = True


def is_from_command_line(server_args) -> bool:
    """Whether note_command_line was called for this record."""
    return getattr(server_args, "_from_command_line", False)


def register_quantization_names() -> None:
    """Let SGLang know of methods that it has no kernels for on this machine, which it would call unknown.

    What layers_ms/quantization reads, ours multiply.
    """
    from sglang.srt.layers import quantization

    quantization.QUANTIZATION_METHODS.setdefault("mxfp4", quantization.Mxfp4Config)
    quantization.QUANTIZATION_METHODS.setdefault("gptq", quantization.CPUGPTQConfig)


def read_step_by_sglangs_class() -> None:
    """Let SGLang read Step-3.5's config.json by the class that it has for it.

    transformers 5.19 has one of the same name. It raises where SGLang asks how many heads there are: layers differ.
    """
    from transformers import AutoConfig

    from sglang.srt.configs import Step3p5Config

    AutoConfig.register("step3p5", Step3p5Config, exist_ok=True)


def accept_deterministic_inference(attention_backend: str) -> None:
    """Let --enable-deterministic-inference go with this attention backend, and with its radix cache."""
    from sglang.srt.arg_groups import choices

    choices.add_deterministic_attention_backend_choices([attention_backend])
    choices.add_radix_supported_deterministic_attention_backend_choices([attention_backend])


def resolve_step_with(step: str, hook: Callable) -> None:
    """hook(server_args, previous) in the place of a step of SGLang's resolution."""
    from sglang.srt.arg_groups.resolution_hooks import register_resolution_hook

    register_resolution_hook(step)(hook)


def reserve_for_graphs_with(hook: Callable) -> None:
    """hook(original, server_args) around the MB of a card that are kept for captured graphs."""
    hooks.around("sglang.srt.arg_groups.memory_hook.reserve_for_graph_mb", hook)


def attend_densely() -> None:
    """Let SGLang take no model for one of sparse attention: pools, dtypes and backends are those of MLA then."""
    hooks.replace("sglang.srt.configs.model_config.is_deepseek_dsa", _is_not)


def widen_latent_rows_with(columns: Callable) -> None:
    """Let rows that latent attention caches have columns(model_config) more values: keys of an indexer.

    All that makes, counts, copies or sends these rows reads the two sizes that they are made of, and nothing that is
    SGLang's computes with them.
    """

    def widen(_result, model_config) -> None:
        more = columns(model_config)
        if more:
            model_config.qk_rope_head_dim += more

    hooks.after("sglang.srt.configs.model_config.ModelConfig._derive_model_shapes", widen)


def _is_not(_config) -> bool:
    return False


def accept_mindspore_on_any_device() -> None:
    """Let `model_impl` mindspore pass SGLang's check of the arguments, which asserts an NPU for it.

    This tells SGLang something untrue on a CPU, for the length of the check: the assertion is in the middle of it, and
    asks the platform only. Nothing else in the check asks the platform anything, as a contract test holds.
    """
    hooks.around("sglang.srt.arg_groups.validation_hook.check_server_args", _check_as_npu)


def _check_as_npu(original, server_args) -> None:
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.runtime_context import override_platform

    if resolving_view(server_args).model_impl != "mindspore":
        original(server_args)
        return
    with override_platform(is_npu=True):
        original(server_args)

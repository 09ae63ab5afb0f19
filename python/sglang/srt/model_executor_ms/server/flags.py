"""Refuses the arguments of SGLang's server that this backend does not serve, by name and with the reason."""

import msgspec

from sglang.srt.model_executor_ms.environment import Refusal
from sglang.srt.model_executor_ms.server.flag_support import LIMITED, REASONS, REFUSED


class UnsupportedFlag(Refusal):
    """Arguments of the server that --framework mindspore does not support. The message names all of them."""


def refuse_unsupported(server_args) -> None:
    """Raise UnsupportedFlag, one line an argument, unless this backend does what every argument says."""
    problems = [*_limited(server_args), *_refused(server_args)]
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UnsupportedFlag(f"--framework mindspore does not support these arguments:\n{lines}")


def defaults(server_args_class: type) -> dict:
    """The default of every argument that has one."""
    default = {}
    for field in msgspec.structs.fields(server_args_class):
        if field.default is not msgspec.NODEFAULT:
            default[field.name] = field.default
        elif field.default_factory is not msgspec.NODEFAULT:
            default[field.name] = field.default_factory()
    return default


def _limited(server_args):
    for name, allowed in LIMITED.items():
        value = getattr(server_args, name)
        if value not in allowed:
            choices = ", ".join(str(choice) for choice in allowed if choice is not None)
            reason = f" ({REASONS[name]})" if name in REASONS else ""
            yield f"{_flag(name)} {value}: only {choices}{reason}"


def _refused(server_args):
    default = defaults(type(server_args))
    for reason, names in REFUSED:
        for name in sorted(names):
            value = getattr(server_args, name)
            off = value is False and default[name] is None
            if value != default[name] and not off:
                yield f"{_flag(name)} {value}: {reason}"


def _flag(name: str) -> str:
    return "--" + name.strip("_").replace("_", "-")

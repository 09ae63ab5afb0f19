"""The registry of frameworks: the name, whether it is usable here and if not why, and how to activate it.

Every framework is an entry point of the group `sglang.srt.frameworks` that names a Framework object: torch and
mindspore are this distribution's, another distribution adds its own in the same way.
"""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from sglang.srt.model_executor_ms.environment import (
    Refusal,
    read_environment,
    select_cpu_platform,
    select_image_processors,
)
from sglang.srt.model_executor_ms.seams import arguments
from sglang.srt.model_executor_ms.server.accelerators import accelerator

logger = logging.getLogger(__name__)

GROUP = "sglang.srt.frameworks"


class FrameworkUnavailable(Refusal):
    """The framework asked for cannot serve here. The message lists all frameworks, and what the others lack."""


def _nothing(*_args) -> None:
    """What SGLang's own framework does where others act."""


@dataclass(frozen=True)
class Framework:
    """What runs the forward passes, in SGLang's place.

    Its name is kept on SGLang's record of arguments, which SGLang sends to its processes.
    """

    name: str
    unavailable: Callable[[], str | None]  # why it cannot serve on this machine, and what to do; None: it can
    configure: Callable[[object], None] = _nothing  # server_args, before SGLang resolves them; refuses what it lacks
    explain: Callable[[object, Exception], None] = _nothing  # raises a Refusal in the place of SGLang's error meanwhile
    verify: Callable[[object], None] = _nothing  # server_args, after SGLang resolved them
    activate: Callable[[object, str], None] = _nothing  # server_args, role; in every process, before anything is built
    native: bool = False  # SGLang's own: asked for by name, SGLang runs as if this distribution were not there


def _torch_unavailable() -> str | None:
    if accelerator():
        return None
    if read_environment().cpu_engine and importlib.util.find_spec("sgl_kernel"):
        return None
    return (
        "no accelerator was found, and SGLang's torch kernels for CPUs are not in use: they need a build of "
        "sgl_kernel for CPUs, which pip does not offer, and SGLANG_USE_CPU_ENGINE=1"
    )


def _leave_sglang_alone(_server_args) -> None:
    # A server of another framework may have been started from this process before.
    select_cpu_platform(False)
    select_image_processors(False)


TORCH = Framework("torch", _torch_unavailable, configure=_leave_sglang_alone, native=True)


def ask(server_args, name: str | None) -> None:
    """Note on the record which framework the user asked for."""
    if name is not None:
        arguments.note_framework(server_args, name)


def decide(server_args) -> Framework:
    """The framework of a record that is about to be resolved, noted on it. FrameworkUnavailable if it cannot be."""
    asked = arguments.noted_framework(server_args)
    implied = {"auto": None, "mindspore": "mindspore"}.get(str(server_args.model_impl).lower(), TORCH.name)
    if asked and implied and asked != implied:
        raise FrameworkUnavailable(
            f"--framework {asked} and --model-impl {server_args.model_impl} contradict each other"
        )
    wanted = asked or implied
    framework = usable(wanted) if wanted else choose()
    arguments.note_framework(server_args, framework.name)
    return framework


def decided(server_args) -> Framework:
    """The framework that was decided on when the record was resolved; torch for one resolved without us."""
    return get(arguments.noted_framework(server_args) or TORCH.name)


def names() -> list[str]:
    """The frameworks that are installed, usable or not."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def get(name: str) -> Framework:
    """The framework of this name. FrameworkUnavailable if there is none, or if it cannot be loaded."""
    entries = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not entries:
        raise FrameworkUnavailable(f"there is no framework {name!r}\n{describe()}")
    try:
        return _load(entries)
    except FrameworkUnavailable as error:
        raise FrameworkUnavailable(f"framework {name!r}: {error}") from error


def usable(name: str) -> Framework:
    """The framework of this name, if it can serve here or is SGLang's own; else FrameworkUnavailable, listing all."""
    framework = get(name)
    reason = framework.unavailable()
    if reason and not framework.native:
        raise FrameworkUnavailable(f"framework {name!r} cannot be used: {reason}\n{describe()}")
    if reason:
        logger.warning("framework: %s (asked for), although %s. Most models will not load.", name, reason)
    return framework


def describe() -> str:
    """One line a framework: its name, and usable or why not."""
    return "frameworks:\n" + "\n".join(f"  {name}: {reason or 'usable'}" for name, reason in _reasons().items())


def choose() -> Framework:
    """The framework of a server for which none was asked: torch where it is usable, else the only usable one."""
    reasons = _reasons()
    fit = [name for name, reason in reasons.items() if reason is None]
    if TORCH.name in fit or not fit:
        return TORCH
    if len(fit) > 1:
        raise FrameworkUnavailable(f"choose one of {', '.join(fit)} with --framework\n{describe()}")
    others = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)
    logger.warning("framework: %s, the only one usable here (%s)", fit[0], others)
    return get(fit[0])


def _load(entries: list[EntryPoint]) -> Framework:
    if len(entries) > 1:
        raise FrameworkUnavailable(f"more than one is installed: {', '.join(entry.value for entry in entries)}")
    try:
        framework = entries[0].load()
    except Exception as error:  # the border to another distribution's code
        raise FrameworkUnavailable(f"{entries[0].value} cannot be loaded: {error!r}") from error
    if not isinstance(framework, Framework):
        raise FrameworkUnavailable(f"{entries[0].value} is a {type(framework).__name__}, not a Framework")
    return framework


def _reasons() -> dict[str, str | None]:
    reasons = {}
    for name in names():
        try:
            reasons[name] = _load([entry for entry in entry_points(group=GROUP) if entry.name == name]).unavailable()
        except FrameworkUnavailable as error:
            reasons[name] = str(error)
    return reasons

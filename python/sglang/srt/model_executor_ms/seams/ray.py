"""SGLang's actors of Ray."""

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

from sglang.srt.model_executor_ms.seams import hooks

ENGINE = "sglang.srt.ray.engine"


def launch_with(hook: Callable) -> None:
    """hook(original, engine, server_args, port_args, ...) around the launch of actors."""
    hooks.around(f"{ENGINE}.RayEngine._launch_scheduler_processes", hook)


def before_shutdown(hook: Callable) -> None:
    """hook(engine, ...) before an engine ends its actors."""
    hooks.before(f"{ENGINE}.RayEngine.shutdown", hook)


def select_device_with(select: Callable) -> None:
    """select(device) in the place of torch.cuda.set_device, which SGLang's actor calls on any device."""
    hooks.replace("torch.cuda.set_device", select)


@contextlib.contextmanager
def launching(actors, place: Callable) -> Iterator[None]:
    """Meanwhile SGLang's launch makes its actors with `actors`, and asks for their places with `place`.

    It declares nothing: SGLang 0.5.23 declares the address of replicas once the record is published, which is an
    error, and gives each actor the address anyway.
    """
    ours = {
        f"{ENGINE}.SchedulerActor": actors,
        "ray.util.placement_group.placement_group": place,
        f"{ENGINE}.declare_resolution": _declare_nothing,
    }
    with contextlib.ExitStack() as meanwhile:
        for name, replacement in ours.items():
            meanwhile.enter_context(mock.patch(name, replacement))
        yield


def _declare_nothing(*_arguments, **_others) -> None:
    pass

"""SGLang's hook machinery; the only file that imports it.

A target is the dotted path of a function, method or class. Hooks are applied at once: HookRegistry.apply_hooks leaves
out a target that any plugin has hooked before.
"""

from collections.abc import Callable

from sglang.srt.plugins.hook_registry import HookRegistry, HookSource, HookType

SOURCE = HookSource("mindspore", "sglang-mindspore")  # named in SGLang's log of hooks


def before(target: str, hook: Callable) -> None:
    """Call hook(*arguments) before the target."""
    _apply(target, hook, HookType.BEFORE)


def after(target: str, hook: Callable) -> None:
    """Call hook(result, *arguments) after the target; what it returns, if anything, is the result."""
    _apply(target, hook, HookType.AFTER)


def around(target: str, hook: Callable) -> None:
    """Call hook(original, *arguments) instead of the target."""
    _apply(target, hook, HookType.AROUND)


def replace(target: str, replacement: Callable) -> None:
    """Put a function or a class in the place of the target, in every module that imported it."""
    _apply(target, replacement, HookType.REPLACE)


def leave_uncompiled(function: Callable) -> None:
    """Let SGLang call what torch.compile would compile as it is written, if `function` is so compiled."""
    if plain := getattr(function, "_torchdynamo_orig_callable", None):
        replace(f"{plain.__module__}.{plain.__name__}", plain)


def _apply(target: str, hook: Callable, kind: HookType) -> None:
    HookRegistry._apply_target(target, [(kind, hook, SOURCE)])

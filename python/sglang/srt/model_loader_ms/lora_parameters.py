"""Adapters of parameters, as PEFT saves them for `target_parameters`: of the matrices of all experts at once.

PEFT wraps the module that has the parameter, and wraps that again for the next parameter: `experts.base_layer` is of
the first one. The names of tensors do not say which parameter it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

BASE_LAYER = ".base_layer"
ORDER = ("gate_up_proj", "down_proj")  # in which mixtures of transformers have their parameters


class AdapterError(ValueError):
    """An adapter is damaged, or is none that is served. The message names the key, the file or the tensors."""


class Named(NamedTuple):
    """What factors are of."""

    module: str  # the parameter's name without .weight, or a module's
    key: str  # with which patterns of ranks are compared
    wraps: bool  # whether it is a parameter


def by_parameter(modules: Iterable[str], targets: Sequence[str]) -> Mapping[str, Named]:
    """The modules that tensors are named by -> what their factors are of. AdapterError where that cannot be said.

    targets: the config's target_parameters.
    """
    wrapped = {}
    for module in modules:
        base, depth = module, 0
        while base.endswith(BASE_LAYER):
            base, depth = base.removesuffix(BASE_LAYER), depth + 1
        wrapped.setdefault(base, {})[depth] = module
    found = {}
    for base, levels in wrapped.items():
        parameters = _parameters(base, targets)
        if not parameters and list(levels) == [0]:
            found[base] = Named(base, base, False)
            continue
        if sorted(levels) != list(range(len(parameters))):
            raise AdapterError(
                f"{base} has factors of {len(levels)} parameters; target_parameters names {parameters or 'none'} of it"
            )
        for depth, name in enumerate(reversed(parameters)):  # the last one is wrapped last
            whole = f"{base}.{name}"
            found[levels[depth]] = Named(whole.removesuffix(".weight"), whole, True)
    return found


def _parameters(module: str, targets: Sequence[str]) -> list[str]:
    """Names of a module's parameters that are targets, in the order in which PEFT wraps them."""
    names = {target.rpartition(".")[2] for target in targets}
    own = [name for name in names if any(f".{module}.{name}".endswith(f".{target}") for target in targets)]
    if len(own) > 1 and not set(own) <= set(ORDER):
        raise AdapterError(
            f"target_parameters names {sorted(own)} of {module}: the order of their factors is not known"
        )
    return sorted(own, key=lambda name: ORDER.index(name) if name in ORDER else 0)


def of_experts(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """PEFT's factors of a stack, [count * r, in] and [out, r * count] -> [count, r, in], [count, out, r].

    Those of one matrix stay as they are, and so do others that are no multiple of the rank.
    """
    count = len(a) // rank
    if count < 2 or len(a) != count * rank or b.shape[1] != count * rank:
        return a, b
    return a.reshape(count, rank, -1), b.reshape(len(b), rank, count).permute(2, 0, 1)

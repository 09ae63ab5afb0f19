"""Weights that a checkpoint holds as int8 with a factor for each row, for parameters that want the products of both.

Beside `name`, int8 [n, k], such a checkpoint has `name`_scale, [n, 1].
"""

from sglang.srt.model_loader_ms.float8 import Scales

SUFFIX = "_scale"


def join(tensors: dict, names: set) -> list[str]:
    """Take the factors of these tensors out of `tensors` (name -> checkpoint.Stored) and add them to the tensors.

    -> a line for each that does not fit.
    """
    problems = []
    for name in sorted(name for name in names if name in tensors and tensors[name].dtype == "int8"):
        stored, factors = tensors[name], tensors.pop(name + SUFFIX, None)
        if factors is None:
            problems.append(f"missing: {name}{SUFFIX}, the factors of int8 rows")
        elif len(stored.shape) != 2 or factors.shape != (stored.shape[0], 1):
            problems.append(f"wrong shape: {name}{SUFFIX} is {list(factors.shape)}, and {name} {list(stored.shape)}")
        else:
            tensors[name] = stored._replace(dtype="float32", scales=Scales(factors.data, (1, stored.shape[1])))
    return problems

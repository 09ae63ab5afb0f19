"""The C++ operators as functions that layers can call, made of their definitions (src/operators.def).

A definition is a line of the library: its name and its arguments. `stub` makes the custom operator of MindSpore, whose
results' shapes and dtypes follow from the arguments', and a function of the names of its tensors, sizes and attributes.
What has a row for each token comes as rows.py has it, and results have the valid rows of the first such argument. Where
there is none, they are the function's first argument, and results are tensors.
MindSpore's compiler reads a function's source: that of a stub is kept where `inspect` looks for it.
"""

import inspect
import linecache
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops import contract
from sglang.srt.layers_ms.ops.cpu import library
from sglang.srt.layers_ms.ops.cpu.library import floats, ints, nothing, sizes  # noqa: F401 - what stubs are made with
from sglang.srt.layers_ms.ops.cpu.rows import paired, valid_rows, values  # noqa: F401 - the same

ROWS = ("tokens", "gathered", "dispatched", "sent_room")  # axes of which not all rows count
TENSORS = ("IN", "OPT", "FLAT", "STATE", "OPTSTATE", "SCALAR")
OPTIONAL = ("OPT", "OPTSTATE")
DTYPES = {"F32": mstype.float32, "I32": mstype.int32}


@dataclass(frozen=True)
class Argument:
    """One part of a definition, as `IN(x, A, tokens, size)`: what it is, and what is between its parentheses."""

    what: str
    parts: tuple[str, ...]


def _split(text: str) -> tuple[str, ...]:
    """At commas outside parentheses."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return tuple(part.strip() for part in parts)


def _arguments(text: str) -> Iterator[Argument]:
    while match := re.match(r"\s*([A-Z]+)\(", text):
        end, depth = match.end(), 1
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        yield Argument(match[1], _split(text[match.end() : end - 1]))
        text = text[end:]


def definitions() -> dict[str, list[Argument]]:
    """Operator -> its arguments, in order."""
    lines = (line.split(": ", 1) for line in library.definitions().splitlines())
    return {name: [each for each in _arguments(text) if each.what != "CHECK"] for name, text in lines}


def _value(expression: str, names: dict) -> int:
    return eval(expression.replace("/", "//"), {}, names)


def _inputs(arguments: list[Argument]) -> Iterator[tuple[str, list[Argument]]]:
    """The tensors that the operator is given: one each, but for attributes, of which each kind is one."""
    kinds = {"INT": "ints", "FLAG": "ints", "FLOAT": "floats"}
    given = set()
    for each in arguments:
        if each.what in TENSORS or each.what == "SIZE":
            yield each.what, [each]
        elif (kind := kinds.get(each.what)) and kind not in given:
            given.add(kind)
            yield kind, [other for other in arguments if kinds.get(other.what) == kind]


def _result_shapes(arguments: list[Argument], shapes) -> list[list[int]]:
    """Shapes of the results, where `shapes` are those of the inputs."""
    names, inputs = {}, iter(shapes)
    of_input = {id(first): next(inputs) for _, (first, *_) in _inputs(arguments)}
    found = []
    for each in arguments:
        shape = of_input.get(id(each))
        if each.what in ("IN", "STATE", *OPTIONAL, "SIZE"):
            axes = each.parts if each.what == "SIZE" else each.parts[2:]
            for axis, size in zip(axes, shape, strict=False):  # of one that is not given, nothing is known
                if axis.isidentifier() and each.what not in OPTIONAL:
                    names.setdefault(axis, size)
        elif each.what == "ROOM":
            names[each.parts[0]] = _value(each.parts[1], names)
        elif each.what == "OUT":
            found.append([_value(axis, names) for axis in each.parts[2:]])
    return found


def _result_dtypes(arguments: list[Argument], dtypes) -> list:
    known, inputs = dict(DTYPES), iter(dtypes)
    for what, (each, *_) in _inputs(arguments):
        dtype = next(inputs)
        if what in ("IN", "STATE", "FLAT"):
            known.setdefault(each.parts[1], dtype)
    return [known[each.parts[1]] for each in arguments if each.what == "OUT"]


def _one_or_all(found: list):
    return found[0] if len(found) == 1 else tuple(found)


def _first_axis(argument: Argument) -> str:
    return argument.parts[2] if len(argument.parts) > 2 else ""


def _told_by(arguments: list[Argument]) -> str:
    """The argument whose valid rows an operator is given; "": none of them."""
    return next((each.parts[0] for each in arguments if each.what == "IN" and _first_axis(each) == "tokens"), "")


def _expression(what: str, arguments: list[Argument]) -> str:
    """What a stub gives the operator for an input."""
    names = [each.parts[0] for each in arguments]
    if what == "IN" and _first_axis(arguments[0]) in ROWS:
        return f"values({names[0]})"
    if what in ("ints", "floats"):
        return f"{what}({', '.join(names)})"
    if what == "SIZE":
        return f"sizes({', '.join(arguments[0].parts)})"
    if what in OPTIONAL:
        given = f"values({names[0]})" if _first_axis(arguments[0]) in ROWS else names[0]
        return f"nothing() if {names[0]} is None else {given}"
    return names[0]


def _parameters(name: str, arguments: list[Argument]) -> list[str]:
    """The contract's, where it has an operator of this name and of these arguments; else in the definition's order."""
    own = [] if _told_by(arguments) else ["rows"]
    for each in arguments:
        if each.what in (*TENSORS, "INT", "FLAG", "FLOAT"):
            own.append(each.parts[0])
        elif each.what == "SIZE":
            own += each.parts
    of_contract = list(inspect.signature(getattr(contract, name, lambda: None)).parameters)
    return of_contract if set(of_contract) == set(own) else own


def stub(name: str, arguments: list[Argument]) -> str:
    """The source of the function `name`, which calls the operator `_name`."""
    like = _told_by(arguments)
    inputs = [f"valid_rows({like})" if like else "rows", *(_expression(*each) for each in _inputs(arguments))]
    results = [each for each in arguments if each.what == "OUT"]
    found = [f"found[{place}]" if len(results) > 1 else "found" for place in range(len(results))]
    for place, result in enumerate(results):
        if like and _first_axis(result) == "tokens":
            found[place] = f"paired({found[place]}, valid_rows({like}), {like})"
    return (
        f"def {name}({', '.join(_parameters(name, arguments))}):\n"
        f"    found = _{name}({', '.join(inputs)})\n"
        f"    return {', '.join(found)}\n\n\n"
    )


def _define(all_operators: dict[str, list[Argument]]) -> None:
    for name, arguments in all_operators.items():
        globals()["_" + name] = library.Operator(
            name,
            lambda _valid_rows, *shapes, a=arguments: _one_or_all(_result_shapes(a, shapes)),
            lambda _valid_rows, *dtypes, a=arguments: _one_or_all(_result_dtypes(a, dtypes)),
        )
    file, source = "<operators.def>", "".join(stub(*each) for each in all_operators.items())
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    exec(compile(source, file, "exec"), globals())


_define(definitions())

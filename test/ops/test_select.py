"""Binding operator names to a table: all of them, or none and a reason."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sglang.srt.layers_ms import ops as bound_ops
from sglang.srt.layers_ms.ops import reference

SECONDS = 1


@pytest.fixture
def ops(monkeypatch):
    """The room as it is before anything was selected, whatever this process has selected in its own."""
    source = Path(bound_ops.__file__)
    spec = importlib.util.spec_from_file_location(
        "unbound_ops", source, submodule_search_locations=[str(source.parent)]
    )
    module = importlib.util.module_from_spec(spec)
    known = set(sys.modules)
    monkeypatch.setitem(sys.modules, "unbound_ops", module)
    spec.loader.exec_module(module)
    yield module
    for name in set(sys.modules) - known:
        del sys.modules[name]


def add_table(monkeypatch, name, without=(), **operators):
    """A table of the reference's operators, except some, and with others in the place of some."""
    table = ModuleType(f"unbound_ops.{name}")
    kept = {operator: getattr(reference, operator) for operator in bound_ops.NAMES if operator not in without}
    vars(table).update(kept, **operators)
    monkeypatch.setitem(sys.modules, table.__name__, table)


def test_the_reference_has_no_operator_that_the_contract_does_not_name(ops):
    values = vars(reference).values()  # some are written in files beside it: reference_experts.py
    functions = [value for value in values if getattr(value, "__module__", "").startswith(reference.__name__)]
    assert {function.__name__ for function in functions if not function.__name__.startswith("_")} == set(ops.NAMES)


def test_every_operator_is_tested_beside_this_file_for_every_table():
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py") if path != Path(__file__))
    untested = {name for name in bound_ops.NAMES if f"ops.{name}" not in sources and f'"{name}"' not in sources}
    # Ranks that communicate are in test/distributed; start is called by device.start for every test.
    collectives = {"all_gather", "reduce_scatter", "all_to_all", "broadcast", "send", "receive"}
    collectives |= {"dispatch_experts", "combine_experts"}
    assert untested == {*collectives, "start"}


def test_an_operator_called_before_select_says_so(ops):
    with pytest.raises(ops.OperatorTableError, match=r"ops\.rms_norm was called before ops\.select"):
        ops.rms_norm(None, None, 1e-6, 0.0)


def test_select_binds_every_operator(ops):
    ops.select("reference")
    bound = {name: getattr(ops, name) for name in ops.NAMES}
    assert all(function.__module__.startswith("unbound_ops.reference") for function in bound.values())
    assert {name: function.__name__ for name, function in bound.items()} == {name: name for name in ops.NAMES}


def test_a_table_without_an_operator_is_refused_by_name_and_binds_nothing(ops, monkeypatch):
    add_table(monkeypatch, "partial", without=["linear"])
    with pytest.raises(ops.OperatorTableError, match=r"'partial' has no linear; add it to ops/partial\.py"):
        ops.select("partial")
    with pytest.raises(ops.OperatorTableError, match="before"):
        ops.silu_and_mul(None)


def test_another_signature_than_the_contracts_is_refused_and_binds_nothing(ops, monkeypatch):
    add_table(monkeypatch, "strange", silu_and_mul=lambda x: None)
    with pytest.raises(ops.OperatorTableError, match=r"takes \['x'\], the contract says \['gate_up'\]"):
        ops.select("strange")
    with pytest.raises(ops.OperatorTableError, match="before"):
        ops.rms_norm(None, None, 1e-6, 0.0)


def test_a_fallback_gives_what_a_table_lacks_and_is_announced(ops, monkeypatch, caplog):
    add_table(monkeypatch, "partial", without=["linear", "logits"])
    with caplog.at_level("INFO", logger="unbound_ops"):
        ops.select("partial", fallback="reference")
    assert ops.linear.__module__ == "unbound_ops.reference"
    assert ops.rms_norm is reference.rms_norm  # what the partial table has is taken from it
    assert "operators: partial; from reference: linear, logits" in caplog.text


def test_an_unknown_table_is_an_import_error_that_names_it(ops):
    with pytest.raises(ModuleNotFoundError, match=r"unbound_ops\.nonesuch"):
        ops.select("nonesuch")

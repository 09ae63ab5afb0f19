"""Operator tables: a table is whole when it is defined, and its operators are bound by their names."""

from pathlib import Path
from types import ModuleType

import pytest

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops import contract, contract_sparse
from sglang.srt.layers_ms.ops.ascend.table import AscendTable
from sglang.srt.layers_ms.ops.reference.table import ReferenceTable
from sglang.srt.layers_ms.ops.table import METHODS, OPERATORS, OperatorTable, OperatorTableError

SECONDS = 1


@pytest.fixture(autouse=True)
def bound_again():
    """Whatever table other tests have bound is bound again at the end."""
    before = {name: getattr(ops, name) for name in (*ops.NAMES, "_bound")}
    yield
    vars(ops).update(before)


def module(**functions) -> ModuleType:
    made = ModuleType("operators")
    vars(made).update(functions)
    return made


def silu_and_mul(gate_up):
    return "another"


def prepack_linear(weight):
    return "packed"


# How a device holds weights: in test/ascend.
OF_WEIGHTS = {"computed_offset", "prepack_static_quant", "prepack_experts_lora"}


def test_every_operator_is_tested_beside_this_file_for_every_table():
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py") if path != Path(__file__))
    untested = {name for name in ops.NAMES if f"ops.{name}" not in sources and f'"{name}"' not in sources}
    # Ranks that communicate are in test/distributed; start is called by device.start for every test. What a table reads
    # of a step is in test/executor, and how weights come to a device in test/ascend.
    collectives = {"all_gather", "reduce_scatter", "all_to_all", "broadcast", "send", "receive"}
    collectives |= {"dispatch_experts", "combine_experts"}
    assert untested == {*collectives, "start", "metadata_fields", "move_to_device", "fetch", *OF_WEIGHTS}


def test_an_operator_called_before_select_says_so():
    vars(ops).update(rms_norm=ops._unselected("rms_norm"), _bound=None)
    with pytest.raises(OperatorTableError, match=r"ops\.rms_norm was called before ops\.select"):
        ops.rms_norm(None, None, 1e-6, 0.0)
    with pytest.raises(OperatorTableError, match=r"ops\.capabilities was called before ops\.select"):
        ops.capabilities()


def test_select_binds_every_operator_as_a_plain_function():
    ops.select("reference")
    assert type(ops.bound()) is ReferenceTable
    for name in OPERATORS:
        assert getattr(ops, name).__name__ == name
        assert not hasattr(getattr(ops, name), "__self__")  # MindSpore compiles functions, not methods of ours


def test_the_reference_inherits_nothing_and_a_table_only_what_it_says():
    assert ReferenceTable.inherited() == []

    class Faster(ReferenceTable, operators=[module(silu_and_mul=silu_and_mul)], inherits=OPERATORS + METHODS):
        """One operator of its own."""

    assert set(Faster.inherited()) == set(OPERATORS) - {"silu_and_mul"}
    ops.bind(Faster())
    assert ops.silu_and_mul(None) == "another"
    assert ops.rms_norm is ReferenceTable.rms_norm


def test_the_last_module_with_an_operator_wins():
    def first(gate_up):
        return "first"

    class Faster(ReferenceTable, operators=[module(silu_and_mul=first), module(silu_and_mul=silu_and_mul)]):
        """Two of one operator."""

    assert Faster.silu_and_mul(None) == "another"


def test_an_operator_that_a_table_takes_without_saying_so_is_refused_by_name_where_it_is_called():
    class Partial(ReferenceTable, inherits=[name for name in OPERATORS + METHODS if name != "linear"]):
        """Would fall back to the reference's product, unseen."""

    class Variant(Partial, operators=[module(silu_and_mul=silu_and_mul)]):
        """Lacks what its parent lacks."""

    for table in (Partial, Variant):
        assert table.lacking() == ["linear"]
        ops.bind(table())
        with pytest.raises(OperatorTableError, match="Partial has no linear: write it in one of its modules, or name"):
            ops.linear(None, None, None)


def test_an_operator_that_no_table_has_is_refused_by_name_where_it_is_called():
    operators = {name: getattr(ReferenceTable, name) for name in OPERATORS if name != "rms_norm"}
    asked = ("init_group", "start", "cache_view", "metadata_fields", "build_metadata")
    methods = {name: getattr(ReferenceTable, name) for name in asked}

    class Lacking(OperatorTable, operators=[module(**operators, **methods)]):
        """No parent has one."""

    assert Lacking.lacking() == ["rms_norm"]
    with pytest.raises(OperatorTableError, match="Lacking has no rms_norm"):
        Lacking.rms_norm(None)


def test_a_table_that_does_not_answer_what_each_must_is_refused():
    operators = {name: getattr(ReferenceTable, name) for name in OPERATORS}
    with pytest.raises(OperatorTableError, match="Silent has no start"):

        class Silent(OperatorTable, operators=[module(**operators)]):
            """How a cache is seen has no default."""


def test_another_signature_than_the_contracts_is_refused():
    with pytest.raises(OperatorTableError, match=r"silu_and_mul takes \['x'\], the contract says \['gate_up'\]"):

        class Strange(ReferenceTable, operators=[module(silu_and_mul=lambda x: None)]):
            """As the contract, but for a name."""


def test_a_method_may_be_a_function_of_a_module_with_the_parameters_of_the_method():
    class Packing(ReferenceTable, operators=[module(prepack_linear=prepack_linear)]):
        """One method of its own."""

    assert Packing().prepack_linear(None) == "packed"
    with pytest.raises(OperatorTableError, match=r"prepack_linear takes \[\], the contract says \['weight'\]"):

        class Strange(ReferenceTable, operators=[module(prepack_linear=lambda: None)]):
            """As the contract, but for a parameter."""


def test_an_npu_computes_nothing_with_the_references_operators():
    assert AscendTable.inherited() == []


LACKING = [name for name in OPERATORS if getattr(contract, name) is getattr(contract_sparse, name, None)]


@pytest.mark.parametrize("name", ops.TABLES)
def test_no_table_lacks_an_operator(name):
    try:
        table = ops.load(name)
    except ImportError as reason:
        pytest.skip(str(reason))
    # What is not written for a device yet: its models are refused by name (check_sparse_attention).
    assert table.lacking() == (LACKING if issubclass(table, AscendTable) else [])


def test_the_contract_is_all_that_a_table_has():
    public = {name for name in dir(ReferenceTable) if name[0] != "_"}
    assert public == {*OPERATORS, *METHODS, "capabilities", "inherited", "lacking"}
    assert set(OPERATORS) == {name for name in vars(contract) if name.islower() and callable(getattr(contract, name))}


def test_an_unknown_table_is_an_error_that_names_those_there_are():
    with pytest.raises(OperatorTableError, match="there is no operator table 'nonesuch'; there are reference, cpu"):
        ops.select("nonesuch")

"""The functions that are made of the definitions of the C++ operators."""

import inspect

import mindspore as ms
import numpy as np
import pytest

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops import contract
from sglang.srt.layers_ms.ops.table import OPERATORS
from sglang.srt.model_executor_ms.runner import device

SECONDS = 3
stubs = pytest.importorskip("sglang.srt.layers_ms.ops.cpu.stubs", reason="the C++ operators were not built")


@pytest.fixture(scope="module", autouse=True)
def table():
    device.start("cpu", "cpu")


def defined(text):
    return list(stubs._arguments(text))


def test_a_definition_is_read_part_by_part():
    parts = defined('AXES(size) IN(x, A, tokens, (size + 1) * 2) FLOAT(eps) CHECK(size > f(1, 2), "a, %ld", size)')
    assert [part.what for part in parts] == ["AXES", "IN", "FLOAT", "CHECK"]
    assert parts[1].parts == ("x", "A", "tokens", "(size + 1) * 2")


def test_a_stub_gives_the_operator_tensors_then_attributes_of_each_kind():
    parts = defined(
        "IN(w, W, k, n) IN(x, A, tokens, n) OPT(b, A, n) "
        "SIZE(k, m) INT(i) FLAG(j) FLOAT(c) FLOAT(d) OUT(y, A, tokens, k)"
    )
    assert stubs.stub("example", parts) == (
        "def example(w, x, b, k, m, i, j, c, d):\n"
        "    found = _example(valid_rows(x), w, values(x), "
        "nothing() if b is None else b, sizes(k, m), ints(i, j), floats(c, d))\n"
        "    return paired(found, valid_rows(x), x)\n\n\n"
    )


def test_a_stub_without_an_argument_that_has_valid_rows_is_given_them():
    parts = defined("IN(x, A, dispatched, n) OUT(y, A, tokens, n) OUT(z, I32, 2)")
    assert stubs.stub("example", parts) == (
        "def example(rows, x):\n    found = _example(rows, values(x))\n    return found[0], found[1]\n\n\n"
    )


def test_results_have_the_valid_rows_of_what_they_are_made_of():
    rows = ms.Tensor(np.array([2, 1], np.int32))
    x, weight = ms.Tensor(np.ones((3, 8), np.float32)), ms.Tensor(np.ones(8, np.float32))
    given = ops.with_valid_rows(x, {"valid_rows": rows})
    for found in ops.add_rms_norm(given, given, weight, 1e-6, 0.0):
        assert found[1] is rows
        assert ops.without_valid_rows(found).shape == (3, 8)


def test_results_have_the_sizes_and_dtypes_that_follow_from_the_arguments():
    parts = defined("AXES(n) IN(x, A, tokens, n) SIZE(k) INT(a) ROOM(m, tokens * k) OUT(y, A, m, n / 2) OUT(z, I32, k)")
    assert stubs._result_shapes(parts, [[5, 7], [3], [1]]) == [[15, 3], [3]]
    assert stubs._result_dtypes(parts, [ms.float16, ms.int32, ms.int32]) == [ms.float16, ms.int32]


@pytest.mark.parametrize("name", [name for name in OPERATORS if hasattr(stubs, name)])
def test_a_stub_with_the_contracts_arguments_has_the_contracts_signature(name):
    own, wanted = (list(inspect.signature(getattr(module, name)).parameters) for module in (stubs, contract))
    assert own == wanted or set(own) != set(wanted)


def test_sources_of_stubs_can_be_read():  # which MindSpore's compiler does
    assert inspect.getsource(stubs.rms_norm).startswith("def rms_norm(x, weight, eps, offset):")


def test_what_is_wrong_with_an_argument_is_told_by_its_name(capfd):
    x, weight = ms.Tensor(np.ones((3, 8), np.float32)), ms.Tensor(np.ones(4, np.float16))
    with pytest.raises(RuntimeError):
        ops.rms_norm(x, weight, 1e-6, 0.0).asnumpy()
    assert "rms_norm: weight is float16; float32 wanted" in capfd.readouterr().err

"""benchmark/ascend/first_run.py on a card that is played, right and with each fault switched on in turn."""

import functools
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.model_executor_ms.runner import device

from .inference import LACKING

FOLDER = Path(__file__).parents[2] / "benchmark/ascend"
sys.path.insert(0, str(FOLDER))
import first_checks  # noqa: E402
import first_run  # noqa: E402
import operator_cases  # noqa: E402

sys.path.remove(str(FOLDER))

SECONDS = 12
CHECKS = {check.name: check for check in first_run.CHECKS}
DECODING = "reshape_and_cache paged_attention"
USED = [name for case in operator_cases.CASES for name in case.name.split()]


@functools.cache
def expected(chip):
    """What the reference computes for all cases of a chip."""
    return first_checks.by_case(first_checks.reference_results(chip))


@pytest.fixture(scope="module", autouse=True)
def results(checked):
    """Of the reference, before a test replaces a kernel."""
    for chip in ("ascend310p", "ascend910b"):
        expected(chip)
    device.start("cpu", "ascend_reference")


class Played(first_checks.PlainCard):
    """A card without a fault: the kernels that check, torch's memory, and a server that always says the same."""

    device = "cpu"

    def __init__(self):
        super().__init__("model")
        self.served = []

    def start(self):
        pass

    def move(self, tensor):
        return tensor

    def finish(self):
        pass

    def expected(self):
        return expected(kernels.soc())

    def answers(self, arguments, variables):
        self.served.append((dict(arguments), dict(variables)))
        return [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def verdict(name, card, environments=None):
    """Of a check whose processes this one plays."""
    check, outcomes = CHECKS[name], []
    with pytest.MonkeyPatch.context() as patch:
        for variables in check.environments:
            for variable, value in variables.items():
                patch.setenv(variable, value)
            outcomes += check.run(card)
    return first_run.Verdict(check, outcomes)


@pytest.mark.parametrize("name", CHECKS)
def test_a_card_without_a_fault_is_right(name):
    found = verdict(name, Played())
    assert (found.word, found.avoid) == (first_run.RIGHT, []), found.outcomes


# ---- weights and inputs ----


class ZeroWeights(Played):
    """A view is a copy of what was there, on the card; and what is moved is that view."""

    def __init__(self, moved_too):
        super().__init__()
        self.early, self.moved_too = None, moved_too

    def view(self, memory, dtype):
        if self.early is None or self.moved_too:
            self.early = super().view(np.zeros_like(memory), dtype)
            return self.early
        return super().view(memory, dtype)


def test_weights_that_are_zero_on_the_card_are_wrong_and_early_views_are_of_no_account():
    early = verdict("weights", ZeroWeights(moved_too=False))
    assert early.word == first_run.RIGHT and [one.right for one in early.outcomes] == [True, False]
    zero = verdict("weights", ZeroWeights(moved_too=True))
    assert zero.word == first_run.WRONG and zero.avoid == ["--framework torch, until it is mended: report it"]


class FrozenInputs(Played):
    """A graph reads copies of the tensors that it was first called with, as MindSpore's runtime for Ascend makes them.

    all_ways: also where tensors are imported anew; else of parameters that are kept.
    """

    def __init__(self, all_ways):
        super().__init__()
        self.all_ways = all_ways

    def compiled_of_parameters(self, function):
        copies = {}

        def call(given, *lengths):
            own = [place if self.all_ways else id(tensor) for place, tensor in enumerate(given)]
            for key, tensor in zip(own, given, strict=True):
                copies.setdefault(key, (tensor, Tensor(tensor.asnumpy())))
            return function(tuple(copies[key][1] for key in own), *lengths)

        return call


def test_inputs_that_are_kept_and_no_longer_read_are_told_and_no_fault():
    found = verdict("inputs", FrozenInputs(all_ways=False))
    assert found.word == first_run.RIGHT
    assert [one.label for one in found.outcomes if not one.right] == ["several parameters, kept"]


def test_inputs_that_are_frozen_although_they_are_imported_anew_are_wrong():
    found = verdict("inputs", FrozenInputs(all_ways=True))
    assert found.word == first_run.WRONG and found.avoid == ["--disable-decode-cuda-graph"]  # whose inputs they are
    (wrong,) = found.wrong
    assert wrong.label == "several parameters, imported anew"
    assert "[[2.0, 4.0], [2.0, 4.0], [2.0, 4.0]]" in wrong.found


# ---- kernels ----


def spoiled(monkeypatch, name):
    """A kernel whose last result is off by a part of it; of integers by one."""
    kernel = getattr(kernels, name)

    def off(*arguments):
        found = kernel(*arguments)
        *others, last = found if isinstance(found, tuple) else (found,)
        array = last.astype(ms.float32).asnumpy() if last.dtype == ms.bfloat16 else last.asnumpy()
        if array.dtype == bool:
            array = ~array
        elif array.dtype.kind == "i":
            array = array + 1
        else:
            array = array * 1.5 + 0.5
        last = Tensor(array).astype(last.dtype)
        return (*others, last) if others else last

    monkeypatch.setattr(kernels, name, off)


@pytest.mark.parametrize("name", sorted(set(USED)))
def test_each_kernel_that_is_off_is_found_and_what_avoids_it_is_named(monkeypatch, name):
    wanted = expected("ascend910b")
    card = Played()
    if name in ("reshape_and_cache", "put", "put_rows"):  # what they return only orders others: they write elsewhere
        write = getattr(kernels, name)

        def elsewhere(*arguments):
            places = 4 if name == "reshape_and_cache" else 1
            moved = [*arguments]
            moved[places] = Tensor(np.roll(arguments[places].asnumpy(), 1, -1))
            return write(*moved)

        monkeypatch.setattr(kernels, name, elsewhere)
    elif name == "depend":
        monkeypatch.setattr(kernels, name, lambda x, earlier: kernels.zeros(x.shape, x.dtype))
    else:
        spoiled(monkeypatch, name)
    monkeypatch.setattr(card, "expected", lambda: wanted)
    found = verdict("operators", card)
    about = [case for case in operator_cases.CASES if name in case.name.split()]
    assert found.word == first_run.WRONG and found.avoid
    assert {case.name for case in about} & {one.label for one in found.wrong}
    assert {case.avoid for case in about} & set(found.avoid)


def test_a_kernel_that_writes_to_a_copy_of_its_cache_is_found(monkeypatch):
    put = kernels.put
    monkeypatch.setattr(kernels, "put", lambda cache, *given: put(Tensor(cache.asnumpy().copy()), *given))
    (wrong,) = verdict("operators", Played()).wrong
    assert wrong.label == "put"


def test_a_kernel_that_raises_is_told_and_others_are_tried(monkeypatch):
    def lacking(*arguments):
        raise RuntimeError("Unsupported op [Swiglu]")

    monkeypatch.setattr(kernels, "swiglu", lacking)
    found = verdict("operators", Played())
    assert [one.label for one in found.wrong] == ["swiglu gelu sigmoid"]
    assert found.wrong[0].found == "RuntimeError: Unsupported op [Swiglu]"
    assert len(found.outcomes) == len(operator_cases.CASES)


def test_every_kernel_of_the_table_is_tried_or_it_is_said_why_not(calls):
    first_checks.operators(Played())
    tried = {name for name, _ in calls} - {"soc"}
    assert tried == set(USED)
    kept = {name for name in kernels._OWN if not name.startswith("_")} - tried
    assert kept == set(operator_cases.NOT_TRIED) & set(kernels._OWN)


def test_a_310p_is_tried_with_its_own_caches_and_masks_and_without_what_it_lacks(chip_310p, calls):
    found = verdict("operators", Played())
    assert found.word == first_run.RIGHT, found.wrong
    masks = [arguments[10] for name, arguments in calls if name == "paged_attention"]
    assert [mask is None for mask in masks] == [True, False]
    lacking = {
        "segment_attention",
        "fused_attention",
        "mla_paged_attention",
        "multiply_heads",
        "quant_matmul",
        "grouped_quant_matmul",
        "grouped_int_matmul",
        "grouped_int4_matmul",
        "grouped_weight_quant_matmul",
        "dequant_swiglu_quant",
        "weight_quant_matmul",
    }
    assert not lacking & {name for name, _ in calls}


@pytest.mark.parametrize("case", operator_cases.CASES, ids=lambda case: case.name)
def test_cases_are_compiled_as_on_a_card_which_is_all_that_this_machine_lacks(monkeypatch, tmp_path, case):
    monkeypatch.chdir(tmp_path)  # where MindSpore writes what it refuses
    kernels.bind()
    monkeypatch.setattr(kernels, "soc", lambda: "ascend910b")
    try:
        first_checks.computed(first_checks.Card("model"), case)
    except (RuntimeError, TypeError, ValueError) as error:
        assert LACKING.search(str(error)), error
    finally:
        monkeypatch.undo()
        device.start("cpu", "ascend_reference")


@pytest.mark.parametrize("graph", ["compiled", "compiled_of_parameters"])
def test_graphs_of_inputs_are_compiled_as_on_a_card(monkeypatch, tmp_path, graph):
    monkeypatch.chdir(tmp_path)
    kernels.bind()
    try:
        given = tuple(Tensor(np.full(3, value, np.float32)) for value in (1, 2))
        lengths = [Tensor(np.ones(1, np.int32))] * 2
        found = getattr(first_checks.Card("model"), graph)(first_checks._doubled)(given, *lengths)
        assert [one.asnumpy().tolist() for one in found] == [[2, 2, 2], [4, 4, 4]]
    finally:
        device.start("cpu", "ascend_reference")


class EmptyRows(Played):
    """Kernels of PagedAttention that spoil other rows where one has no context."""

    def __init__(self, settings):
        super().__init__()
        self.settings = settings

    def compiled(self, function):
        def call(given, query_lens, seq_lens):
            found = function(given, query_lens, seq_lens)
            if first_checks.os.environ[first_checks.PAGED] in self.settings and not seq_lens.asnumpy().all():
                return (Tensor(found[0].asnumpy() + np.float16(1)),)
            return found

        return call


ASD, INTERNAL = (variables[first_run.PAGED] for variables in CHECKS["padding rows"].environments)


@pytest.mark.parametrize(
    "wrong, word, avoid",
    [
        ((), first_run.RIGHT, []),
        ((INTERNAL,), first_run.RIGHT, []),
        ((ASD,), first_run.WRONG, [f"{first_run.PAGED}={INTERNAL}"]),
        ((ASD, INTERNAL), first_run.WRONG, ["--disable-decode-cuda-graph, without which no row is padding"]),
    ],
)
def test_padding_rows_are_tried_with_both_kernels_and_the_good_one_is_named(wrong, word, avoid):
    found = verdict("padding rows", EmptyRows(wrong))
    assert (found.word, found.avoid) == (word, avoid)


# ---- servers ----


class Server(Played):
    """A server whose answers are wrong where `wrong` says so of its arguments and variables."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def answers(self, arguments, variables):
        found = super().answers(arguments, variables)
        return [*found[:-1], [0, 0, 0]] if self.wrong(arguments, variables) else found


def test_captured_graphs_that_answer_otherwise_are_to_be_switched_off():
    found = verdict("captured graphs", Server(lambda arguments, variables: "cuda_graph_bs_decode" in arguments))
    assert (found.word, found.avoid) == (first_run.WRONG, ["--disable-decode-cuda-graph"])
    assert found.outcomes[0].found == "2 of 3 answers are the same"


def test_graphs_that_were_kept_and_answer_otherwise_are_to_be_compiled_anew():
    card = Server(lambda arguments, variables: len(card.served) == 2)
    found = verdict("captured graphs", card)
    assert (found.word, found.avoid) == (first_run.WRONG, ["MS_COMPILER_CACHE_ENABLE=0"])


@pytest.mark.parametrize(
    "wrong, word, avoid",
    [
        (lambda arguments, variables: variables.get(first_checks.LCCL) == "on", first_run.RIGHT, []),
        (
            lambda arguments, variables: variables.get(first_checks.LCCL) == "off" and "SGLANG" not in str(variables),
            first_run.WRONG,
            ["SGLANG_MS_ALLREDUCE_FUSION=0"],
        ),
        (
            lambda arguments, variables: variables.get(first_checks.LCCL) == "off",
            first_run.WRONG,
            ["MS_ENABLE_LCCL=on"],
        ),
        (lambda arguments, variables: "tp_size" in arguments, first_run.WRONG, ["--tp-size 1"]),
    ],
)
def test_two_cards_are_tried_with_lccl_on_and_off_and_without_the_fused_kernel(wrong, word, avoid):
    found = verdict("two cards", Server(wrong))
    assert (found.word, found.avoid) == (word, avoid)


def test_torch_and_the_played_card_share_memory():
    """So that a fault of inputs is one of the double."""
    memory = torch.zeros(2, dtype=torch.float16)
    assert Played().to_mindspore(memory).data_ptr() == memory.data_ptr()

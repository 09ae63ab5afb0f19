"""What a 310P's kernels do otherwise: PagedAttention reads a mask and no mask_mode, and MLA has no kernel of heads."""

import mindspore as ms
import numpy as np
import pytest
from models.harness import Requests, assert_logits_close
from models.test_logits import LIMITS, prompts
from models.tiny import reference_logits, save

from sglang.srt.layers_ms.ops.ascend import attention as operators
from sglang.srt.layers_ms.ops.ascend import host, mla
from sglang.srt.layers_ms.ops.ascend_reference import attention
from sglang.srt.layers_ms.ops.ascend_reference.memory import ContractError

from .calls import in_nz, ints, of
from .model import PAGE, NpuModel

SECONDS = 3
F16 = ms.float16


@pytest.fixture
def requests(chip_310p, tmp_path):
    return Requests(NpuModel(save("qwen3@16", tmp_path, "float16"), "float16"), PAGE)


def chunks(requests):
    """A prompt in two steps, the second beside another prompt's last token."""
    ids = prompts()
    first = requests.step({"long": ids["long"][:20], "short": ids["short"][:-1]})
    last = requests.step({"long": ids["long"][20:], "short": ids["short"][-1:]})
    return ids, {name: np.concatenate([first[name], last[name]]) for name in last}


def test_a_later_chunk_has_a_mask_that_hides_what_comes_after_each_token(requests, calls):
    ids, found = chunks(requests)
    wanted = {name: reference_logits("qwen3@16", ids[name], "float16") for name in found}
    assert_logits_close(found, wanted, LIMITS["float16"])
    masks = [arguments[10] for name, arguments in calls if name == "paged_attention"]
    mask, rows = masks[0].asnumpy(), len(ids["long"]) - 20 + 1
    assert len(masks) == 2 and mask.shape == (rows, -(-len(ids["long"]) // PAGE) * PAGE)
    places = [*range(20, len(ids["long"])), len(ids["short"]) - 1]
    np.testing.assert_array_equal(mask == 0, np.arange(mask.shape[1]) <= np.array(places)[:, None])


def test_the_fault_of_relying_on_the_mode_is_refused_by_the_kernel_that_checks(requests, monkeypatch):
    monkeypatch.setattr(operators, "_wants_mask", lambda forward_mode: False)
    with pytest.raises(ContractError, match="queries see what comes after them"):
        chunks(requests)


def test_a_mask_of_other_tokens_gives_other_logits(requests, monkeypatch):
    """What the kernel that checks hides is what the mask says, and nothing else."""
    made = operators.chunk_mask

    def nothing_hidden(*arguments):
        mask = made(*arguments)
        return of(F16, *mask.shape, value=0.0)

    monkeypatch.setattr(operators, "chunk_mask", nothing_hidden)
    ids, found = chunks(requests)
    wanted = {name: reference_logits("qwen3@16", ids[name], "float16") for name in found}
    with pytest.raises(pytest.fail.Exception):
        assert_logits_close(found, wanted, LIMITS["float16"])


def test_steps_that_decode_have_no_mask(requests, calls):
    ids = prompts()
    requests.step({"long": ids["long"]})
    calls.clear()
    requests.step({"long": ids["one"]})
    assert {arguments[10] for name, arguments in calls if name == "paged_attention"} == {None}


def test_the_products_of_heads_of_mla_are_stock_ones_and_that_of_the_910_family_is_refused(chip_310p, monkeypatch):
    x, weights = of(F16, 3, 2, 16), of(F16, 2, 16, 32, value=0.5)
    found = mla._multiply_heads(x, weights, False)
    assert found.shape == (3, 2, 32) and (found.asnumpy() == 8).all()
    monkeypatch.setattr(mla, "_blockwise", lambda: False)
    with pytest.raises(ContractError, match="a 310P has not got it"):
        mla._multiply_heads(x, weights, False)


@pytest.mark.parametrize("chip, masked", [("ascend310p", True), ("ascend910b", False), ("ascend910_93", False)])
def test_only_a_310p_wants_masks(checked, monkeypatch, chip, masked):
    monkeypatch.setattr(operators.kernels, "soc", lambda: chip)
    assert operators._wants_mask(host.CHUNK) is masked
    assert not operators._wants_mask(host.DECODE) and not operators._wants_mask(host.SINGLE_BLOCK)


def test_a_310p_hides_by_the_mask_whatever_the_mode(chip_310p):
    query, cache = of(F16, 2, 16), in_nz(4, 16, 16)
    lengths = ints(4), ints(2)
    mask = np.zeros((2, 16), np.float16)
    mask[0, 3:], mask[1, 4:] = -10000, -10000

    def found(mode, mask):
        out = attention.paged_attention(query, cache, cache, ints([1]), *lengths, 1, 1, 1.0, mode, mask)
        return out.asnumpy()

    np.testing.assert_array_equal(found("MASK_DEFAULT", ms.Tensor(mask)), found("TRAPEZOIDAL", ms.Tensor(mask)))

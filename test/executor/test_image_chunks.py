"""Chunks of prompts that end between images."""

from types import SimpleNamespace

import pytest

from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem, MultimodalInputs
from sglang.srt.managers.schedule_policy import AddReqResult, _PrefillAdmission
from sglang.srt.model_executor_ms.runner import image_chunks
from sglang.srt.model_executor_ms.seams import hooks, scheduling
from sglang.srt.models_ms.config import UnsupportedConfig

SECONDS = 2


def request(*images, begin=0, end=0):
    items = [MultimodalDataItem(modality=Modality.IMAGE, offsets=[places]) for places in images]
    return SimpleNamespace(multimodal_inputs=MultimodalInputs(mm_items=items), prefix_len=begin, extend_end=end)


@pytest.mark.parametrize(
    "begin, end, found",
    [
        (0, 5, 5),
        (0, 6, 5),
        (0, 8, 5),
        (0, 9, 9),
        (0, 10, 10),
        (0, 12, 10),
        (5, 8, 5),
        (5, 9, 9),
        (7, 8, 7),
        (0, 20, 20),
    ],
)
def test_a_chunk_ends_before_an_image_that_it_would_cut(begin, end, found):
    assert image_chunks.end_of_chunk(request((5, 8), (10, 13)), begin, end) == found


def test_a_prompt_without_images_is_cut_anywhere():
    assert image_chunks.end_of_chunk(SimpleNamespace(multimodal_inputs=None), 3, 7) == 7


@pytest.fixture
def hooked(monkeypatch):
    """What is hooked: the name of a method -> the hook after it."""
    found = {}
    monkeypatch.setattr(hooks, "after", lambda target, hook: found.update({target.rpartition(".")[2]: hook}))
    scheduling.end_chunks_with(image_chunks.end_of_chunk)
    return found


def test_a_first_chunk_ends_before_an_image_or_waits(hooked):
    admission, adder = _PrefillAdmission(4, 3, 0, True, 0), SimpleNamespace(rem_chunk_tokens=3)
    hook = hooked["_select_prefill_admission"]
    assert hook(admission, adder, request((6, 9)), total_tokens=1) == _PrefillAdmission(4, 2, 0, True, 0)
    assert adder.rem_chunk_tokens == 2  # which the admission takes: another request would be the second that is cut
    assert hook(admission, adder, request((4, 9)), total_tokens=1) is AddReqResult.OTHER
    assert hook(_PrefillAdmission(4, 3, 0, False, 0), adder, request((6, 9)), total_tokens=1) is None  # the last one
    assert hook(AddReqResult.NO_TOKEN, adder, request((6, 9)), total_tokens=1) is None


@pytest.mark.parametrize("first, end, runs", [(6, 6, True), (4, 4, False)])
def test_chunks_without_a_cache_and_later_ones_do_too(hooked, first, end, runs):
    one = request((first, 9), begin=4, end=7)
    adder = SimpleNamespace(new_chunked_req=one, can_run_list=[one])
    answer = hooked["add_one_req_ignore_eos"](AddReqResult.CONTINUE, adder, one)
    assert one.extend_end == end and (one in adder.can_run_list) == (adder.new_chunked_req is one) == runs
    assert answer is (None if runs else AddReqResult.OTHER)
    one = request((first, 9), begin=4, end=7)
    adder.can_run_list = [one]
    assert hooked["add_chunked_req"](one, adder, one) is None
    assert one.extend_end == end and (one in adder.can_run_list) == runs


def test_chunks_that_share_their_room_with_decoding_requests_are_refused(monkeypatch):
    monkeypatch.setattr(image_chunks, "get_schedule", lambda: SimpleNamespace(enable_mixed_chunk=True))
    with pytest.raises(UnsupportedConfig, match="--enable-mixed-chunk"):
        image_chunks.keep_images_whole(SimpleNamespace(whole_images=True))

"""What steps of models that see begin with: rows of images where their tokens are, positions, how far tokens see."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sglang.srt.managers.mm_schedule import init_mm_embedding_cache
from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem, MultimodalInputs
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor_ms.runner import device
from sglang.srt.model_executor_ms.runner.media import MediaInputs
from sglang.srt.models_ms.decoder import MEDIA_MASK, MEDIA_ROWS, MROPE
from sglang.srt.models_ms.multimodal import VisionInputs

SECONDS = 2
WIDTH, DEEP, WORDS = 3, "deepstack_0", 50
IMAGE, VIDEO = Modality.IMAGE, Modality.VIDEO


class Network:
    """Rows of an image are its feature's, a number more each; those of a video are ten times as large."""

    config = SimpleNamespace(hidden_size=WIDTH, vocab_size=WORDS, dtype="Float32")
    modalities = ("image", "video")

    def __init__(self, deepstack=(), inputs=()):
        self.model, self.computed = SimpleNamespace(takes_media=True, deepstack=deepstack), []
        self.model_inputs = lambda: inputs

    def vision_inputs(self, feature, modality, known):
        self.computed.append((modality, float(feature[0, 0]), known["grid"].tolist()))
        return VisionInputs(feature, (np.arange(len(feature), dtype=np.int32),), feature * 0 + 1)

    def vision(self, patches, positions, rows):
        assert rows.shape[0] == patches.shape[0]
        return patches + positions

    def video(self, patches, positions, rows):
        return 10 * self.vision(patches, positions, rows)


class Seeing(MediaInputs):
    def __init__(self, **network):
        self.network = Network(**network)


@pytest.fixture(autouse=True)
def cache():
    device.start("cpu", "cpu")
    init_mm_embedding_cache(1 << 20)


def shown(number: int, first: int, count: int, modality=IMAGE, parts=1) -> MultimodalDataItem:
    """What has the rows number, number + 0.1, ..., less one, at `first` and behind it, 10 more in a next part."""
    rows = number + torch.arange(count)[:, None] / 10 + 10.0 * torch.arange(parts).repeat_interleave(WIDTH)
    item = MultimodalDataItem(modality=modality, feature=rows - 1, offsets=[(first, first + count - 1)])
    item.model_specific_data = dict(grid=torch.tensor([number]))
    item.hash, item.pad_values = number, [1_000_000 + number]
    return item


def batch(*requests, mode=ForwardMode.EXTEND, **more):
    """Of requests (items, places of their prompts that come before this step, places of it)."""
    inputs = [MultimodalInputs(mm_items=list(items)) if items else None for items, _, _ in requests]
    before, new = ([request[place] for request in requests] for place in (1, 2))
    fields = dict(forward_mode=mode, contains_mm_inputs=lambda: any(inputs), mm_inputs=inputs, input_embeds=None)
    fields |= dict(extend_prefix_lens_cpu=before, extend_seq_lens_cpu=new, mrope_positions=None)
    return SimpleNamespace(**fields | more)


def ids_of(*requests) -> torch.Tensor:
    """As SGLang has them: text's are 7, those of what is shown are numbers made of it."""
    found = []
    for items, before, new in requests:
        ids = [7] * 100
        for item in items:
            for first, last in item.offsets:
                ids[first : last + 1] = [item.pad_values[0]] * (last + 1 - first)
        found += ids[before : before + new]
    return torch.tensor(found)


def merged(seeing, *requests) -> tuple[list, list]:
    """-> of each token of a step whether it is replaced, and the first value of its row."""
    made = seeing.media_inputs(ids_of(*requests), batch(*requests))
    assert made[MEDIA_ROWS].shape == (len(made[MEDIA_MASK.name]), WIDTH)
    assert made[MEDIA_MASK.name].dtype == torch.int32
    return made[MEDIA_MASK.name].tolist(), made[MEDIA_ROWS][:, 0].tolist()


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_rows_are_where_the_tokens_of_their_image_are():
    first, second, film = shown(1, 1, 2), shown(2, 4, 2), shown(3, 7, 1, VIDEO)
    mask, rows = merged(Seeing(), ([second], 0, 6), ([], 0, 2), ([first, film], 0, 9))
    assert mask == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0]
    close(rows, [0, 0, 0, 0, 2, 2.1, 0, 0, 0, 1, 1.1, 0, 0, 0, 0, 30, 0])


def test_chunks_take_their_part_of_an_image_which_is_computed_once():
    seeing = Seeing()
    found = [merged(seeing, ([shown(1, 2, 5)], begin, 3)) for begin in (0, 3, 6)]
    masks, rows = zip(*found, strict=True)
    assert list(masks) == [[0, 0, 1], [1, 1, 1], [1, 0, 0]]
    close(rows, [[0, 0, 1], [1.1, 1.2, 1.3], [1.4, 0, 0]])
    merged(seeing, ([shown(1, 0, 5)], 0, 5), ([shown(2, 0, 1)], 0, 1))
    assert seeing.network.computed == [("image", 0.0, [1]), ("image", 1.0, [2])]


def test_rows_that_are_added_later_lie_beside_them():
    made = Seeing(deepstack=(DEEP,)).media_inputs(
        ids_of(([shown(1, 1, 2)], 0, 4)), batch(([shown(1, 1, 2, parts=2)], 0, 4))
    )
    assert {*made} == {MEDIA_MASK.name, MEDIA_ROWS, DEEP}
    assert all(made[name].is_contiguous() and made[name].shape == (4, WIDTH) for name in (MEDIA_ROWS, DEEP))
    close(made[MEDIA_ROWS][:, 0], [0, 1, 1.1, 0])
    close(made[DEEP][:, 0], [0, 11, 11.1, 0])


def test_steps_without_images_begin_with_nothing():
    seeing, request = Seeing(), ([shown(1, 1, 2)], 0, 4)
    assert seeing.media_inputs(ids_of(request), batch(([], 0, 4))) == {}
    assert seeing.media_inputs(ids_of(request), batch(request, mode=ForwardMode.DECODE)) == {}


def test_what_stands_for_an_image_becomes_an_id_of_the_vocabulary():
    seeing, request = Seeing(), ([shown(1, 1, 2)], 0, 4)
    ids = ids_of(request)
    seeing.clamp_placeholders(ids, batch(([], 0, 4)))
    assert ids.max() > WORDS
    seeing.clamp_placeholders(ids, batch(request))
    assert ids.tolist() == [7, WORDS - 1, WORDS - 1, 7]


def test_tokens_have_three_positions_or_all_their_place():
    seeing, positions = Seeing(inputs=MROPE), torch.tensor([4, 5])
    three = torch.tensor([[1, 2], [3, 4], [5, 6]])
    found = seeing.mrope_inputs(positions, batch(mrope_positions=three))
    assert [found[field.name].tolist() for field in MROPE] == three.tolist()
    found = seeing.mrope_inputs(positions, batch())
    assert [found[field.name].tolist() for field in MROPE] == [[4, 5]] * 3
    assert Seeing().mrope_inputs(positions, batch(mrope_positions=three)) == {}


def test_tokens_of_an_image_see_its_last_one_and_others_themselves():
    from sglang.srt.layers_ms.ops.metadata import LAST_SEEN

    seeing = Seeing(inputs=(LAST_SEEN,))
    requests = ([shown(1, 1, 3), shown(2, 5, 2)], 0, 8), ([], 2, 2), ([shown(3, 2, 4)], 3, 2)
    positions = torch.tensor([*range(8), 2, 3, 3, 4])
    found = seeing.last_seen_inputs(positions, batch(*requests))[LAST_SEEN.name]
    assert found.tolist() == [0, 3, 3, 3, 4, 6, 6, 7, 2, 3, 5, 5]
    assert positions.tolist() == [*range(8), 2, 3, 3, 4]
    later = seeing.last_seen_inputs(torch.tensor([8, 9]), batch(([shown(1, 1, 3)], 8, 2)))
    assert later[LAST_SEEN.name].tolist() == [8, 9]
    assert Seeing().last_seen_inputs(positions, batch(*requests)) == {}

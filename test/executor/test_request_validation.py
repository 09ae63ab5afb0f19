"""What requests may show: places in the prompt for all images, and nothing to a model of text."""

from types import SimpleNamespace

import numpy as np
import pytest

from sglang.srt import runtime_context
from sglang.srt.managers.io_struct import EmbeddingReqInput, GenerateReqInput
from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem
from sglang.srt.model_executor_ms.server.request_validation import check_media, check_prompt, check_request, unreadable
from sglang.srt.utils.common import ImageData, VideoData

SECONDS = 1


@pytest.fixture
def check(monkeypatch):
    """Function of a request and whether the server takes images: refuses it, or not."""
    monkeypatch.setattr(runtime_context, "get_model", lambda: SimpleNamespace(model_impl="mindspore"))

    def checked(request, sees, mode="null", **text_config):
        monkeypatch.setattr(runtime_context, "get_disagg", lambda: SimpleNamespace(disaggregation_mode=mode))
        processor, text = object() if sees else None, SimpleNamespace(**text_config)
        config = SimpleNamespace(vocab_size=9, hidden_size=2, hf_text_config=text)
        check_request(SimpleNamespace(is_generation=True, model_config=config, mm_processor=processor), request, [1])

    return checked


def asking(**shown):
    return GenerateReqInput(text="a", sampling_params={}, **shown)


@pytest.mark.parametrize("name", ["image_data", "video_data", "audio_data"])
def test_a_model_of_text_is_shown_nothing(check, name):
    with pytest.raises(ValueError, match=f"{name} is given, and this server takes text only"):
        check(asking(**{name: ["a.png"]}), sees=False)
    check(asking(**{name: ["a.png"]}), sees=True)


@pytest.mark.parametrize("nothing", [None, [], [None], [[None]]])
def test_what_sglang_keeps_of_no_images_is_nothing(check, nothing):
    check(asking(image_data=nothing), sees=False)


def item(modality):
    return MultimodalDataItem(modality=modality, offsets=[(0, 0)])


@pytest.mark.parametrize("given, places", [(1, 1), (2, 2), (0, 0)])
def test_every_image_has_a_place(given, places):
    items = [item(Modality.IMAGE)] * places
    check_media(asking(image_data=["a.png"] * given), [*items, item(Modality.VIDEO)])
    with pytest.raises(ValueError, match=f"places for {places} images, and image_data has {places + 1}"):
        check_media(asking(image_data=[["a.png"] * (places + 1)]), items)


@pytest.mark.parametrize(
    "videos", ["a.mp4", ["a.mp4"], [["a.png", "b.png"]], [np.zeros((2, 4, 4, 3))], [None, "a.mp4"]]
)
def test_every_video_has_a_place_whatever_its_frames_are(videos):
    check_media(asking(video_data=videos), [item(Modality.VIDEO)])
    with pytest.raises(ValueError, match="places for 0 videos, and video_data has 1"):
        check_media(asking(video_data=videos), [item(Modality.IMAGE)])
    check_media(asking(video_data=[None]), [])


def test_a_sound_that_nothing_hears_is_refused():
    check_media(asking(audio_data=["a.wav"]), [item(Modality.AUDIO)])
    with pytest.raises(ValueError, match="places for 0 sounds, and audio_data has 1"):
        check_media(asking(audio_data=["a.wav"]), [item(Modality.IMAGE)])


def test_why_an_image_cannot_be_read_is_said():
    assert unreadable(OSError("truncated")) == "An image or a video of the request cannot be read: OSError: truncated"
    assert "pip install decord2" in unreadable(RuntimeError("Error while loading x.mp4: No module named 'decord'"))


@pytest.fixture
def on(monkeypatch, check):
    """Function of a device and a drafter: that of the server."""

    def set_up(device="cpu", drafter=None):
        monkeypatch.setattr(runtime_context, "get_device", lambda: SimpleNamespace(device=device))
        monkeypatch.setattr(runtime_context, "get_spec", lambda: SimpleNamespace(speculative_algorithm=drafter))

    return set_up


@pytest.mark.parametrize("rows", [[], [[]], [[], [[0.5, 1.5]]]])
def test_a_prompt_of_no_embeddings_is_refused(check, rows):
    with pytest.raises(ValueError, match=r"input_embeds is \[.*give one row or more"):
        check_prompt(embedded(rows))
    check_prompt(GenerateReqInput(text="a", input_embeds=rows))  # which SGLang leaves out
    check_prompt(embedded([[0.5, 1.5]]))


@pytest.mark.parametrize("kind", [GenerateReqInput, EmbeddingReqInput])
def test_devices_and_folders_are_no_images(check, tmp_path, kind):
    file = tmp_path / "a b.png"
    file.write_bytes(b"")
    for path in ("/dev/zero", str(tmp_path), f"file://{tmp_path}", "file:///dev/zero"):
        for given in (path, [path], [[str(file)], [{"url": path}]], [ImageData(url=path)], [VideoData(url=path)]):
            with pytest.raises(ValueError, match=f"image_data has {path.removeprefix('file://')}, which is no file"):
                check_prompt(kind(text="a", image_data=given))
    with pytest.raises(ValueError, match="video_data has /dev/zero"):
        check_prompt(kind(text="a", video_data=["/dev/zero"]))
    files = [str(file), f"file://{tmp_path}/a%20b.png", "/nowhere/x.png"]
    others = [*files, "iVBO", "/9j" + "A" * 5000, "/a\0b", 3, None, b"/dev"]
    check_prompt(kind(text="a", image_data=others))


def test_rows_in_the_place_of_single_tokens_are_refused_where_nothing_is_generated(check):
    for name in ("positional_embed_overrides", "embed_overrides"):
        with pytest.raises(ValueError, match=f"^{name} is not supported by --framework mindspore"):
            check_prompt(EmbeddingReqInput(text=["a", "b"], **{name: {"embeds": [[1.0, 2.0]], "positions": [0]}}))
    for asked in (EmbeddingReqInput(text=["a", "b"]), EmbeddingReqInput(image_data=["a.png"])):
        check_prompt(asked)
    check_prompt(GenerateReqInput(text=["a", "b"]))


def overriding(overrides):
    return GenerateReqInput(text="a", positional_embed_overrides=overrides, sampling_params={})


def test_rows_in_the_place_of_single_tokens_are_read_from_json(check, on):
    on()
    asked = overriding({"embeds": [[1, 2.5]], "positions": [0]})
    check_prompt(asked)
    made = asked.positional_embed_overrides
    assert made.embeds.tolist() == [[1.0, 2.5]] and made.positions == [0]
    check(asked, sees=False)
    several = overriding([None, {"embeds": [[1, 2]], "positions": [0]}])
    check_prompt(several)
    assert several.positional_embed_overrides[0] is None and len(several.positional_embed_overrides[1].embeds) == 1
    form, uneven = {"embeds": [[1, 2]]}, {"embeds": [[1], [1, 2]], "positions": [0]}
    for given in ({}, [], "rows", form, [3], uneven, form | {"positions": 3}, form | {"positions": [0, 1]}):
        with pytest.raises(ValueError, match="^positional_embed_overrides is {"):
            check_prompt(overriding(given))


@pytest.mark.parametrize(
    "embeds, positions, problem",
    [
        ([[1, 2]], [1], "has positions \\[1\\] for 1 rows, of a prompt of 1 tokens"),
        ([[1, 2]], [-1], "has positions"),
        ([[1, 2]], ["a"], "has positions"),
        ([[1, 2], [3, 4]], [0, 0], "has positions"),
        ([[1, 2, 3]], [0], "embeds is a list of one row or more of 2 finite numbers"),
        ([[1, float("nan")]], [0], "embeds is a list of one row or more of 2 finite numbers"),
    ],
)
def test_rows_in_the_place_of_single_tokens_fit_the_prompt_and_the_model(check, on, embeds, positions, problem):
    on()
    asked = overriding({"embeds": embeds, "positions": positions})
    check_prompt(asked)
    with pytest.raises(ValueError, match=f"positional_embed_overrides.?{problem}"):
        check(asked, sees=False)


def embedded(rows):
    return GenerateReqInput(input_embeds=rows, sampling_params={})


def test_embeddings_in_the_place_of_tokens_are_rows_of_the_models_width(check, on):
    on()
    check(embedded([[0.5, 1.5], [2, 3]]), sees=False)
    for wrong in (
        [],
        [0.5, 1.5],
        [[0.5]],
        [[0.5, 1.5], [1.5]],
        [["a", "b"]],
        [[0.5, 1e300]],
        [[0.5, float("nan")]],
        [[[0.5, 1.5]]],
    ):
        with pytest.raises(ValueError, match="one row or more of 2 finite numbers"):
            check(embedded(wrong), sees=False)


@pytest.mark.parametrize("server", [dict(device="npu"), dict(drafter="NGRAM")])
def test_embeddings_are_refused_where_steps_do_not_begin_with_them(check, on, server):
    on(**server)
    with pytest.raises(ValueError, match="input_embeds is served by --framework mindspore on CPUs"):
        check(embedded([[0.5, 1.5]]), sees=False)


def test_embeddings_are_refused_of_models_whose_layers_have_some_of_tokens(check, on):
    on()
    with pytest.raises(ValueError, match="not served of a model with per-layer embeddings"):
        check(embedded([[0.5, 1.5]]), sees=False, hidden_size_per_layer_input=4)


@pytest.mark.parametrize(
    "strange, reason",
    [
        (dict(bootstrap_room=0), "bootstrap_room is 0: it is a number from 1"),
        (dict(bootstrap_room=-1), "bootstrap_room is -1: "),
        (dict(bootstrap_room=2**63), "bootstrap_room is 9223372036854775808: "),
        (dict(bootstrap_port=70000), "bootstrap_port is 70000: it is a number from 1 to 65535"),
        (dict(bootstrap_host=None), "bootstrap_host is not given: it is where the prefill server is met"),
        (dict(bootstrap_host=""), "bootstrap_host is not given"),
    ],
)
def test_two_servers_meet_where_they_can(check, strange, reason):
    meeting = dict(bootstrap_host="127.0.0.1", bootstrap_port=8998, bootstrap_room=2**63 - 1)
    check(asking(**meeting), sees=False, mode="decode")
    with pytest.raises(ValueError, match=reason):
        check(asking(**meeting | strange), sees=False, mode="decode")
    check(asking(**meeting | strange), sees=False)
    check(asking(**meeting | strange | dict(bootstrap_host="2.2.2.2")), sees=False, mode="decode")  # is it healthy?
    if "host" in reason:
        check(asking(**meeting | strange), sees=False, mode="prefill")

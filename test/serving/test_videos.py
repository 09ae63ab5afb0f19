"""Videos through SGLang's Engine and its HTTP server, against transformers' generate: frames, and files."""

import base64
import io

import numpy as np
import openai
import pytest
from models import vision_models
from PIL import Image
from serving.test_vision import encoded
from tiers import mostly_slow

SECONDS = 16, 110
TOKENS = 8
FRAMES = 5  # that the server takes of a file
IMAGE = vision_models.image(7, 140, 84)


def gif(frames: np.ndarray) -> str:
    """A file of these frames, as a request has it; 84 colors or fewer a frame stay what they are."""
    shown, kept = [Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames], io.BytesIO()
    shown[0].save(kept, "GIF", save_all=True, append_images=shown[1:], duration=100)
    return "data:image/gif;base64," + base64.b64encode(kept.getvalue()).decode()


def few_colors(seed: int, frames: int) -> np.ndarray:
    return vision_models.video(seed, frames, 28, 28)


def assert_answer(kind, answer, prompt, images, **videos):
    tokens, logprobs = vision_models.reference(kind, prompt, images, TOKENS, **videos)
    assert answer["output_ids"] == tokens
    found = [logprob for logprob, *_ in answer["meta_info"]["output_token_logprobs"]]
    np.testing.assert_allclose(found, logprobs[np.arange(TOKENS), tokens], atol=1e-4)


KINDS = ["llava_onevision", "llava_next_video"]


@pytest.mark.parametrize("kind", mostly_slow(KINDS, lambda kind: kind == KINDS[0]))
def test_answers_about_videos_are_transformers(start_engine, tmp_path, kind):
    config = dict(mm_process_config={"video": {"num_frames": FRAMES}})
    # Videos, of 16 tokens and more, come in several chunks.
    engine = start_engine(vision_models.save(kind, tmp_path), chunked_prefill_size=8, **config)
    video, image = vision_models.video_placeholder(kind), vision_models.placeholder(kind)

    def ask(prompt, **shown):
        greedy = dict(temperature=0, max_new_tokens=TOKENS, ignore_eos=True)
        return engine.generate(prompt=prompt, sampling_params=greedy, return_logprob=True, **shown)

    one, other = vision_models.video(1, 4), vision_models.video(2, 4)
    whole = dict(do_sample_frames=False)
    answer = ask(f"Look: {video} What?", video_data=[one])
    assert_answer(kind, answer, f"Look: {video} What?", [], videos=[one], **whole)
    again = ask(f"Look: {video} What?", video_data=[[Image.fromarray(frame) for frame in one]])
    assert again["output_ids"] == answer["output_ids"]
    assert again["meta_info"]["cached_tokens"] == again["meta_info"]["prompt_tokens"] - 1
    both = f"{video} or {image}{video} here"
    answer = ask(both, video_data=[one, other], image_data=[encoded(IMAGE)])
    assert_answer(kind, answer, both, [IMAGE], videos=[one, other], **whole)
    assert_videos_of_several_lengths(ask, video)
    assert_files(kind, ask, f"{video} now?")


def assert_videos_of_several_lengths(ask, video):
    """transformers takes none: each is what it is beside one as long."""
    short, long = vision_models.video(3, 2), vision_models.video(4, 6)
    answers = [ask(f"{video}{video}?", video_data=[short, other]) for other in (short, long)]
    tokens = [answer["meta_info"]["prompt_tokens"] for answer in answers]
    assert tokens[1] - tokens[0] == 4 * 4  # of each frame 2 x 2


def assert_files(kind, ask, prompt):
    pytest.importorskip("decord", reason="an optional package, by which SGLang decodes videos")
    frames = few_colors(5, 12)
    taken = dict(num_frames=FRAMES, do_sample_frames=True)
    assert_answer(kind, ask(prompt, video_data=[gif(frames)]), prompt, [], videos=[frames], **taken)
    assert_answer(kind, ask(prompt, video_data=gif(frames[:3])), prompt, [], videos=[frames[:3]])


@pytest.mark.slow
def test_videos_of_http_requests(serve, tmp_path):
    pytest.importorskip("decord", reason="an optional package, by which SGLang decodes videos")
    kind = "llava_next_video"
    server = serve(vision_models.save(kind, tmp_path))
    video, frames = gif(few_colors(6, 8)), [encoded(Image.fromarray(frame)) for frame in few_colors(6, 8)]

    def post(shown, text="a <video> b", **more):
        body = dict(text=text, video_data=shown, sampling_params=dict(max_new_tokens=4, temperature=0)) | more
        return server.post("/generate", body)

    answers = [post([shown]).json() for shown in (video, frames)]
    assert answers[0]["output_ids"] == answers[1]["output_ids"]
    fewer = post([video], video_config=dict(num_frames=2)).json()
    per_frame = (vision_models.SIZE // 7 // 2) ** 2
    prompts = [answer["meta_info"]["prompt_tokens"] for answer in (answers[0], fewer)]
    assert prompts[0] - prompts[1] == 6 * per_frame
    bad = {
        "no video": ["data:video/mp4;base64," + base64.b64encode(b"no video").decode()],
        "half a file": [video[: len(video) // 2 // 4 * 4]],
        "frames of two sizes": [[frames[0], encoded(IMAGE)]],
        "a number": [[3]],
        "a file that is not there": ["/nowhere/x.mp4"],
        "two for one": [video, video],
    }
    found = {name: post(shown).status_code for name, shown in bad.items()}
    found |= {
        "none for one": post([video], "a <video> <video>").status_code,
        "other settings": post([video], video_config=dict(size=3)).status_code,
        "no number": post([video], video_config=dict(num_frames=-1)).status_code,
    }
    assert found.pop("half a file") in (200, 400)  # what was decoded until then, or nothing
    assert found == dict.fromkeys(found, 400)
    assert post([video]).json()["output_ids"] == answers[0]["output_ids"]


def shown(video: str) -> dict:
    return dict(type="video_url", video_url=dict(url=video))


def content(*videos: str) -> list[dict]:
    """Of a message that shows videos, and asks."""
    return [*map(shown, videos), dict(type="text", text=" What is it?")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "qwen2_5_vl"])
def test_videos_in_chat_are_those_of_transformers(serve, tmp_path, kind):
    pytest.importorskip("decord", reason="an optional package, by which SGLang decodes videos")
    server = serve(vision_models.save(kind, tmp_path / "model"), "--allowed-media-domains", "example.com")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    frames, file = few_colors(8, FRAMES), tmp_path / "clip.gif"
    video = gif(frames)
    file.write_bytes(base64.b64decode(video.partition(",")[2]))

    def ask(*videos, parts=None, **more):
        messages = [dict(role="user", content=parts or content(*videos))]
        more = dict(model="m", max_tokens=TOKENS, temperature=0, logprobs=True, extra_body=dict(ignore_eos=True)) | more
        return client.chat.completions.create(messages=messages, **more)

    answer = ask(video)
    if kind in KINDS:  # of a file of Qwen's SGLang chooses the frames
        prompt = f"{vision_models.video_placeholder(kind)} What is it?"
        tokens, logprobs = vision_models.reference(kind, prompt, [], TOKENS, videos=[frames], do_sample_frames=False)
        found = [token.logprob for token in answer.choices[0].logprobs.content]
        np.testing.assert_allclose(found, logprobs[np.arange(TOKENS), tokens], atol=1e-4)
    told = answer.choices[0].message.content
    assert ask(str(file)).choices[0].message.content == told
    assert ask(video, n=2).choices[1].message.content == told
    parts = ask(video, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == told
    other = ask(gif(few_colors(9, FRAMES))).choices[0].message.content
    assert other != told
    if kind in KINDS:  # two of Qwen's have more tokens than the model has positions
        image = dict(type="image_url", image_url=dict(url=encoded(IMAGE)))
        both = ask(parts=[shown(video), image, *content(video)])
        assert both.usage.prompt_tokens > 2 * answer.usage.prompt_tokens
    for bad in ("data:video/mp4;base64,AAAA", "/nowhere/x.mp4", "http://127.0.0.1:9/x.mp4", "", encoded(IMAGE)[:-400]):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(bad)
        assert refused.value.message
    assert ask(video).choices[0].message.content == told

"""Models that see, as their makers published them, through SGLang's Engine and its server, against transformers."""

import numpy as np
import openai
import pytest
from models import vision_models, vision_published
from models.results import SERVED
from serving.test_videos import few_colors, gif
from serving.test_vision import NOISE, TOKENS, UNREADABLE, encoded

SECONDS = 1, 150
# Of which one image has another form than several, in transformers' class.
ONE_EACH = ("llava_own-mistral",)
PROMPTS = {
    "none": ("What is it?", []),
    "one": ("Look: <image> What is it?", [vision_models.image(1)]),
    "two": ("First <image><image> which one?", [vision_models.image(2, 140, 84), vision_models.image(3)]),
}


def ask(engine, names, **more):
    prompts, images = zip(*(PROMPTS[name] for name in names), strict=True)
    greedy = dict(temperature=0, max_new_tokens=TOKENS, ignore_eos=True) | more
    given = [[encoded(one) for one in own] for own in images] if any(images) else None
    return engine.generate(prompt=list(prompts), image_data=given, sampling_params=greedy, return_logprob=True)


def assert_answers(kind, folder, name, answer):
    prompt, images = PROMPTS[name]
    model, tokens = vision_published.hugging_face(kind)
    given = vision_published.given(kind, folder, prompt, images) if images else tokens(prompt, return_tensors="pt")
    ids, logprobs = vision_models.generated(model, dict(given), TOKENS)
    assert answer["output_ids"] == ids, name
    found = [logprob for logprob, *_ in answer["meta_info"]["output_token_logprobs"]]
    np.testing.assert_allclose(found, logprobs[np.arange(TOKENS), ids], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", vision_published.KINDS)
def test_answers_about_images_are_transformers(start_engine, request, tmp_path, kind):
    folder = vision_published.save(kind, tmp_path / "model")
    served = [name for name, of in vision_published.ARCHITECTURES.items() if of == kind]
    request.node.user_properties.extend((SERVED, name) for name in served)
    as_sglang = dict(json_model_override_args='{"architectures": ["YiVLForCausalLM"]}') if kind == "yi_vl" else {}
    engine = start_engine(folder, dtype="float32", chunked_prefill_size=8, **as_sglang)
    names = [name for name in PROMPTS if name != "two" or kind not in ONE_EACH]
    for name, answer in zip(names, ask(engine, names), strict=True):  # text beside images, in one batch
        assert_answers(kind, folder, name, answer)
    (again,) = ask(engine, names[-1:])
    assert again["meta_info"]["cached_tokens"] == again["meta_info"]["prompt_tokens"] - 1
    assert_answers(kind, folder, names[-1], again)
    engine.flush_cache()
    for answer in ask(engine, ["one"], n=2):
        assert_answers(kind, folder, "one", answer)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llava_own", "internvl_chat"])
def test_text_alone_of_a_model_that_sees(start_engine, tmp_path, kind):
    folder = vision_published.save(kind, tmp_path / "model")
    if kind == "llava_own":  # without the tower, which need not be there
        (tmp_path / "tower_of_model").rename(tmp_path / "away")
    engine = start_engine(folder, dtype="float32", json_model_override_args='{"language_model_only": true}')
    (answer,) = ask(engine, ["none"])
    assert_answers(kind, folder, "none", answer)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llava_own-qwen", "internvl_chat"])
def test_requests_over_http(serve, tmp_path, kind):
    server = serve(vision_published.save(kind, tmp_path / "model"), "--limit-mm-data-per-request", '{"image": 2}')
    good, prompt = encoded(NOISE), "a <image> b"

    def status(images, text=prompt):
        body = dict(text=text, image_data=images, sampling_params=dict(max_new_tokens=2, temperature=0))
        return server.post("/generate", body).status_code

    found = {name: status([image]) for name, image in UNREADABLE.items()}
    assert found == dict.fromkeys(UNREADABLE, 400)
    assert status([good] * 3, prompt * 3) == 400 and status([good]) == 200
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    shown = [dict(type="image_url", image_url=dict(url=good)), dict(type="text", text=" What is it?")]
    asked = dict(model="m", max_tokens=4, temperature=0)
    answers = [
        client.chat.completions.create(messages=[dict(role="user", content=shown)], **asked).choices[0].message.content
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert server.post("/flush_cache").status_code == 200


@pytest.mark.slow
def test_videos_of_internvl(start_engine, tmp_path):
    """Each frame is an image of one tile: two frames have twice the tokens of one."""
    pytest.importorskip("decord", reason="an optional package, by which SGLang decodes videos")
    engine = start_engine(vision_published.save("internvl_chat", tmp_path / "model"), dtype="float32")
    greedy = dict(temperature=0, max_new_tokens=TOKENS, ignore_eos=True)

    def told(seed):
        return engine.generate(prompt="See <video> now", video_data=[gif(few_colors(seed, 6))], sampling_params=greedy)

    first, again, other = told(1), told(1), told(2)
    assert first["meta_info"]["prompt_tokens"] > 4 * 6
    assert again["output_ids"] == first["output_ids"] != other["output_ids"]
    assert again["meta_info"]["cached_tokens"] == again["meta_info"]["prompt_tokens"] - 1

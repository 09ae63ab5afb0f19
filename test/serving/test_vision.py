"""Models that see through SGLang's Engine, against transformers' generate: images in chunks, cached, beside text."""

import base64
import io

import numpy as np
import openai
import pytest
from models import vision_models
from models.results import SERVED
from models.vision_published import ARCHITECTURES as OF_MAKERS
from PIL import Image
from tiers import mostly_slow

import sglang
from sglang.srt.models_ms.registry import MODELS

SECONDS = 51, 275
TOKENS = 8
ARCHITECTURES = {
    "Gemma3ForConditionalGeneration": "gemma3",
    "Idefics3ForConditionalGeneration": "idefics3",
    "InternVLForConditionalGeneration": "internvl",
    "LlavaForConditionalGeneration": "llava",
    "LlavaNextForConditionalGeneration": "llava_next",
    "LlavaNextVideoForConditionalGeneration": "llava_next_video",
    "LlavaOnevisionForConditionalGeneration": "llava_onevision",
    "Mistral3ForConditionalGeneration": "mistral3",
    "Qwen2VLForConditionalGeneration": "qwen2_vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
    "Qwen3VLMoeForConditionalGeneration": "qwen3_vl_moe",
    "SmolVLMForConditionalGeneration": "smolvlm",
}


# Images, of 16 tokens and more, come in several chunks.
IN_CHUNKS = dict(chunked_prefill_size=8)
# Of which images have to be in one chunk: where chunks of 20 tokens would end within them, they end before.
OF_KIND = {"gemma3": dict(chunked_prefill_size=20, enable_multimodal=True)}
KINDS = (  # without and with mrope, and whose tokens see their whole image
    "LlavaForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Gemma3ForConditionalGeneration",
)
TEXT_ALONE = {"Gemma3ForConditionalGeneration": "gemma3"}


def encoded(image, kind: str = "PNG", cut: int | None = None, **options) -> str:
    """As HTTP requests have it; cut: after so many bytes."""
    kept = io.BytesIO()
    image.save(kept, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(kept.getvalue()[:cut]).decode()


NOISE = vision_models.image(4, 140, 84)
UNREADABLE = {
    "no image": "data:image/png;base64," + base64.b64encode(b"no image").decode(),
    "no base64": "data:image/png;base64,@@@@",
    "nothing": "",
    "half a PNG": encoded(NOISE, cut=300),
    "half a JPEG": encoded(NOISE, "JPEG", cut=300),
    "half a WebP": encoded(NOISE, "WEBP", cut=60),
    "a server that does not answer": "http://127.0.0.1:9/x.png",
    "a file that is not there": "/nowhere/x.png",
    "a device": "/dev/null",
    "a folder": "file:///etc",
}
BLANK = Image.new("P", (60, 60))
READABLE = {
    "one pixel": encoded(Image.new("RGB", (1, 1))),
    "RGBA": encoded(Image.new("RGBA", (60, 60), (1, 2, 3, 4))),
    "16 bits": encoded(Image.new("I;16", (60, 60))),
    "an animation": encoded(
        Image.new("P", (60, 60)), "GIF", save_all=True, append_images=[Image.new("P", (60, 60), 3)]
    ),
}


def mangled(seed: int) -> str:
    """An image of some format with a few of its bytes changed, or without its end."""
    rng, kept = np.random.default_rng(seed), io.BytesIO()
    kind = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")[seed % 6]
    NOISE.save(kept, kind)
    content = bytearray(kept.getvalue())
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        content[place] = rng.integers(0, 256)
    if seed % 4 == 0:
        del content[rng.integers(0, len(content)) :]
    return f"data:image/{kind.lower()};base64," + base64.b64encode(content).decode()


PROMPTS = {
    "none": ("What is it?", []),
    "one": ("Look: {0} What is it?", [vision_models.image(1)]),
    "two": ("First {0}{0} which one?", [vision_models.image(2, 140, 84), vision_models.image(3)]),
}


def prompt_of(kind, name):
    prompt, images = PROMPTS[name]
    return (prompt.format(vision_models.placeholder(kind)) if images else prompt), images


def ask(engine, kind, names, **more):
    prompts, images = zip(*(prompt_of(kind, name) for name in names), strict=True)
    greedy = dict(temperature=0, max_new_tokens=TOKENS, ignore_eos=True) | more
    given = [[encoded(one) for one in own] for own in images] if any(images) else None
    return engine.generate(prompt=list(prompts), image_data=given, sampling_params=greedy, return_logprob=True)


def assert_answers(kind, name, answer):
    prompt, images = prompt_of(kind, name)
    tokens, logprobs = vision_models.reference(kind, prompt, images, TOKENS)
    assert answer["output_ids"] == tokens
    found = [logprob for logprob, *_ in answer["meta_info"]["output_token_logprobs"]]
    np.testing.assert_allclose(found, logprobs[np.arange(TOKENS), tokens], atol=1e-4)


@pytest.fixture
def serves(request):
    """Function of an architecture: notes that this test serves it."""
    return lambda architecture: request.node.user_properties.append((SERVED, architecture))


@pytest.mark.parametrize("architecture", mostly_slow(ARCHITECTURES, lambda name: name in KINDS))
def test_answers_about_images_are_transformers(start_engine, serves, tmp_path, architecture):
    serves(architecture)
    assert_answers_about_images(start_engine, tmp_path, ARCHITECTURES[architecture])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pixtral", "llava_siglip", "mistral3-ministral3"])
def test_answers_of_other_towers_and_decoders_are_transformers(start_engine, tmp_path, kind):
    assert_answers_about_images(start_engine, tmp_path, kind)


def assert_answers_about_images(start_engine, tmp_path, kind):
    engine = start_engine(vision_models.save(kind, tmp_path), **(IN_CHUNKS | OF_KIND.get(kind, {})))
    for name, answer in zip(PROMPTS, ask(engine, kind, PROMPTS), strict=True):  # text beside images, in one batch
        assert_answers(kind, name, answer)
    (again,) = ask(engine, kind, ["two"])
    assert again["meta_info"]["cached_tokens"] == again["meta_info"]["prompt_tokens"] - 1
    assert_answers(kind, "two", again)
    engine.flush_cache()
    for answer in ask(engine, kind, ["one"], n=2):
        assert_answers(kind, "one", answer)


N_GRAMS = dict(speculative_algorithm="NGRAM", speculative_num_draft_tokens=8)
DRAFTING = ["qwen2_5_vl", "llava", "gemma3"]


@pytest.mark.parametrize("kind", mostly_slow(DRAFTING, lambda kind: kind == "qwen2_5_vl"))
def test_n_grams_change_no_answer_about_images(start_engine, tmp_path, kind):
    """Drafts are tokens of text alone, and see the images before them; as trees and, of three positions, as such."""
    engine = start_engine(vision_models.save(kind, tmp_path), **N_GRAMS, **OF_KIND.get(kind, IN_CHUNKS))
    for _ in range(2):  # cold, then with what the n-grams know
        answers = ask(engine, kind, PROMPTS)
        for name, answer in zip(PROMPTS, answers, strict=True):
            assert_answers(kind, name, answer)
    assert all(answer["meta_info"]["spec_accept_length"] > 1 for answer in answers)


def test_every_architecture_that_sees_is_served_by_one_of_these_tests():
    seeing = {name for name, model in MODELS.items() if model.sees}
    assert {*ARCHITECTURES, *OF_MAKERS} == {
        name for name in seeing if not MODELS[name].text_alone
    }  # those: test_families.py


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TEXT_ALONE)
def test_text_of_a_model_whose_images_are_not_served(start_engine, serves, tmp_path, architecture):
    serves(architecture)
    kind = TEXT_ALONE[architecture]
    engine = start_engine(vision_models.save(kind, tmp_path))
    (answer,) = ask(engine, kind, ["none"])
    assert_answers(kind, "none", answer)


PAGE, LONG = 16, 48


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ARCHITECTURES[name] for name in KINDS])
def test_requests_with_images_that_are_retracted_are_answered_in_full(start_engine, tmp_path, kind):
    sizes = dict(page_size=PAGE, chunked_prefill_size=2 * PAGE, max_total_tokens=20 * PAGE, max_running_requests=6)
    sizes |= dict(schedule_conservativeness=0.01) | dict(enable_multimodal=True)
    engine = start_engine(vision_models.save(kind, tmp_path), **sizes)
    names = [*PROMPTS] * 2
    # Not ignore_eos: SGLang reserves the whole length of such a request, and then retracts none.
    answers = ask(engine, kind, names, max_new_tokens=LONG, min_new_tokens=LONG, ignore_eos=False)
    assert any(answer["meta_info"]["num_retractions"] for answer in answers)
    for name, answer in zip(names, answers, strict=True):
        assert answer["output_ids"] == vision_models.reference(kind, *prompt_of(kind, name), LONG)[0], name
    (again,) = ask(engine, kind, ["two"])
    assert again["meta_info"]["cached_tokens"] >= PAGE
    assert_answers(kind, "two", again)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES.values())
def test_text_alone_of_a_model_that_sees(start_engine, tmp_path, kind):
    alone = '{"language_model_only": true}'
    engine = start_engine(vision_models.save(kind, tmp_path), json_model_override_args=alone)
    (answer,) = ask(engine, kind, ["none"])
    assert_answers(kind, "none", answer)


# The ranks divide the heads of llava's tower, and cannot those of qwen2_5_vl's, of which each computes all.
TOWERS = ["llava", "qwen2_5_vl"]
REPLICAS = dict(tp_size=2, dp_size=2, enable_dp_attention=True)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [dict(tp_size=2), REPLICAS], ids=["tp", "dp"])
@pytest.mark.parametrize("kind", TOWERS)
def test_two_ranks_see(start_engine, tmp_path, kind, sizes):
    engine = start_engine(vision_models.save(kind, tmp_path), **sizes)
    for name, answer in zip(PROMPTS, ask(engine, kind, PROMPTS), strict=True):
        assert_answers(kind, name, answer)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOWERS)
def test_the_first_stage_of_two_has_the_tower(start_engine, tmp_path, kind):
    engine = start_engine(vision_models.save(kind, tmp_path), pp_size=2)
    (answer,) = ask(engine, kind, ["two"])
    assert_answers(kind, "two", answer)


ROUNDING = 0.05  # of logprobs, in float16


@pytest.mark.parametrize("kind", mostly_slow(vision_models.ON_NPU, lambda kind: kind == "llava@16"))
def test_the_path_of_an_npu_gives_the_same_answers_up_to_rounding(monkeypatch, start_engine, tmp_path, kind):
    monkeypatch.setenv("SGLANG_MS_OPS", "ascend_reference")
    sizes = dict(page_size=16, chunked_prefill_size=16, max_total_tokens=2048)
    if kind == "gemma3@16":  # whose images, of 16 tokens, are in one chunk
        sizes |= dict(chunked_prefill_size=32, enable_multimodal=True)
    engine = start_engine(vision_models.save(kind, tmp_path), dtype="float16", **sizes)
    for name, answer in zip(PROMPTS, ask(engine, kind, PROMPTS), strict=True):
        tokens, logprobs = vision_models.reference(kind, *prompt_of(kind, name), TOKENS)
        found = [logprob for logprob, *_ in answer["meta_info"]["output_token_logprobs"]]
        same = np.equal(answer["output_ids"], tokens)
        compared = TOKENS if same.all() else int(same.argmin()) + 1  # the first other token is about as likely
        for place in range(compared):
            assert abs(found[place] - logprobs[place, tokens[place]]) < ROUNDING, (name, place)
        assert compared > 1 or abs(found[0] - logprobs[0].max()) < ROUNDING


@sglang.function
def question(s, image):
    s += "a " + sglang.image(image) + " b" + sglang.gen("answer", max_tokens=4, temperature=0)


def assert_frontend(server, folder, wanted: str):
    """SGLang's frontend language gets the same answer."""
    NOISE.save(folder / "noise.png")
    backend = sglang.RuntimeEndpoint(server.url)
    assert question.run(image=str(folder / "noise.png"), backend=backend)["answer"] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl"])
def test_images_that_cannot_be_read_cost_their_request_only(serve, tmp_path, kind):
    server = serve(vision_models.save(kind, tmp_path), "--limit-mm-data-per-request", '{"image": 2}')
    prompt, good = f"a {vision_models.placeholder(kind)} b", encoded(NOISE)

    def status(images, text=prompt, **more):
        body = dict(text=text, image_data=images, sampling_params=dict(max_new_tokens=2, temperature=0)) | more
        return server.post("/generate", body).status_code

    found = {name: status([image]) for name, image in (UNREADABLE | READABLE).items()}
    found |= {"two for one": status([good] * 2), "three": status([good] * 3, prompt * 3), "good": status([good])}
    found |= {name: status([good], **{name: [READABLE["an animation"]]}) for name in ("video_data", "audio_data")}
    wanted = dict.fromkeys([*UNREADABLE, "two for one", "three", "video_data", "audio_data"], 400) | dict.fromkeys(
        [*READABLE, "good"], 200
    )
    assert found == wanted
    statuses = [status([mangled(seed)]) for seed in range(48)]
    assert {*statuses} == {200, 400}
    assert status([good]) == 200
    if kind == "llava":  # whose placeholder is that of the language
        body = dict(text=prompt, image_data=[good], sampling_params=dict(max_new_tokens=4, temperature=0))
        assert_frontend(server, tmp_path, server.post("/generate", body).json()["text"])
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    content = [dict(type="image_url", image_url=dict(url=good)), dict(type="text", text=" What is it?")]
    asked = dict(model="m", messages=[dict(role="user", content=content)], max_tokens=4, temperature=0)
    answers = [client.chat.completions.create(**asked) for _ in range(2)]
    assert answers[0].usage.prompt_tokens > 20
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    assert server.post("/flush_cache").status_code == 200

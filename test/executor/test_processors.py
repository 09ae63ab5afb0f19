"""Processors of images that SGLang lacks: where each image is in its prompt, and which tiles are its own."""

import asyncio
from types import SimpleNamespace

import pytest
import torch
from models import vision_models

from sglang.srt.managers.schedule_batch import MultimodalProcessorOutput
from sglang.srt.model_executor_ms.processors import gemma3, idefics3, internvl, llava

SECONDS = 4
IMAGES = [vision_models.image(1), vision_models.image(2, 140, 28), vision_models.image(3, 30, 90)]
OF_LLAVA = {
    "llava": llava.LlavaProcessor,
    "llava-qwen2-full": llava.LlavaProcessor,
    "llava_next": llava.LlavaNextProcessor,
    "llava_next_video": llava.LlavaNextVideoProcessor,
    "llava_onevision": llava.LlavaOnevisionProcessor,
}


def processor_of(kind, made_by):
    """SGLang's object, as far as it finds images -> it, and transformers' processor."""
    model, processor = vision_models.hugging_face(kind)
    found = object.__new__(made_by)
    found.hf_config, found.mm_tokens = model.config, SimpleNamespace(image_token_id=model.config.image_token_id)
    return found, processor


def read(kind, processor, images):
    """What transformers makes of a prompt with images, of which two are neighbors."""
    place = vision_models.placeholder(kind)
    text = f"{place} a " + place * (len(images) - 1)
    return processor(text=text, images=[images] if kind == "llava_onevision" else images, return_tensors="pt")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", OF_LLAVA)
def test_each_image_has_its_tokens(kind, count):
    own, processor = processor_of(kind, OF_LLAVA[kind])
    made, token = read(kind, processor, IMAGES[:count]), own.mm_tokens.image_token_id
    tokens = own.tokens_of_images(made)
    assert len(tokens) == count and sum(tokens) == int((made["input_ids"] == token).sum())
    if kind != "llava_onevision":  # of which several images have other tokens than each alone
        alone = [read(kind, processor, [one])["input_ids"] for one in IMAGES[:count]]
        assert tokens == [int((ids == token).sum()) for ids in alone]
    places = own.offsets(made["input_ids"], token, tokens)
    assert [last - first + 1 for first, last in places] == tokens
    assert all((made["input_ids"][0, first : last + 1] == token).all() for first, last in places)
    assert count == 1 or places[2][0] == places[1][1] + 1


def test_a_prompt_with_fewer_places_than_images_want_is_refused():
    with pytest.raises(ValueError, match="the prompt has token 9 3 times, and wants it 4 times"):
        llava.LlavaProcessor.offsets(torch.tensor([[9, 9, 1, 9]]), 9, [2, 2])


def test_images_of_internvl_have_their_own_tiles():
    own, processor = processor_of("internvl", internvl.InternVLProcessor)
    items = own.collect_mm_items_from_processor_output(read("internvl", processor, IMAGES[:2]))
    alone = [read("internvl", processor, [one])["pixel_values"] for one in IMAGES[:2]]
    assert len(alone[0]) != len(alone[1])
    for item, tiles in zip(items, alone, strict=True):
        assert torch.equal(item.feature, tiles)
        assert item.offsets[0][1] - item.offsets[0][0] + 1 == 4 * len(tiles)


def test_tiles_that_no_place_is_for_are_refused():
    own, processor = processor_of("internvl", internvl.InternVLProcessor)
    made = read("internvl", processor, IMAGES[:1])
    made["pixel_values"] = made["pixel_values"][:0]
    with pytest.raises(ValueError, match="image tokens for 0 tiles"):
        own.collect_mm_items_from_processor_output(made)


def test_tiles_of_idefics3_are_images_of_their_own():
    own, processor = processor_of("idefics3", idefics3.Idefics3Processor)
    made = read("idefics3", processor, IMAGES[:2])
    items = own.collect_mm_items_from_processor_output(made)
    assert torch.equal(torch.stack([item.feature for item in items]), made["pixel_values"][0])
    assert all(last - first + 1 == 16 for item in items for first, last in item.offsets)
    made["pixel_attention_mask"][0, 0, -1] = 0
    with pytest.raises(ValueError, match="a tile that is padded"):
        own.collect_mm_items_from_processor_output(made)


def test_gemma3_says_which_token_is_an_images_own(monkeypatch):
    async def without(*_, **__):
        return MultimodalProcessorOutput(input_ids=[1], mm_items=[])

    monkeypatch.setattr(gemma3.Gemma3SGLangImageProcessor, "process_mm_data_async", without)
    own = object.__new__(gemma3.Gemma3Processor)
    own.mm_tokens = SimpleNamespace(image_token_id=77)
    assert asyncio.run(own.process_mm_data_async()).im_token_id == 77

"""Models that see under their makers' names of tensors and keys: rows, pixels and ids, and what is refused."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from models import vision_models, vision_published
from models.results import PROPERTY
from models.test_vision import Seeing, item
from models.vision_makers import TILED
from tiers import mostly_slow

from sglang.srt.managers.schedule_batch import Modality
from sglang.srt.model_executor_ms.runner.weights import check_weights
from sglang.srt.model_executor_ms.seams.processors import ProcessorOfLlava
from sglang.srt.model_executor_ms.server import llava_types
from sglang.srt.model_loader_ms import towers
from sglang.srt.model_loader_ms.files import CheckpointError
from sglang.srt.models_ms.config import Runtime, UnsupportedConfig
from sglang.srt.models_ms.registry import model_class
from sglang.srt.models_ms.vision import anyres
from sglang.srt.multimodal.processors.llava import LlavaImageProcessor

SECONDS = 4, 20
IMAGES = [vision_models.image(1), vision_models.image(2, 140, 84)]
llava_types.register()


def saved(kind, tmp_path):
    return vision_published.save(kind, tmp_path / "model")


@pytest.mark.parametrize("kind", mostly_slow(vision_published.KINDS, lambda kind: kind == "llava_own"))
def test_rows_of_an_image_are_transformers(table, request, tmp_path, kind):
    model, _ = vision_published.hugging_face(kind)
    folder = saved(kind, tmp_path)
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    request.node.user_properties.append((PROPERTY, [architecture, "transformers"]))
    seeing = Seeing(folder)
    for image in IMAGES:
        made = vision_published.given(kind, folder, vision_published.PLACEHOLDER, [image])
        places, pixels = int((made.pop("input_ids") == model.config.image_token_id).sum()), made["pixel_values"]
        with torch.no_grad():
            wanted = model.get_image_features(**made, return_dict=True).pooler_output
        wanted = wanted.flatten(0, 1) if isinstance(wanted, torch.Tensor) else torch.cat(list(wanted))
        known = {"image_sizes": made["image_sizes"]} if "image_sizes" in made else {}
        (found,) = seeing.get_image_feature([item(Modality.IMAGE, pixels.flatten(0, -4), **known)])
        assert len(found) == places
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", mostly_slow(vision_published.LLAVAS, lambda kind: kind == "llava_own"))
def test_pixels_are_those_of_sglangs_processor(tmp_path, kind):
    own = vision_published.own_processor(saved(kind, tmp_path))
    aspect = own._said("image_aspect_ratio", "square")
    for image in IMAGES:
        kept = io.BytesIO()
        image.save(kept, "PNG")
        url = "data:image/png;base64," + base64.b64encode(kept.getvalue()).decode()
        sizes = [[width, height] for height, width in own.possible]

        class Processor:
            image_processor = own.image_processor

        wanted, *_ = LlavaImageProcessor._preprocess_image_task(url, 0, aspect, sizes, Processor)
        found = own._pixels(image, own._in_tiles(1))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found.astype(np.float16), wanted.reshape(found.shape))


def test_prompts_are_cut_at_their_images(tmp_path):
    own = vision_published.own_processor(saved("llava_own", tmp_path))
    token = own.mm_tokens.image_token_id
    assert vision_published.PLACEHOLDER not in own._tokenizer.get_vocab()
    parts = [own._tokenizer(part)["input_ids"] for part in ("one ", " two ", " three")]
    ids = own._ids("one <image> two <image> three")
    assert ids == [*parts[0], token, *parts[1], token, *parts[2]]
    begin, between = len(parts[0]), len(parts[1])
    made, places = own._widened(ids, [3, 2])
    assert places == [(begin, begin + 2), (begin + 3 + between, begin + 4 + between)]
    assert all(made[first : last + 1] == [token] * (last + 1 - first) for first, last in places)
    with pytest.raises(ValueError, match="the prompt has 2 places for images, and 1 are given"):
        own._widened(ids, [3])


def test_several_images_have_one_tile_each(tmp_path):
    side = vision_published.SIDE
    own = vision_published.own_processor(saved("llava_own-qwen", tmp_path))
    assert own.tokens_of_images([(56, 84)] * 2) == [side * side + 1] * 2
    assert own.tokens_of_images([(84, 140)])[0] > 2 * side * side
    assert own._pixels(IMAGES[1], own._in_tiles(2)).shape[0] == 1


def test_a_tokenizer_serves_llavas_own_format_and_a_processor_transformers(tmp_path):
    vision_models.save("llava", tmp_path / "transformers")
    found = ProcessorOfLlava.from_pretrained(str(tmp_path / "transformers"), trust_remote_code=False)
    assert type(found).__name__ == "LlavaProcessor"
    found = ProcessorOfLlava.from_pretrained(str(saved("llava_own", tmp_path)), trust_remote_code=False)
    assert not hasattr(found, "image_processor")


def test_a_tower_is_in_the_models_folder_or_elsewhere(tmp_path):
    (tmp_path / "model/vit").mkdir(parents=True)
    assert towers.source_of("./vit", tmp_path / "model") == str(tmp_path / "model/vit")
    assert towers.source_of("openai/clip", tmp_path / "model") == "openai/clip"
    problem = f"mm_vision_tower = '{tmp_path}/model/vit' of config.json is a tower that cannot be had: "
    assert towers.problems({"mm_vision_tower": "vit"}, tmp_path / "model")[0].startswith(problem)
    assert not towers.problems({"mm_vision_tower": "vit", "language_model_only": True}, tmp_path / "model")
    (tmp_path / "model/vit/config.json").write_text(json.dumps({"vision_config": {"image_size": 3}, "model_type": "x"}))
    assert towers.config_of(str(tmp_path / "model/vit")) == {"image_size": 3}  # of a whole CLIP


def test_weights_of_a_tower_that_is_elsewhere_are_missed_by_name(table, tmp_path):
    folder = saved("llava_own", tmp_path)
    network = Seeing(folder).network
    (tmp_path / "tower_of_model/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="tower_of_model holds no weights"):
        check_weights(network, folder)


def network_of(kind, tmp_path, **more):
    config = json.loads((saved(kind, tmp_path) / "config.json").read_text()) | more
    read = towers.with_tower(config, tmp_path / "model")
    return model_class(config["architectures"], read)(read, Runtime())


REFUSED = {
    "mm_projector_type": ("linear", "mm_projector_type = 'linear' is not supported, only"),
    "mm_patch_merge_type": ("spatial", "mm_patch_merge_type = 'spatial' is not supported"),
    "mm_resampler_type": ("perceiver", "mm_resampler_type = 'perceiver' is not supported"),
    "mm_use_im_start_end": (True, "mm_use_im_start_end = True is not supported"),
    "image_aspect_ratio": ("highres", "image_aspect_ratio = 'highres' is not supported, only 'square', 'pad'"),
    "mm_hidden_size": (49, "mm_hidden_size = 49 is not the 48 of the tower"),
    "mm_vision_select_feature": ("cls", "mm_vision_select_feature = 'cls' is not supported"),
    "something_else": (3, "keys that this architecture does not know: something_else = 3"),
}


@pytest.mark.parametrize("name", mostly_slow(REFUSED, lambda name: name == "mm_projector_type"))
def test_what_llavas_own_format_may_say_and_is_not_computed_is_refused(table, tmp_path, name):
    value, reason = REFUSED[name]
    with pytest.raises(UnsupportedConfig, match=reason):
        network_of("llava_own", tmp_path, **{name: value})


def test_tiles_want_the_way_in_which_their_rows_are_merged(table, tmp_path):
    reason = "image_aspect_ratio = 'anyres' wants mm_patch_merge_type 'spatial_unpad' and image_grid_pinpoints"
    with pytest.raises(UnsupportedConfig, match=reason):
        network_of("llava_own", tmp_path, image_aspect_ratio="anyres")


REFUSED_OF_INTERNVL = {
    "ps_version": ("v1", "ps_version = 'v1' is not supported"),
    "select_layer": (-4, "select_layer = -4 is not supported"),
    "force_image_size": (224, "force_image_size = 224 is not supported"),
    "vision_config": ({"image_size": 224}, "image_size = 224 is not supported, only \\[448\\]"),
    "llm_config": ({"model_type": "gpt_oss"}, "llm_config.model_type = 'gpt_oss' is not supported, only"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED_OF_INTERNVL)
def test_what_internvls_own_format_may_say_and_is_not_computed_is_refused(table, tmp_path, name):
    value, reason = REFUSED_OF_INTERNVL[name]
    written = json.loads((saved("internvl_chat", tmp_path) / "config.json").read_text())
    with pytest.raises(UnsupportedConfig, match=reason):
        network_of("internvl_chat", tmp_path, **{name: written[name] | value if isinstance(value, dict) else value})


def test_possible_sizes_are_read_as_they_are_written():
    heights_first = tuple((height, width) for height, width in TILED)
    assert anyres.pinpoints([[width, height] for height, width in TILED], 28) == heights_first
    assert anyres.pinpoints("[[336, 672], [672, 336]]", 336) == ((672, 336), (336, 672))
    assert anyres.pinpoints("(1x1),...,(2x3)", 10) == ((10, 10), (20, 10), (30, 10), (10, 20), (20, 20), (30, 20))
    for wrong in ("many", "[1, 2", "3"):
        with pytest.raises(UnsupportedConfig, match="image_grid_pinpoints"):
            anyres.pinpoints(wrong, 28)

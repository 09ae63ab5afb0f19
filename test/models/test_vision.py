"""Towers and projectors against transformers: the same image must make the same rows."""

import mindspore as ms
import numpy as np
import pytest
import torch
from models import vision_models
from models.results import PROPERTY
from safetensors.torch import load_file, save_file

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.quantization.unquantized import UnquantizedLinear
from sglang.srt.layers_ms.vision import whole_columns
from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem
from sglang.srt.model_executor_ms.runner.media import MediaInputs
from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights
from sglang.srt.model_loader_ms.towers import with_tower
from sglang.srt.models_ms.config import Runtime, UnsupportedConfig
from sglang.srt.models_ms.gemma3_vl import Gemma3VisionConfig
from sglang.srt.models_ms.registry import model_class
from sglang.srt.models_ms.vision import anyres
from sglang.srt.utils.hf_transformers_utils import get_config

SECONDS = 12


class Seeing(MediaInputs):
    """A model whose tower alone is asked."""

    def __init__(self, folder, dtype="float32"):
        config = get_config(str(folder), trust_remote_code=False)
        computed, read = getattr(ms, ops.compute_dtype(dtype)), with_tower(config.to_dict(), folder)
        runtime = Runtime(computed, max_positions=config.max_position_embeddings)
        self.network = model_class(config.architectures, read)(read, runtime)
        load_weights(self.network, check_weights(self.network, folder), progress=False)


def item(modality, pixel_values, **known):
    """As SGLang has it of what a processor made."""
    return MultimodalDataItem(modality=modality, feature=pixel_values, model_specific_data=known)


@torch.no_grad()
def rows_of(features, made):
    """What transformers makes of one image or video; beside it what is added after the decoder's first layers."""
    found = features(**made, return_dict=True)
    if "pixel_attention_mask" in made:  # of Idefics3: the tiles of the image
        return found.pooler_output.flatten(0, 1)
    deep = [layer[0] for layer in getattr(found, "deepstack_features", None) or ()]
    return torch.cat([found.pooler_output[0], *deep], 1)


@pytest.mark.parametrize("kind", vision_models.KINDS)
def test_rows_of_an_image_are_transformers(table, request, tmp_path, kind):
    model, processor = vision_models.hugging_face(kind)
    request.node.user_properties.append((PROPERTY, [type(model).__name__, "transformers"]))
    seeing = Seeing(vision_models.save(kind, tmp_path))
    images = [vision_models.image(1), vision_models.image(2, 140, 84)]
    made = [processor.image_processor([one], return_tensors="pt") for one in images]
    wanted = [rows_of(model.get_image_features, one) for one in made]
    found = seeing.get_image_feature([item(Modality.IMAGE, **one) for one in made])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-4 * float(other.abs().max()))


# Of the largest value; towers of transformers in bfloat16 are off by as much.
BFLOAT16 = 0.06


@pytest.mark.parametrize("kind", ["internvl", "qwen3_vl"])  # whose weights or positions the host computes with
def test_rows_in_bfloat16_are_near(table, tmp_path, kind):
    model, processor = vision_models.hugging_face(kind)
    made = processor.image_processor([vision_models.image(1)], return_tensors="pt")
    wanted = rows_of(model.get_image_features, made)
    (found,) = Seeing(vision_models.save(kind, tmp_path), "bfloat16").get_image_feature([item(Modality.IMAGE, **made)])
    error = (found.float() - wanted).abs().max() / wanted.abs().max()
    assert error < BFLOAT16


@pytest.mark.parametrize("kind", ["llava_next_video", "llava_onevision", "qwen2_vl", "qwen2_5_vl"])
def test_rows_of_a_videos_frames_are_transformers(table, tmp_path, kind):
    model, processor = vision_models.hugging_face(kind)
    seeing = Seeing(vision_models.save(kind, tmp_path))
    frames = vision_models.video(0, width=84, height=56)
    made = processor.video_processor([frames], return_tensors="pt", do_sample_frames=False)
    wanted = rows_of(model.get_video_features, made).flatten(0, -2)
    pixels = made.pop("pixel_values_videos")
    (found,) = seeing.get_video_feature([item(Modality.VIDEO, pixels[0] if pixels.ndim == 5 else pixels, **made)])
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["anyres_max_", "anyres_max_0", "anyres_max_-1", "anyres", "9"])
def test_a_ratio_that_names_no_number_of_tiles_is_refused(name):
    assert anyres.most_tiles("anyres_max_12") == 12
    with pytest.raises(UnsupportedConfig, match=f"vision_aspect_ratio = '{name}' is not supported"):
        anyres.most_tiles(name)


@pytest.mark.parametrize("tokens", [15, 9, 25, 0])
def test_tokens_that_do_not_divide_an_image_into_squares_are_refused(tokens):
    read = Gemma3VisionConfig.read({"mm_tokens_per_image": tokens}, runtime=Runtime())
    with pytest.raises(UnsupportedConfig, match=f"mm_tokens_per_image = {tokens} does not divide 4 x 4 patches"):
        read.merge(4)


def network_of(kind, runtime=None, **more):
    model, _ = vision_models.hugging_face(kind)
    config = model.config.to_dict() | more
    return model_class([type(model).__name__], config)(config, runtime or Runtime())


def test_chunks_that_are_smaller_than_an_image_are_refused(table):
    network_of("gemma3", Runtime(max_prefill_tokens=16))
    with pytest.raises(UnsupportedConfig, match="an image of 16 tokens is computed in one chunk: .* 15 is too small"):
        network_of("gemma3", Runtime(max_prefill_tokens=15))


def test_a_tower_of_another_kind_is_refused(table):
    clip = vision_models.hugging_face("llava")[0].config.vision_config.to_dict()
    with pytest.raises(UnsupportedConfig, match="vision_config.model_type = 'clip_vision_model' is not supported"):
        network_of("llava_onevision", vision_config=clip)


def test_products_have_whole_columns(table):
    assert [whole_columns(size) for size in (1, 64, 65, 4304)] == [64, 64, 128, 4352]
    tower = network_of("qwen2_5_vl").visual
    mlp, patches = tower.blocks[0].mlp, tower.patch_embed.proj
    assert mlp.gate_up.weight.shape == (128, 36) and mlp.down_proj.weight.shape == (36, 64)  # of 52 each
    assert mlp.gate_up.bias.shape == (128,) and patches.weight.shape == (36, 1216)  # of 1176


def test_ranks_divide_a_tower_whose_heads_divide_and_compute_all_of_another(table):
    ranks = Runtime(shard=Shard(1, 2, "pair"))
    divided, whole = network_of("llava", ranks).vision_tower, network_of("qwen2_5_vl", ranks).visual
    assert [divided.encoder.layers[0].self_attn.heads, whole.blocks[0].attn.heads] == [2, 3]  # of 4, of 3
    assert divided.encoder.layers[0].self_attn.out_proj.group == "pair" and whole.blocks[0].attn.proj.group is None


def test_a_tower_is_not_packed_where_nothing_says_that_it_is(table):
    network = network_of("llava", quantization_config=dict(quant_method="gptq", bits=8, group_size=-1, sym=True))
    tower, text = network.vision_tower.encoder.layers[0].mlp.fc2, network.model.layers[0].mlp.down_proj
    assert [type(one.method) is UnquantizedLinear for one in (tower, text)] == [True, False]


@pytest.mark.parametrize("side", [1, 4, 5, 27])
def test_frames_of_half_a_side_are_torchs(side):
    x = torch.randn(3, side * side, 2, dtype=torch.float64)
    grids = x.reshape(3, side, side, 2).permute(0, 3, 1, 2)
    halved = torch.nn.functional.interpolate(grids, [-(-side // 2)] * 2, mode="bilinear").flatten(2).transpose(1, 2)
    taps = anyres.halved(3, side)
    rows = np.concatenate([x.reshape(-1, 2).numpy(), np.zeros((1, 2))])  # NEWLINE is the last one
    found = sum(rows[rows_of_tap] * share[:, None] for rows_of_tap, share in zip(taps[::2], taps[1::2], strict=True))
    np.testing.assert_allclose(found[:-1], halved.reshape(-1, 2), atol=1e-6)
    assert not found[-1].any() and all(tap[-1] == anyres.NEWLINE for tap in taps[::2])


def test_a_checkpoint_with_published_names_of_tensors_is_the_same(table, tmp_path):
    kind, pixels = "llava", torch.randn(1, 3, vision_models.SIZE, vision_models.SIZE)
    (tmp_path / "published").mkdir()
    folder = vision_models.save(kind, tmp_path / "saved")
    published = vision_models.save(kind, tmp_path / "published")
    tensors = load_file(published / "model.safetensors")
    renamed = {name.replace("vision_tower.", "vision_tower.vision_model."): one for name, one in tensors.items()}
    save_file(renamed, published / "model.safetensors", {"format": "pt"})
    one, other = (Seeing(path).get_image_feature([item(Modality.IMAGE, pixels)])[0] for path in (folder, published))
    assert torch.equal(one, other)

"""LLaVA in its makers' own format, and Yi-VL: keys of all parts beside each other, a tower that may be elsewhere.

References: llava/model/llava_arch.py of LLaVA-VL/LLaVA-NeXT; sglang/srt/models/llava.py, sglang/srt/models/yivl.py.
"""

import dataclasses
import re

from mindspore import nn

from sglang.srt.layers_ms import LayerNorm, ops
from sglang.srt.layers_ms.vision import linear
from sglang.srt.models_ms.config import UnsupportedConfig, key
from sglang.srt.models_ms.llava import LlavaConfig, LlavaForConditionalGeneration
from sglang.srt.models_ms.llava_onevision import LlavaOnevisionForConditionalGeneration
from sglang.srt.models_ms.multimodal import IMAGE
from sglang.srt.models_ms.vision import anyres

FEATURES = {"patch": "default", "cls_patch": "full"}  # names of LLaVA's makers -> those of transformers
NORMED = "mlp2x_gelu_Norm"  # Yi-VL's
UNPADDED = "spatial_unpad"
EPS = 1e-5  # of the projector's norms
OF_TRANSFORMERS = "a default of transformers' config class, which other keys say here"
OF_VIDEOS = "of videos, which are not served"
NOT_READ = {
    "image_token_index": "the processor reads it",
    "image_token_id": "the processor reads it",
    "mm_hidden_size": "compared with the tower's",
    "vision_config": "the tower's config reads it",
    **dict.fromkeys(
        (
            "image_seq_length",
            "multimodal_projector_bias",
            "projector_hidden_act",
            "text_config",
            "vision_feature_layer",
            "vision_feature_select_strategy",
        ),
        OF_TRANSFORMERS,
    ),
    **dict.fromkeys(
        (
            "freeze_mm_mlp_adapter",
            "freeze_mm_vision_resampler",
            "image_crop_resolution",
            "image_split_resolution",
            "mm_projector_lr",
            "mm_tunable_parts",
            "mm_vision_tower_lr",
            "tune_mm_mlp_adapter",
            "tune_mm_vision_resampler",
            "unfreeze_mm_vision_tower",
            "vision_tower_pretrained",
        ),
        "training",
    ),
    **dict.fromkeys(
        (
            "add_faster_video",
            "add_time_instruction",
            "faster_token_stride",
            "force_sample",
            "mm_newline_position",
            "mm_spatial_pool_mode",
            "mm_spatial_pool_out_channels",
            "mm_spatial_pool_stride",
            "pos_skipping_range",
        ),
        OF_VIDEOS,
    ),
}


class OwnLlavaConfig(LlavaConfig):
    vision_tower: str = key("mm_vision_tower")
    projector: str = key("mm_projector_type", accepted=("mlp2x_gelu", NORMED))
    projector_hidden_act: str = "gelu"
    projector_bias: bool = True
    vision_feature_layer: int = key("mm_vision_select_layer", -2)
    select: str = key("mm_vision_select_feature", "default", accepted=FEATURES, convert=FEATURES.get)
    merge_type: str = key("mm_patch_merge_type", "flat", accepted=("flat", UNPADDED))
    aspect: str = key("image_aspect_ratio", "square")
    pinpoints: tuple = key("image_grid_pinpoints", ())
    expected = {
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "use_mm_proj": True,
    }
    ignored = NOT_READ

    @property
    def most_tiles(self) -> float:
        """Of so many tiles the rows of an image are at most, about."""
        return anyres.most_tiles_of_aspect(self.aspect)

    def problems(self):
        tiled = re.fullmatch(r"anyres(_max_[1-9]\d*)?", self.aspect)
        if not tiled and self.aspect not in ("square", "pad"):
            known = "'square', 'pad', 'anyres' and 'anyres_max_' with a number"
            yield f"image_aspect_ratio = {self.aspect!r} is not supported, only {known}"
        elif tiled and (self.merge_type != UNPADDED or not self.pinpoints):
            wanted = f"mm_patch_merge_type {UNPADDED!r} and image_grid_pinpoints"
            yield f"image_aspect_ratio = {self.aspect!r} wants {wanted}"


class OwnLlavaProjector(nn.Cell):
    """Two matrices with an activation between them, in Yi-VL with a norm behind each."""

    def __init__(self, config, in_features, hidden_size):
        super().__init__()
        self.normed, cells = config.projector == NORMED, []
        for size in (in_features, hidden_size):
            cells.append(linear(size, hidden_size, True, config.dtype))
            cells += [LayerNorm(hidden_size, EPS, config.dtype)] if self.normed else []
            cells.append(nn.Identity())  # the activation, which has a number among them
        self.mlp = nn.CellList(cells[:-1])

    def construct(self, x):
        if self.normed:
            x = ops.activate(self.mlp[1].plain(self.mlp[0](x)), "gelu")
            return self.mlp[4].plain(self.mlp[3](x))
        return self.mlp[2](ops.activate(self.mlp[0](x), "gelu"))


class LlavaLlamaForCausalLM(LlavaOnevisionForConditionalGeneration):
    modalities = (IMAGE,)
    text_key = None
    decoders = ("llama",)
    own_config_class, projector_class = OwnLlavaConfig, OwnLlavaProjector
    tower_kinds = ("clip_vision_model", "siglip_vision_model")
    tensor_names = {
        "image_newline": "model.image_newline",
        "multi_modal_projector.mlp": "model.mm_projector",
        "vision_tower": "model.vision_tower.vision_tower.vision_model",
    }
    # Of a tower that transformers 5 has saved.
    other_tensor_names = (tensor_names | {"vision_tower": "model.vision_tower.vision_tower"},)
    ignored_tensors = (r"^model\.image_newline$",)

    @classmethod
    def decoder_config(cls, hf_config):
        own = {*OwnLlavaConfig.keys(), *OwnLlavaConfig.expected, *NOT_READ}
        return {name: value for name, value in hf_config.items() if name not in own}

    @classmethod
    def own_config(cls, hf_config):
        decoder = cls.decoder_config(hf_config)
        return {name: value for name, value in hf_config.items() if name not in decoder or name == "architectures"}

    def read_own(self, hf_config, runtime):
        vision, read = hf_config["vision_config"], super().read_own(hf_config, runtime)
        width = hf_config.get("mm_hidden_size") or vision["hidden_size"]
        if width != vision["hidden_size"]:
            raise UnsupportedConfig(
                f"mm_hidden_size = {width} is not the {vision['hidden_size']} of the tower, {read.vision_tower}"
            )
        select = "full" if vision.get("model_type") == "siglip_vision_model" else read.select  # it has no class token
        possible = anyres.pinpoints(read.pinpoints, vision["image_size"])
        return dataclasses.replace(read, select=select, pinpoints=possible)

    def make_towers(self, hf_config, runtime):
        LlavaForConditionalGeneration.make_towers(self, hf_config, runtime)
        self.beside = {"model.vision_tower.vision_tower.": self.own.vision_tower}
        if self.own.merge_type == UNPADDED:
            self.add_newline()

    def vision_inputs(self, feature, modality, known):
        if self.own.merge_type == UNPADDED:
            return super().vision_inputs(feature, modality, known)
        return self.features.inputs(feature, known)

    def vision(self, patches, *indices):
        if self.own.merge_type == UNPADDED:
            return super().vision(patches, *indices)
        return LlavaForConditionalGeneration.vision(self, patches, *indices)


class LlavaMistralForCausalLM(LlavaLlamaForCausalLM):
    decoders = ("mistral",)


class LlavaQwenForCausalLM(LlavaLlamaForCausalLM):
    decoders = ("qwen2",)

"""LLaVA in its makers' own format, and Yi-VL: pixels as SGLang's LlavaImageProcessor makes them, and where they go.

SGLang 0.5.23's processor does not say where images are in the prompt, and wants a tokenizer that knows `<image>`. Those
that were published with the models do not: their makers cut the prompt there, as it is done here.
"""

import asyncio

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor

from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem, MultimodalProcessorOutput
from sglang.srt.model_executor_ms.processors.llava import LlavaProcessor, named
from sglang.srt.model_executor_ms.seams import processors
from sglang.srt.model_loader_ms import towers
from sglang.srt.models_ms.vision import anyres
from sglang.srt.multimodal.mm_utils import ensure_numpy, expand2square, process_anyres_image
from sglang.srt.runtime_context import get_model

PLACEHOLDER = "<image>"
processors.tokenize_llavas_alone()


class OwnLlavaProcessor(LlavaProcessor):
    """One image in tiles, where config.json says so; several as squares, each of one tile."""

    models = [named("LlavaLlamaForCausalLM"), named("LlavaMistralForCausalLM"), named("LlavaQwenForCausalLM")]

    def __init__(self, hf_config, server_args, _processor, *args, **kwargs):
        super().__init__(hf_config, server_args, _processor, *args, **kwargs)
        tower = towers.source_of(hf_config.mm_vision_tower, get_model().model_path)
        self.tower = towers.config_of(tower)
        self.image_processor = AutoImageProcessor.from_pretrained(tower)

    def special_tokens(self, hf_config, processor):
        known = self._tokenizer.get_vocab().get(PLACEHOLDER)
        return dict(image_token=PLACEHOLDER, image_token_id=hf_config.image_token_index if known is None else known)

    @property
    def side(self) -> int:
        return self.tower["image_size"] // self.tower["patch_size"]

    @property
    def possible(self) -> tuple[tuple[int, int], ...]:
        """Heights and widths of images in tiles."""
        return anyres.pinpoints(self._said("image_grid_pinpoints", ()), self.tower["image_size"])

    def _said(self, key: str, default):
        """What config.json says."""
        found = getattr(self.hf_config, key, None)
        return default if found is None else found

    def _in_tiles(self, count: int) -> bool:
        """Whether images are cut into tiles, of so many in a prompt."""
        return count == 1 and self._said("image_aspect_ratio", "square").startswith("anyres")

    def tokens_of_images(self, made) -> list[int]:
        """made: sizes of images, height and width."""
        has_class = self._said("mm_vision_select_feature", "patch") == "cls_patch"
        if self._said("mm_patch_merge_type", "flat") == "flat":
            kept = has_class and self.tower.get("model_type") != "siglip_vision_model"
            return [self.side**2 + kept] * len(made)
        if not self._in_tiles(len(made)):
            return [len(anyres.untiled(self.side)[0])] * len(made)
        aspect, tile = self._said("image_aspect_ratio", ""), self.tower["image_size"]
        most = anyres.most_tiles_of_aspect(aspect)
        return [len(anyres.resized(size, self.possible, tile, self.side, most)[0]) for size in made]

    async def process_mm_data_async(self, image_data, input_text, request_obj, *args, **kwargs):
        """As SGLang asks for it: a prompt with its images -> ids with all placeholders, and the images."""
        loaded = await self.load(input_text, image_data, request_obj)
        if not all(isinstance(image, Image.Image) for image in loaded.images):
            raise ValueError(
                f"{self.hf_config.architectures[0]} is served with images, and not with what is made of them"
            )
        run = asyncio.get_running_loop().run_in_executor
        tiled = self._in_tiles(len(loaded.images))
        pixels = await asyncio.gather(*(run(self.io_executor, self._pixels, one, tiled) for one in loaded.images))
        sizes = [(image.height, image.width) for image in loaded.images]
        given = input_text if isinstance(input_text, list) else self._ids(loaded.input_text)
        ids, offsets = self._widened(given, self.tokens_of_images(sizes))
        items = [
            MultimodalDataItem(
                modality=Modality.IMAGE,
                feature=torch.from_numpy(one),
                offsets=[place],
                model_specific_data=dict(image_sizes=torch.tensor([size])),
            )
            for one, place, size in zip(pixels, offsets, sizes, strict=True)
        ]
        return MultimodalProcessorOutput(input_ids=ids, mm_items=items, im_token_id=self.mm_tokens.image_token_id)

    def _pixels(self, image: Image.Image, tiled: bool) -> np.ndarray:
        """float32 [tiles, 3, height, width]"""
        image, made = image.convert("RGB"), self.image_processor
        if tiled:
            possible = [[width, height] for height, width in self.possible]
            return process_anyres_image(image, made, possible).astype(np.float32)
        if self._said("image_aspect_ratio", "square") != "square":
            image = expand2square(image, tuple(int(share * 255) for share in made.image_mean))
        return ensure_numpy(made(image)["pixel_values"][0]).astype(np.float32)[None]

    def _ids(self, text: str) -> list[int]:
        """Ids of a prompt, with one placeholder for each image."""
        begin, *others = text.split(PLACEHOLDER)
        told = bool(self._tokenizer.bos_token) and begin.startswith(self._tokenizer.bos_token)
        ids = self._tokenizer(begin, add_special_tokens=not told)["input_ids"]
        for part in others:
            ids += [self.mm_tokens.image_token_id, *self._tokenizer(part, add_special_tokens=False)["input_ids"]]
        return ids

    def _widened(self, ids: list[int], counts: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids with as many placeholders as images have tokens -> those, and the first and last place of each image."""
        token = self.mm_tokens.image_token_id
        if ids.count(token) != len(counts):
            raise ValueError(f"the prompt has {ids.count(token)} places for images, and {len(counts)} are given")
        made, places, left = [], [], iter(counts)
        for one in ids:
            count = next(left) if one == token else 1
            if one == token:
                places.append((len(made), len(made) + count - 1))
            made += [one] * count
        return made, places

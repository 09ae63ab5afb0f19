"""LLaVA 1.5, 1.6, NeXT-Video and OneVision through transformers' own processors.

SGLang 0.5.23's processor for LLaVA 1.5 does not say where images are in the prompt, and has no `shutdown`. For the
others it has none.
"""

from itertools import accumulate

from sglang.srt.managers.schedule_batch import MultimodalProcessorOutput
from sglang.srt.model_executor_ms.processors.videos import TakesVideos
from sglang.srt.models_ms.vision import anyres
from sglang.srt.multimodal.processors.base_processor import BaseMultimodalProcessor, MultimodalSpecialTokens


def named(architecture: str) -> type:
    """What SGLang finds a processor by: a class of this name. It would be torch's model, which nobody runs here."""
    return type(architecture, (), {})


class LlavaProcessor(BaseMultimodalProcessor):
    """Images, each in the place of one placeholder."""

    models = []

    def __init__(self, hf_config, server_args, _processor, *args, **kwargs):
        super().__init__(hf_config, server_args, _processor, *args, **kwargs)
        self.mm_tokens = MultimodalSpecialTokens(**self.special_tokens(hf_config, _processor)).build(_processor)

    def special_tokens(self, hf_config, processor) -> dict:
        """Placeholders, as MultimodalSpecialTokens takes them."""
        return dict(image_token=processor.image_token, image_token_id=hf_config.image_token_id)

    @property
    def side(self) -> int:
        """Patches of a tile, in height and in width."""
        vision = self.hf_config.vision_config
        return vision.image_size // vision.patch_size

    def tokens_of_images(self, made) -> list[int]:
        """How many tokens each image has, of what transformers' processor made."""
        has_class = self.hf_config.vision_config.model_type == "clip_vision_model"
        with_class = has_class and self.hf_config.vision_feature_select_strategy == "full"
        return [self.side**2 + with_class] * len(made["pixel_values"])

    def collect_mm_items_from_processor_output(self, data_dict, modality=None):
        """As SGLang's, and where each image is: images may follow each other without a token between them."""
        items = super().collect_mm_items_from_processor_output(data_dict, modality)
        if "input_ids" in data_dict and "pixel_values" in data_dict:
            counts = self.tokens_of_images(data_dict)
            for item in items:
                item.set("offsets", self.offsets(data_dict["input_ids"], self.mm_tokens.image_token_id, counts))
        return items

    @staticmethod
    def offsets(input_ids, placeholder: int, counts: list[int]) -> list[tuple[int, int]]:
        """First and last place of each image or video, of those that have so many placeholders each."""
        places = (input_ids.flatten() == placeholder).nonzero().flatten().tolist()
        if sum(counts) != len(places):
            raise ValueError(
                f"the prompt has token {placeholder} {len(places)} times, and wants it {sum(counts)} times"
            )
        ends = list(accumulate(counts))
        return [(places[end - count], places[end - 1]) for end, count in zip(ends, counts, strict=True)]

    async def process_mm_data_async(self, image_data, input_text, request_obj, *args, **kwargs):
        """As SGLang asks for it: a prompt with its images -> ids with all placeholders, and the images."""
        loaded = await self.load(input_text, image_data, request_obj)
        items, input_ids, _ = await self.process_and_combine_mm_data_async(loaded, self.mm_tokens)
        return MultimodalProcessorOutput(
            input_ids=input_ids.tolist(),
            mm_items=items,
            im_token_id=self.mm_tokens.image_token_id,
            video_token_id=self.mm_tokens.video_token_id,
        )

    async def load(self, prompt, image_data, request_obj):
        """What a request shows, decoded: SGLang's BaseMultiModalProcessorOutput."""
        if getattr(request_obj, "video_data", None):
            raise ValueError(f"{self.hf_config.architectures[0]} is served with images, and without videos")
        return await self.load_mm_data(prompt, self.mm_tokens, image_data, discard_alpha_channel=True)


class ProcessorOfTower(BaseMultimodalProcessor):
    """LLaVA's processor, or with Pixtral's tower SGLang's own for Pixtral."""

    models = [named("LlavaForConditionalGeneration")]

    def __new__(cls, hf_config, *args, **kwargs):
        if hf_config.vision_config.model_type != "pixtral":
            return LlavaProcessor(hf_config, *args, **kwargs)
        from sglang.srt.multimodal.processors.pixtral import PixtralProcessor  # with torch's model, which takes time

        return PixtralProcessor(hf_config, *args, **kwargs)


class LlavaNextProcessor(LlavaProcessor):
    """Images in tiles: as many tokens as their shape asks for."""

    models = [named("LlavaNextForConditionalGeneration")]

    def tokens_of_images(self, made) -> list[int]:
        possible, tile = self.hf_config.image_grid_pinpoints, self.hf_config.vision_config.image_size
        sizes = made["image_sizes"].reshape(-1, 2).tolist()
        return [len(anyres.rows(size, possible, tile, self.side)) for size in sizes]


class LlavaNextVideoProcessor(TakesVideos, LlavaNextProcessor):
    """Videos too, whose patches become one of four."""

    models = [named("LlavaNextVideoForConditionalGeneration")]

    def tokens_of_video(self, frames: int) -> int:
        return frames * (self.side // 2) ** 2


class LlavaOnevisionProcessor(TakesVideos, LlavaNextProcessor):
    """As LLaVA 1.6 of one image, with fewer tokens where they would be many. Several images have one tile each."""

    models = [named("LlavaOnevisionForConditionalGeneration")]

    def process_mm_data(self, input_text, images=None, **kwargs):
        """As SGLang's, with all images as those of one prompt: transformers takes each for a prompt's only one else."""
        return super().process_mm_data(input_text, [images] if images else images, **kwargs)

    def tokens_of_images(self, made) -> list[int]:
        sizes = made["image_sizes"].reshape(-1, 2).tolist()
        if len(sizes) > 1:
            return [len(anyres.untiled(self.side)[0])] * len(sizes)
        possible, tile = self.hf_config.image_grid_pinpoints, self.hf_config.vision_config.image_size
        most = anyres.most_tiles(self.hf_config.vision_aspect_ratio)
        return [len(anyres.resized(sizes[0], possible, tile, self.side, most)[0])]

    def tokens_of_video(self, frames: int) -> int:
        return frames * ((self.side + 1) // 2) ** 2 + 1

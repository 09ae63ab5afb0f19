"""Idefics3 and SmolVLM by transformers' own processors: SGLang 0.5.23 has none for them."""

from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem
from sglang.srt.model_executor_ms.processors.llava import LlavaProcessor, named


class Idefics3Processor(LlavaProcessor):
    """Images in tiles, between tokens that say which tile it is: each is an image of its own here."""

    models = [named("Idefics3ForConditionalGeneration"), named("SmolVLMForConditionalGeneration")]

    def collect_mm_items_from_processor_output(self, data_dict, modality=None):
        """An item a tile."""
        if "input_ids" not in data_dict or "pixel_values" not in data_dict:
            return super().collect_mm_items_from_processor_output(data_dict, modality)
        if not data_dict["pixel_attention_mask"].all():
            raise ValueError("a tile that is padded: preprocessor_config.json has to make all tiles of one size")
        offsets = self.get_mm_items_offset(data_dict["input_ids"].flatten(), self.mm_tokens.image_token_id)
        return [
            MultimodalDataItem(modality=Modality.IMAGE, feature=tile, offsets=[offset])
            for tile, offset in zip(data_dict["pixel_values"].flatten(0, 1), offsets, strict=True)
        ]

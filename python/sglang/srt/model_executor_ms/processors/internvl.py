"""InternVL under transformers' name, by transformers' own processor: SGLang 0.5.23 has one for the older name only."""

from itertools import accumulate

from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem
from sglang.srt.model_executor_ms.processors.llava import LlavaProcessor, named


class InternVLProcessor(LlavaProcessor):
    """Images in tiles, all of them in one tensor; each image between two tokens of its own."""

    models = [named("InternVLForConditionalGeneration")]

    def collect_mm_items_from_processor_output(self, data_dict, modality=None):
        """An item an image, with its tiles: they have as many tokens each."""
        if "input_ids" not in data_dict or "pixel_values" not in data_dict:
            return super().collect_mm_items_from_processor_output(data_dict, modality)
        tiles, token = data_dict["pixel_values"], self.mm_tokens.image_token_id
        offsets = self.get_mm_items_offset(data_dict["input_ids"].flatten(), token)
        tokens = [last - first + 1 for first, last in offsets]
        if not tiles.shape[0] or sum(tokens) % tiles.shape[0]:
            raise ValueError(f"the prompt has {sum(tokens)} image tokens for {tiles.shape[0]} tiles")
        ends = list(accumulate(count * tiles.shape[0] // sum(tokens) for count in tokens))
        parts = [tiles[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
        return [
            MultimodalDataItem(modality=Modality.IMAGE, feature=part, offsets=[offset])
            for part, offset in zip(parts, offsets, strict=True)
        ]

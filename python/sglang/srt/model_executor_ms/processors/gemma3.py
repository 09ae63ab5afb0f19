"""Gemma 3 by SGLang's processor, which says which tokens are around an image, and not which token is its own."""

import msgspec

from sglang.srt.model_executor_ms.processors.llava import named
from sglang.srt.multimodal.processors.gemma3 import Gemma3SGLangImageProcessor


class Gemma3Processor(Gemma3SGLangImageProcessor):
    models = [named("Gemma3ForConditionalGeneration")]

    async def process_mm_data_async(self, *args, **kwargs):
        """As SGLang's, and the id of an image's tokens, which become the image's own for the radix cache."""
        found = await super().process_mm_data_async(*args, **kwargs)
        return msgspec.structs.replace(found, im_token_id=self.mm_tokens.image_token_id)

"""Mistral 3 by SGLang's processor for Pixtral. SGLang 0.5.23 wraps it into one that has no `shutdown`."""

from sglang.srt.model_executor_ms.processors.llava import named
from sglang.srt.multimodal.processors.pixtral import PixtralProcessor


class Mistral3Processor(PixtralProcessor):
    models = [named("Mistral3ForConditionalGeneration")]

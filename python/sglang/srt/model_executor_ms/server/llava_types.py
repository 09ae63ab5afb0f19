"""Classes for config.json of LLaVA's own format, by the model types that its makers gave it beside "llava"."""

from transformers import CONFIG_MAPPING, AutoConfig, LlavaConfig


class LlavaLlamaConfig(LlavaConfig):
    model_type = "llava_llama"


class LlavaMistralConfig(LlavaConfig):
    model_type = "llava_mistral"


class LlavaQwenConfig(LlavaConfig):
    model_type = "llava_qwen"


def register() -> None:
    """Let transformers read them."""
    for kind in (LlavaLlamaConfig, LlavaMistralConfig, LlavaQwenConfig):
        if kind.model_type not in CONFIG_MAPPING:
            AutoConfig.register(kind.model_type, kind)

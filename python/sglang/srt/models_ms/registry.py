"""Architecture name in config.json -> where its class is. Adding a model is one line here and one file beside it."""

import importlib

MODELS = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


class UnknownArchitecture(Exception):
    """No file of this room computes the checkpoint's architecture."""


def model_class(architectures: list[str]) -> type:
    """The class of the first architecture that is known; UnknownArchitecture, listing the known ones, if none is."""
    for architecture in architectures:
        if architecture in MODELS:
            module = importlib.import_module(f"{__package__}.{MODELS[architecture]}")
            return getattr(module, architecture)
    raise UnknownArchitecture(
        f"architectures = {architectures} of config.json is not supported by --framework mindspore; "
        f"supported: {', '.join(sorted(MODELS))}"
    )

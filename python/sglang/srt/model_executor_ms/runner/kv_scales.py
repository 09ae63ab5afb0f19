"""--quantization-param-path: a file with a scale of the float8 cache for each layer of each tensor parallel rank."""

from pathlib import Path

from pydantic import ValidationError

from sglang.srt.layers_ms.cache_spec import caching_layers
from sglang.srt.layers_ms.kv_scales import FP8_E4M3
from sglang.srt.model_executor_ms.environment import Refusal
from sglang.srt.model_loader.weight_utils import QuantParamSchema

FLAG = "--quantization-param-path"


class WrongScales(Refusal):
    """The file cannot be read, or is not of this model and these ranks."""


def read(path: str, config, ranks: int) -> dict[int, dict[int, float]]:
    """Rank -> layer -> scale. config: transformers', of the model. WrongScales with what is wrong."""
    layers = config.num_hidden_layers
    context = {"model_type": config.model_type, "num_hidden_layers": layers, "tp_rank": 0, "tp_size": ranks}
    try:
        found = QuantParamSchema.model_validate_json(Path(path).read_text(), context=context).kv_cache.scaling_factor
    except OSError as error:
        raise WrongScales(f"{FLAG} {path}: {error.strerror}") from error
    except (ValidationError, UnicodeDecodeError, KeyError) as error:
        told = error.errors() if isinstance(error, ValidationError) else [{"loc": (), "msg": repr(error)}]
        problems = [": ".join((*map(str, one["loc"]), one["msg"])) for one in told]
        raise WrongScales(f"{FLAG} {path}: {'; '.join(problems)}") from error
    wrong = [
        f"layer {layer} of rank {rank}: {scales.get(layer)}"
        for rank, scales in found.items()
        for layer in range(layers)
        if not 0.0 < scales.get(layer, 0.0) < float("inf")
    ]
    if wrong:
        raise WrongScales(f"{FLAG} {path}: scales that are lacking, or not above zero: {', '.join(wrong)}")
    return found


def check(path: str, kv_cache_dtype: str, config, ranks: int, draft_model: str | None = None) -> None:
    """WrongScales where the file cannot be used, or nothing would read it. draft_model: which drafts, if any."""
    if kv_cache_dtype != FP8_E4M3:
        raise WrongScales(f"{FLAG} {path}: has scales of a cache in float8: give --kv-cache-dtype {FP8_E4M3}, or none")
    if draft_model is not None:
        raise WrongScales(f"{FLAG} {path}: has scales of one model, and {draft_model} has a cache too: leave it out")
    read(path, config, ranks)


def give(network, scales: dict[int, float]) -> None:
    """Let each attention layer of a network use its scale. Latent attention has none: its rows are normalized."""
    for layer in caching_layers(network):
        if getattr(layer, "kv_scales", None) is not None:
            layer.kv_scales.give(scales[layer.layer_id])

"""Ministral 3: Mistral's decoder, whose queries grow with their positions, as Llama 4's do.

Reference: transformers/models/ministral3/modeling_ministral3.py.
"""

import dataclasses

import numpy as np

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mistral import MistralConfig
from sglang.srt.models_ms.rope_config import read_rope

BETA, ORIGINAL = "llama_4_scaling_beta", "original_max_position_embeddings"


class ScaledQueriesConfig(DecoderConfig):
    """rope_parameters say how queries grow, too."""

    beta: float = key(f"rope_parameters.{BETA}", 0.0, aliases=(f"rope_scaling.{BETA}",))
    grows_after: int = key(  # in positions
        f"rope_parameters.{ORIGINAL}",
        lambda config: config.original_max_position_embeddings,
        aliases=(f"rope_scaling.{ORIGINAL}",),
    )
    of_queries = (BETA, "max_position_embeddings")  # what rope_parameters has beside those of the rotary embedding

    @computed
    def rope(self):
        known = {name: value for name, value in self.rope_parameters.items() if name not in self.of_queries}
        return read_rope(dataclasses.replace(self, rope_parameters=known))

    @computed
    def query_factors(self) -> np.ndarray | None:
        """What a query is multiplied with, of each position, float32; None: nothing."""
        if not self.beta:
            return None
        grown = np.floor(np.arange(self.rotary_rows) / self.grows_after)
        return (1 + self.beta * np.log(1 + grown)).astype(np.float32)


class Ministral3Config(MistralConfig, ScaledQueriesConfig):
    pass


class Ministral3Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        window, factors = config.windows[layer_id], config.query_factors
        super().__init__(config, Attention(config, layer_id, window=window, query_factors=factors), GatedMLP(config))


class Ministral3ForCausalLM(CausalLM):
    config_class = Ministral3Config
    layer_class = Ministral3Layer

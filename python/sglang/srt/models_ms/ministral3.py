"""Ministral 3: Mistral's decoder, whose queries grow with their positions, as Llama 4's do.

Reference: transformers/models/ministral3/modeling_ministral3.py.
"""

import dataclasses

import numpy as np

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mistral import MistralConfig
from sglang.srt.models_ms.rope_config import read_rope

BETA = "llama_4_scaling_beta"
OF_QUERIES = (BETA, "max_position_embeddings")  # what rope_parameters has beside those of the rotary embedding


class Ministral3Config(MistralConfig):
    beta: float = key(f"rope_parameters.{BETA}", 0.0, aliases=(f"rope_scaling.{BETA}",))

    @computed
    def rope(self):
        known = {name: value for name, value in self.rope_parameters.items() if name not in OF_QUERIES}
        return read_rope(dataclasses.replace(self, rope_parameters=known))

    @computed
    def query_factors(self) -> np.ndarray | None:
        """What a query is multiplied with, of each position, float32; None: nothing."""
        if not self.beta:
            return None
        original = self.rope_parameters["original_max_position_embeddings"]
        grown = np.floor(np.arange(self.rotary_rows) / original)
        return (1 + self.beta * np.log(1 + grown)).astype(np.float32)


class Ministral3Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        window, factors = config.windows[layer_id], config.query_factors
        super().__init__(config, Attention(config, layer_id, window=window, query_factors=factors), GatedMLP(config))


class Ministral3ForCausalLM(CausalLM):
    config_class = Ministral3Config
    layer_class = Ministral3Layer

"""Mixtral: Mistral's decoder with experts in the place of the MLP.

Reference: transformers/models/mixtral/modeling_mixtral.py.
"""

from sglang.srt.layers_ms import Attention, Routing
from sglang.srt.layers_ms.expert_layouts import separate
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mixture import MixtureConfig, mixture


class MixtralConfig(MixtureConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        return super().read(
            hf,
            runtime,
            windows=hf.windows(lambda layer: True),
            num_experts=hf.get("num_local_experts"),
            moe_intermediate_size=hf.get("intermediate_size"),
            routing=Routing(hf.get("num_experts_per_tok"), renormalise=True),
            **special,
        )


class MixtralLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, window=config.windows[layer_id])
        super().__init__(config, attention, mixture(config, layouts=separate("w1", "w3", "w2")))


class MixtralForCausalLM(CausalLM):
    config_class = MixtralConfig
    layer_class = MixtralLayer
    tensor_names = {"mlp": "block_sparse_moe"}

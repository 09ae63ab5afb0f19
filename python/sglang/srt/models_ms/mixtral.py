"""Mixtral: Mistral's decoder with experts in the place of the MLP.

Reference: transformers/models/mixtral/modeling_mixtral.py.
"""

from sglang.srt.layers_ms import Attention
from sglang.srt.layers_ms.expert_layouts import MIXTRAL, separate
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import MoeConfig, sparse_moe_block
from sglang.srt.models_ms.windows import sliding_windows


class MixtralConfig(MoeConfig):
    moe_intermediate_size: int = key("intermediate_size")
    norm_topk_prob: bool = True

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: True)


class MixtralLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, window=config.windows[layer_id])
        super().__init__(config, attention, sparse_moe_block(config, layouts=separate(*MIXTRAL)))


class MixtralForCausalLM(CausalLM):
    config_class = MixtralConfig
    layer_class = MixtralLayer
    tensor_names = {"mlp": "block_sparse_moe"}
    other_tensor_names = ({},)  # as transformers 5 holds them

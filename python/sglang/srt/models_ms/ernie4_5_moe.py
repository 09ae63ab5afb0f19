"""ERNIE 4.5, mixture: softmax scores with a correction bias for the choice of experts, and shared experts.

Reference: transformers/models/ernie4_5_moe/modeling_ernie4_5_moe.py.
"""

from sglang.srt.layers_ms import Attention
from sglang.srt.layers_ms.moe import correction_bias
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import MoeConfig, mlp

CORRECTION = correction_bias("../moe_statics.e_score_correction_bias", axes=2)


class Ernie4_5_MoeConfig(MoeConfig):
    num_experts: int = key("moe_num_experts")
    num_experts_per_tok: int = key("moe_k")
    shared_experts: int = key("moe_num_shared_experts", 0)
    moe_layer_start_index: int = key("moe_layer_start_index", 1)
    moe_layer_end_index: int = key("moe_layer_end_index", -1)
    moe_layer_interval: int = key("moe_layer_interval", 1)
    tie_word_embeddings: bool = key("tie_word_embeddings", True)
    norm_topk_prob: bool = True
    expected = {"use_bias": False, "moe_gate": "topk", "moe_use_aux_free": True, "moe_gate_act": "softmax"}
    ignored = {"moe_norm_min": "less than any sum of probabilities", "moe_capacity": "training of the router"}

    @computed
    def shared_intermediate_size(self):
        return self.moe_intermediate_size * self.shared_experts

    @computed
    def dense_layers(self):
        first, last, every = self.moe_layer_start_index, self.moe_layer_end_index, self.moe_layer_interval
        last = self.num_hidden_layers - 1 if last == -1 else last
        layers = range(self.num_hidden_layers)
        return frozenset(layer for layer in layers if (layer + 1) % every or not first <= layer <= last)


class Ernie4_5_MoeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, interleaved=True)
        super().__init__(config, attention, mlp(config, layer_id, correction=CORRECTION))


class Ernie4_5_MoeForCausalLM(CausalLM):
    config_class = Ernie4_5_MoeConfig
    layer_class = Ernie4_5_MoeLayer
    ignored_tensors = (*CausalLM.ignored_tensors, r"^model\.mtp_")  # multi-token prediction

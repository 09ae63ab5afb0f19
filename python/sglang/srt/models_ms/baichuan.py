"""Baichuan 1 and 2: Llama's decoder with fused weights; 13B has ALiBi, and Baichuan 2 unit rows in its head.

Nothing in config.json says so in words: 13B has model_max_length and no max_position_embeddings, and
Baichuan 2 has a larger vocabulary, and z_loss_weight. Reference: modeling_baichuan.py, baichuan-inc/Baichuan2-7B-Base.
"""

from sglang.srt.layers_ms import Attention, GatedMLP, concatenated
from sglang.srt.layers_ms.attention import alibi_slopes
from sglang.srt.models_ms.config import DecoderConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.rope_config import read_rope

VOCAB_SIZE_OF_2 = 125696


class BaichuanConfig(DecoderConfig):
    max_position_embeddings: int = key("max_position_embeddings", aliases=("model_max_length",))
    rotated_positions: int = key("max_position_embeddings", 0)
    z_loss_weight: float | None = key("z_loss_weight", None)

    @computed
    def rope(self):
        return read_rope(self) if self.rotated_positions else None

    @property
    def unit_head(self) -> bool:
        """Whether rows of the head are scaled to length one."""
        return self.z_loss_weight is not None or self.vocab_size == VOCAB_SIZE_OF_2


class BaichuanLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        alibi = alibi_slopes(config.num_attention_heads) if config.rope is None else None
        super().__init__(config, Attention(config, layer_id, fused_qkv=concatenated, alibi=alibi), GatedMLP(config))


class BaichuanForCausalLM(CausalLM):
    config_class = BaichuanConfig
    layer_class = BaichuanLayer
    tensor_names = {"self_attn.qkv_proj": "self_attn.W_pack"}

    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        if self.lm_head is not None:
            self.lm_head.unit_rows = self.config.unit_head

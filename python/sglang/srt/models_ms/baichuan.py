"""Baichuan 1 and 2: Llama's decoder with packed weights; 13B has ALiBi, and Baichuan 2 unit rows in its head.

Nothing in config.json says so in words: 13B has model_max_length and no max_position_embeddings, and
Baichuan 2 has a larger vocabulary, and z_loss_weight. Reference: modeling_baichuan.py, baichuan-inc/Baichuan2-7B-Base.
"""

from dataclasses import dataclass

from sglang.srt.layers_ms import Attention, GatedMLP, stacked
from sglang.srt.layers_ms.attention import alibi_slopes
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer

VOCAB_SIZE_OF_2 = 125696


@dataclass(frozen=True)
class BaichuanConfig(DecoderConfig):
    unit_head: bool = False  # rows of the head are scaled to length one

    @classmethod
    def read(cls, hf, runtime, **special):
        hf.get("model_max_length", None)
        if hf.get("max_position_embeddings", None) is None:
            hf.spell(max_position_embeddings="model_max_length")
            special |= dict(rope=None)
        unit = hf.get("z_loss_weight", None) is not None or hf.get("vocab_size") == VOCAB_SIZE_OF_2
        return super().read(hf, runtime, unit_head=unit, **special)


class BaichuanLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        alibi = alibi_slopes(config.num_attention_heads) if config.rope is None else None
        super().__init__(config, Attention(config, layer_id, packed=stacked, alibi=alibi), GatedMLP(config))


class BaichuanForCausalLM(CausalLM):
    config_class = BaichuanConfig
    layer_class = BaichuanLayer
    tensor_names = {"self_attn.qkv_proj": "self_attn.W_pack"}

    def pack(self):
        if self.config.unit_head and self.lm_head is not None:
            self.lm_head.scale_rows_to_one()
        super().pack()


BaiChuanForCausalLM = BaichuanForCausalLM  # as Baichuan 7B spells it

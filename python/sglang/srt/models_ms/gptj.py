"""GPT-J and CodeGen: a parallel residual, LayerNorm, neighbors rotated as pairs in part of a head, a head with a bias.

References: transformers/models/gptj/modeling_gptj.py, transformers/models/codegen/modeling_codegen.py.
"""

from sglang.srt.layers_ms import MLP, Attention
from sglang.srt.layers_ms.rotary import Rope
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, ParallelLayer
from sglang.srt.models_ms.gpt2 import GPTConfig
from sglang.srt.models_ms.stablelm import biased_layer_norm

BLOCKS = 4  # of heads in CodeGen's fused matrix, which was trained on so many chips


class GPTJConfig(GPTConfig):
    rotary_dim: int = key("rotary_dim", 64)
    expected = {"rotary": True}
    ignored = {"gradient_checkpointing": "training"}
    head_bias = True

    @computed
    def rope(self):
        return Rope("default", self.rope_theta, self.rotary_dim, self.max_position_embeddings)


class GPTJLayer(ParallelLayer):
    fused_qkv = None

    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, interleaved=True, fused_qkv=self.fused_qkv)
        super().__init__(config, attention, MLP(config, bias=True), biased_layer_norm)


class GPTJForCausalLM(CausalLM):
    config_class = GPTJConfig
    layer_class = GPTJLayer
    norm = staticmethod(biased_layer_norm)
    ignored_tensors = (r"\.attn\.(masked_bias|bias|causal_mask)$",)
    tensor_names = {
        "model.embed_tokens": "transformer.wte",
        "model.layers": "transformer.h",
        "model.norm": "transformer.ln_f",
        "input_layernorm": "ln_1",
        "self_attn.o_proj": "attn.out_proj",
        "self_attn": "attn",
        "mlp.up_proj": "mlp.fc_in",
        "mlp.down_proj": "mlp.fc_out",
    }


def in_blocks(heads: int, kv_heads: int) -> tuple:
    """As `concatenated`: in each of BLOCKS parts its queries, its values, its keys."""
    held = heads // BLOCKS
    places = [head // held * 3 * held + head % held for head in range(heads)]
    return places, [place + 2 * held for place in places], [place + held for place in places]


class CodeGenLayer(GPTJLayer):
    fused_qkv = staticmethod(in_blocks)


class CodeGenForCausalLM(GPTJForCausalLM):
    layer_class = CodeGenLayer

"""Kimi Linear: Kimi's delta attention in three of four layers, latent attention without positions in the others.

Reference: transformers/models/kimi_linear/modeling_kimi_linear.py.
"""

from sglang.srt.layers_ms import GatedMLP, KimiDeltaAttention, MLAAttention
from sglang.srt.layers_ms.expert_layouts import separate
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mla_config import MLAConfig
from sglang.srt.models_ms.moe_config import CORRECTION, CorrectedRoutingConfig, sparse_moe_block


class KimiLinearConfig(MLAConfig, CorrectedRoutingConfig):
    max_position_embeddings: int = key("model_max_length")
    hidden_act: str = key("hidden_act", "silu", accepted=("silu",))
    num_experts_per_tok: int = key("num_experts_per_token", aliases=("num_experts_per_tok",))
    norm_topk_prob: bool = key("moe_renormalize", True)
    n_group: int = key("num_expert_group", 1)
    n_shared_experts: int = key("num_shared_experts", 0)
    state_layers: frozenset = key("linear_attn_config.kda_layers", convert=frozenset)
    full_layers: frozenset = key("linear_attn_config.full_attn_layers", convert=frozenset)
    state_heads: int = key("linear_attn_config.num_heads")
    state_head_dim: int = key("linear_attn_config.head_dim")
    conv_width: int = key("linear_attn_config.short_conv_kernel_size")
    expected = {"moe_router_activation_func": "sigmoid", "use_grouped_topk": True, "mla_use_output_gate": False}
    expected |= {"mamba_ssm_dtype": "float32"}
    ignored = {
        "max_position_embeddings": "SGLang's default beside model_max_length",
        "mla_use_nope": "latent attention has no rotary embedding",
        **dict.fromkeys(
            ("linear_conv_kernel_dim", "linear_head_dim", "linear_num_heads", "mlp_layer_types"),
            "transformers' names of what linear_attn_config and first_k_dense_replace say",
        ),
    }

    @computed
    def rope(self):
        return None

    @computed
    def windows(self):
        return (0,) * self.num_hidden_layers

    def problems(self):
        yield from super().problems()
        every = set(range(1, self.num_hidden_layers + 1))  # counted from one
        if self.state_layers | self.full_layers != every or self.state_layers & self.full_layers:
            yield f"kda_layers and full_attn_layers do not name each of layers 1 to {self.num_hidden_layers} once"


class KimiLinearLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        if layer_id + 1 in config.state_layers:
            sizes = (config.state_heads, config.state_head_dim, config.conv_width)
            mixer = KimiDeltaAttention(config, layer_id, *sizes)
        else:
            mixer = MLAAttention(config, layer_id)
        if layer_id in config.dense_layers:
            mlp = GatedMLP(config)
        else:
            mlp = sparse_moe_block(config, correction=CORRECTION, layouts=separate("w1", "w3", "w2"))
        super().__init__(config, mixer, mlp)


class KimiLinearForCausalLM(CausalLM):
    config_class = KimiLinearConfig
    layer_class = KimiLinearLayer
    tensor_names = {f"mlp.{name}": f"block_sparse_moe.{name}" for name in ("gate", "experts", "shared_experts")}

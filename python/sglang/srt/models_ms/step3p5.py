"""Step-3.5: gated heads, more of them in layers with a window, a rotary embedding of each layer, bounded activations.

Reference: transformers/models/step3p7/modeling_step3p7.py, its text; of config.json and names SGLang's step3p5.py.
"""

import dataclasses

from mindspore import nn

from sglang.srt.layers_ms import Attention, Experts, Router, Routing, SparseMoeBlock, ops
from sglang.srt.layers_ms.moe import correction_bias
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.gemma import gemma_norm
from sglang.srt.models_ms.moe_config import MoeConfig, sized_mlp
from sglang.srt.models_ms.rope_config import read_rope
from sglang.srt.models_ms.windows import sliding_windows

OTHERS = "attention_other_setting"  # of layers with a window
OF_LAYERS = ("rope_theta", "partial_rotary_factor")  # which have values of their own


def of_layers(given) -> tuple:
    """One value of all layers, or one of each."""
    return tuple(given) if isinstance(given, list | tuple) else (given,)


def numbers(given) -> frozenset[int]:
    """3,4,5 or a list of these."""
    return frozenset(map(int, given.split(",") if isinstance(given, str) else given))


class Step3p5Config(MoeConfig):
    """Lists of values of each layer may go on with those of layers that predict more tokens, after the last one."""

    num_key_value_heads: int = key("num_attention_groups")
    heads_of_windows: int = key(f"{OTHERS}.num_attention_heads", lambda config: config.num_attention_heads)
    kv_heads_of_windows: int = key(f"{OTHERS}.num_attention_groups", lambda config: config.num_key_value_heads)
    layer_types: tuple = key("layer_types", convert=tuple)
    rope_theta: tuple = key("rope_theta", aliases=("rope_parameters.rope_theta",), convert=of_layers)
    partial_rotary_factor: tuple = key("partial_rotary_factors", (1.0,), convert=of_layers)
    scaled_types: tuple = key("yarn_only_types", (), convert=tuple)
    gated: bool = key("use_head_wise_attn_gate", False)
    num_experts: int = key("moe_num_experts")
    num_experts_per_tok: int = key("moe_top_k")
    sparse_layers: frozenset = key("moe_layers_enum", convert=numbers)
    shared_intermediate_size: int = key("share_expert_dim", aliases=("share_expert_dims",))
    routed_scaling_factor: float = key("moe_router_scaling_factor", 1.0)
    corrected: bool = key("use_moe_router_bias", False)
    limits: tuple = key("swiglu_limits", (), convert=tuple)
    shared_limits: tuple = key("swiglu_limits_shared", (), convert=tuple)
    expected = {
        "norm_expert_weight": True,
        "moe_router_activation": "sigmoid",
        "use_qk_norm": True,
        "zero_centered": True,
        "att_impl_type": "GQA",
        "use_moe": True,
    }
    ignored = {
        "attention_other_setting": "of layers with a window, where SGLang reads it",
        "max_seq_len": "SGLang reads it for the length of the context",
        "need_fp32_gate": "routers are always computed in float32",
        "num_nextn_predict_layers": "layers after the last are left out",
        **dict.fromkeys(("moe_layer_offset", "moe_every_n_layer"), "moe_layers_enum says it"),
    }

    @computed
    def windows(self):
        return sliding_windows(dataclasses.replace(self, layer_types=self.kinds), lambda layer: layer % 4)

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.layer_types[: self.num_hidden_layers]

    @computed
    def ropes(self) -> tuple:
        """The rotary embedding of each layer."""
        return tuple(map(self.rope_of, range(self.num_hidden_layers)))

    @computed
    def rope(self):
        """Of the layers that see furthest, for what asks for one."""
        return self.ropes[self.windows.index(0) if 0 in self.windows else 0]

    def rope_of(self, layer: int):
        scaled = self.kinds[layer] in self.scaled_types
        scaling = {name: value for name, value in self.rope_parameters.items() if name not in OF_LAYERS}
        own = dict(
            rope_theta=self.rope_theta[layer % len(self.rope_theta)],
            partial_rotary_factor=self.partial_rotary_factor[layer % len(self.partial_rotary_factor)],
            rope_parameters=scaling if scaled else {},
        )
        return read_rope(dataclasses.replace(self, **own))

    @computed
    def routing(self):
        routing = Routing(self.num_experts_per_tok, scoring="sigmoid", renormalize=True)
        return routing._replace(scaling=self.routed_scaling_factor)

    def problems(self):
        yield from super().problems()
        given = {"rope_theta": self.rope_theta, "partial_rotary_factors": self.partial_rotary_factor}
        given |= {"swiglu_limits": self.limits, "swiglu_limits_shared": self.shared_limits}
        for name, values in given.items():
            if 1 < len(values) < self.num_hidden_layers:
                yield f"{name} has {len(values)} values for {self.num_hidden_layers} layers"


class ClampedSilu(nn.Cell):
    """gate_up [T, 2 * n] -> silu(gate) * up, bounded."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit

    def construct(self, gate_up):
        return ops.silu_and_mul_clamped(gate_up, self.limit)


def bounded_mlp(config: Step3p5Config, layer_id: int, size: int):
    limit = config.shared_limits[layer_id] if config.shared_limits else None
    return sized_mlp(config, size, act_and_mul=ClampedSilu(limit) if limit else None)


def mlp(config: Step3p5Config, layer_id: int):
    if layer_id not in config.sparse_layers:
        return bounded_mlp(config, layer_id, config.intermediate_size)
    limit = config.limits[layer_id] if config.limits else None
    bounds = dict(activation="silu_clamped", limit=limit) if limit else {}
    sizes = (config.hidden_size, config.moe_intermediate_size, config.num_experts)
    correction = correction_bias("../router_bias") if config.corrected else None
    gate = Router(config, config.num_experts, config.routing, correction=correction)
    shared = bounded_mlp(config.on(config.shard.moe), layer_id, config.shared_intermediate_size)
    return SparseMoeBlock(gate, Experts(*sizes, config.shard, config.dtype, **bounds), config.shard, shared)


class Step3p5Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        window, sized = config.windows[layer_id], config
        if window:
            sizes = dict(num_attention_heads=config.heads_of_windows, num_key_value_heads=config.kv_heads_of_windows)
            sized = dataclasses.replace(config, **sizes)
        kind = dict(qk_norm="head", norm_offset=1.0, window=window, rope=config.ropes[layer_id])
        attention = Attention(sized, layer_id, gates=1 if config.gated else None, **kind)
        super().__init__(config, attention, mlp(config, layer_id), gemma_norm)


class Step3p5ForCausalLM(CausalLM):
    config_class = Step3p5Config
    layer_class = Step3p5Layer
    norm = staticmethod(gemma_norm)
    tensor_names = {
        "mlp.gate": "moe.gate",
        "mlp.router_bias": "moe.router_bias",
        "mlp.experts": "moe",
        "mlp.shared_experts": "share_expert",
    }

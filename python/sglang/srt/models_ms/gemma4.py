"""Gemma 4, its text: per-layer embeddings, layers that share keys and values, two sizes of heads, experts or none.

Reference: transformers/models/gemma4/modeling_gemma4.py.
"""

import dataclasses

from sglang.srt.layers_ms import Attention, ops
from sglang.srt.layers_ms.moe import NormedMoeBlock, ScaledRouter
from sglang.srt.layers_ms.per_layer_inputs import LayerScalar, PerLayerGate, PerLayerInputs
from sglang.srt.layers_ms.shared_kv import NormalizedValues, SharedKVAttention
from sglang.srt.models_ms.config import RopeOfEachKindConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, Decoder, SandwichNormLayer, rms_norm
from sglang.srt.models_ms.gemma import GemmaConfig
from sglang.srt.models_ms.moe_config import MoeConfig, experts, sized_mlp
from sglang.srt.models_ms.multimodal import TextAlone
from sglang.srt.models_ms.windows import sliding_windows

TWO_POOLS = "keys of layers with a window have a pool of their own, and SGLang's stages have one pool"


class SharedKVConfig(GemmaConfig, RopeOfEachKindConfig):
    """head_dim and num_key_value_heads are those of full attention, as SGLang has them."""

    swa_head_dim: int = key("swa_head_dim", lambda config: config.head_dim)
    swa_num_key_value_heads: int = key("swa_num_key_value_heads", lambda config: config.num_key_value_heads)
    bidirectional: str | None = key("use_bidirectional_attention", None, accepted=("vision",))
    attention_k_eq_v: bool = key("attention_k_eq_v", False)
    num_kv_shared_layers: int = key("num_kv_shared_layers", 0)
    use_double_wide_mlp: bool = key("use_double_wide_mlp", False)
    hidden_size_per_layer_input: int = key("hidden_size_per_layer_input", 0)
    vocab_size_per_layer_input: int = key("vocab_size_per_layer_input", lambda config: config.vocab_size)
    final_logit_softcapping: float | None = key("final_logit_softcapping", None)

    @property
    def of_windows(self) -> "SharedKVConfig":
        """The same with the sizes of layers that have a window."""
        sizes = dict(head_dim=self.swa_head_dim, num_key_value_heads=self.swa_num_key_value_heads)
        return dataclasses.replace(self, **sizes)

    @property
    def first_shared(self) -> int:
        """The first layer of those that have no keys and values of their own."""
        return self.num_hidden_layers - self.num_kv_shared_layers

    def problems(self):
        yield from super().problems()
        if self.stage.size > 1:
            shared = self.num_kv_shared_layers or self.hidden_size_per_layer_input
            reason = "layers see keys, values and embeddings that other stages would have" if shared else TWO_POOLS
            yield f"--pp-size {self.stage.size}: {reason}"
        longest, window = self.max_positions, self.sliding_window
        if any(self.windows) and window >= longest:  # there would be no layers with a window, and one pool
            yield f"--context-length {longest}: it has to be more than the sliding_window, {window}"
        kinds = {bool(window) for window in self.windows[: self.first_shared]}
        if not kinds >= {bool(window) for window in self.windows}:
            yield f"num_kv_shared_layers = {self.num_kv_shared_layers}: some layers have none to share with"


class Gemma4Config(SharedKVConfig, MoeConfig):
    enable_moe_block: bool = key("enable_moe_block", False)
    num_experts: int = key("num_experts", 0)
    num_experts_per_tok: int = key("top_k_experts", 0)
    norm_topk_prob: bool = True  # softmax over the chosen experts
    moe_intermediate_size: int = key("moe_intermediate_size", 0, aliases=("expert_intermediate_size",))

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: (layer + 1) % 6)

    def problems(self):
        yield from super().problems()
        if self.enable_moe_block and not self.num_experts * self.moe_intermediate_size:
            yield "enable_moe_block = True needs num_experts and moe_intermediate_size"


def attention(config: SharedKVConfig, layer_id: int):
    window = config.windows[layer_id]
    sized, rope = (config.of_windows, config.of_windows.local_rope) if window else (config, config.rope)
    if layer_id >= config.first_shared:
        return SharedKVAttention(sized, rope=rope, scale=1.0, window=window)
    values = "k_proj" if config.attention_k_eq_v and not window else "v_proj"
    made = NormalizedValues(sized, values)
    bias = config.attention_bias
    return Attention(sized, layer_id, out_bias=bias, qk_norm="head", scale=1.0, rope=rope, window=window, qkv_proj=made)


class SharedKVLayer(SandwichNormLayer):
    """Its attention takes keys and values from layers before, or hands them on; its tokens may have inputs of its own.

    handed_on: what tokens were embedded as, and the keys and values.
    """

    def __init__(self, config, layer_id, mlp):
        super().__init__(config, attention(config, layer_id), mlp)
        self.first, self.shares = layer_id == 0, layer_id >= config.first_shared
        self.windowed, self.inputs = config.windows[layer_id] > 0, None
        if config.hidden_size_per_layer_input:
            self.inputs, self.per_layer = PerLayerInputs(config, layer_id), PerLayerGate(config)

    def attend(self, x, kept, step):
        """kept: what shared layers see, of the last layer without a window that has keys, and of the last with one."""
        if self.shares:
            return self.self_attn(x, kept[1 if self.windowed else 0], step), kept
        q, k_cache, v_cache = self.self_attn.queries_and_caches(x, step)
        added = self.self_attn.o_proj(self.self_attn.attend(x, q, k_cache, v_cache, step), step)
        own = (k_cache, v_cache, self.self_attn.scales_of_cache())
        return added, ((kept[0], own) if self.windowed else (own, kept[1]))


class Gemma4Layer(SharedKVLayer):
    def __init__(self, config, layer_id):
        wide = 2 if config.use_double_wide_mlp and layer_id >= config.first_shared else 1
        super().__init__(config, layer_id, sized_mlp(config, wide * config.intermediate_size))
        self.scalar, self.moe = LayerScalar(), None
        if config.enable_moe_block:
            gate = ScaledRouter(config, config.num_experts, config.routing)
            self.moe = NormedMoeBlock(gate, experts(config), config.shard, rms_norm(config))
            self.post_feedforward_layernorm_1 = rms_norm(config)
            self.post_feedforward_layernorm_2 = rms_norm(config)

    def feed_forward(self, normed, x, step):
        """Of x and its norm, what is normalized and added to it."""
        y = self.mlp(normed, step)
        if self.moe is None:
            return y
        y = self.post_feedforward_layernorm_1.plain(y)
        return ops.add(y, self.post_feedforward_layernorm_2.plain(self.moe(x, step)), 1.0)

    def construct(self, x, handed_on, step):
        embedded, kept = (x, ((), ())) if self.first else handed_on
        added, kept = self.attend(self.input_layernorm.plain(x), kept, step)
        normed, x = self.pre_feedforward_layernorm(self.post_attention_layernorm.plain(added), x)
        x = ops.add(x, self.post_feedforward_layernorm.plain(self.feed_forward(normed, x, step)), 1.0)
        if self.inputs is not None:
            x = ops.add(x, self.per_layer(x, self.inputs(embedded, step), step), 1.0)
        return self.scalar(x), (embedded, kept)


class Gemma4Decoder(Decoder):
    """Layers are handed what tokens were embedded as, and the keys and values of layers before."""

    def apply_layer(self, layer, x, residual, handed_on, step):
        x, handed_on = layer(x, handed_on, step)
        return x, residual, handed_on


TOWERS = ("vision_tower", "embed_vision", "audio_tower", "embed_audio")
NAMES = {
    "per_layer.gate": "per_layer_input_gate",
    "per_layer.projection": "per_layer_projection",
    "per_layer.norm": "post_per_layer_input_norm",
}
OF_EXPERTS = {
    "moe.gate.weight": "router.proj.weight",
    "moe.gate": "router",
    "moe.experts": "experts",
    "moe.norm": "pre_feedforward_layernorm_2",
}


class SharedKVModel(CausalLM):
    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        shared = "|".join(map(str, range(self.config.first_shared, self.config.num_hidden_layers)))
        if shared:  # checkpoints have keys and values of these layers too, which nothing reads
            self.ignored_tensors += (rf"\.layers\.({shared})\.self_attn\.(k_proj|v_proj|k_norm)\.weight$",)


class Gemma4ForCausalLM(SharedKVModel):
    config_class = Gemma4Config
    decoder_class = Gemma4Decoder
    layer_class = Gemma4Layer
    tensor_names = NAMES | OF_EXPERTS


def inner_names(names: dict[str, str]) -> dict[str, str]:
    """names: of the decoder's cells -> those of the whole model's."""
    return {**names, "model": "model.language_model", **{name: f"model.{name}" for name in TOWERS}}


class Gemma4ForConditionalGeneration(TextAlone):
    """Its image tokens see the whole image, which no table's attention computes yet."""

    towers = TOWERS
    decoders = ("gemma4_text",)
    tensor_names = inner_names(NAMES | OF_EXPERTS)

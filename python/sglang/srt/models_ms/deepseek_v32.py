"""DeepSeek V3.2 and GLM-5: DeepSeek V3 whose attention sees the index_topk keys that an indexer chooses.

Where contexts end at index_topk tokens, it would choose all: attention is dense then, and its tensors are left out.
References: transformers/models/deepseek_v32/modeling_deepseek_v32.py, and glm_moe_dsa.
"""

from sglang.srt.layers_ms.indexer import SparseMLAAttention
from sglang.srt.models_ms.config import UnsupportedConfig, computed, key
from sglang.srt.models_ms.decoder import Decoder, PreNormLayer
from sglang.srt.models_ms.deepseek_v3 import DeepseekV3Config, DeepseekV3ForCausalLM, DeepseekV3Layer
from sglang.srt.models_ms.moe_config import CORRECTION, dense_by_type, mlp


class DeepseekV32Config(DeepseekV3Config):
    index_topk: int = key("index_topk", 2048)
    index_head_dim: int = key("index_head_dim", 128)
    index_n_heads: int = key("index_n_heads", 64)
    indexer_types: tuple = key("indexer_types", (), convert=tuple)  # of each layer: "full" chooses, "shared" does not
    mlp_layer_types: tuple = key("mlp_layer_types", (), convert=tuple)
    ignored = dict.fromkeys(
        ("index_skip_topk_offset", "index_topk_freq", "index_topk_pattern"), "transformers makes indexer_types of it"
    )
    index_interleave = False  # whether neighboring values of the indexer's keys are rotated against each other

    @property
    def sparse(self) -> bool:
        """Whether a context may be longer than what attention sees of it."""
        return self.max_positions > self.index_topk

    @computed
    def dense_layers(self):
        return dense_by_type(self.mlp_layer_types, 0) if self.mlp_layer_types else super().dense_layers

    @computed
    def windows(self):
        strange = set(self.layer_types) - {"indexed_attention"}
        if strange:
            raise UnsupportedConfig(f"layer_types has {sorted(strange)}, only 'indexed_attention' is supported")
        return (0,) * self.num_hidden_layers

    def chooses(self, layer_id: int) -> bool:
        """Whether a layer has an indexer; else it sees what the one before has chosen."""
        return not self.indexer_types or self.indexer_types[layer_id] == "full"

    def problems(self):
        yield from super().problems()
        if self.sparse and not self.chooses(self.layer_range.start):
            yield f"a stage begins at layer {self.layer_range.start}, which sees what the layer before has chosen"
        if self.sparse and self.kv_cache_dtype != "auto":
            yield f"--kv-cache-dtype {self.kv_cache_dtype}: keys of the indexer are not rounded to it"


class SparseLayer(PreNormLayer):
    """PreNormLayer that hands on which keys its attention has seen."""

    def __init__(self, config, layer_id):
        attention = SparseMLAAttention(config, layer_id, config.chooses(layer_id))
        super().__init__(config, attention, mlp(config, layer_id, correction=CORRECTION))

    def construct(self, x, residual, chosen, step):
        x, residual = self.input_layernorm(x, residual)
        x, chosen = self.self_attn(x, chosen, step)
        x, residual = self.post_attention_layernorm(x, residual)
        return self.mlp(x, step), residual, chosen


class SparseDecoder(Decoder):
    """A decoder whose layers may be sparse."""

    def __init__(self, config, layer_class, norm):
        super().__init__(config, SparseLayer if config.sparse else layer_class, norm)
        self.sparse = config.sparse

    def apply_layer(self, layer, x, residual, handed_on, step):
        if self.sparse:
            return layer(x, residual, handed_on, step)
        x, residual = layer(x, residual, step)
        return x, residual, handed_on


class DeepseekV32ForCausalLM(DeepseekV3ForCausalLM):
    config_class = DeepseekV32Config
    decoder_class = SparseDecoder
    layer_class = DeepseekV3Layer

    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        if not self.config.sparse:
            self.ignored_tensors = (*self.ignored_tensors, r"\.indexer\.[\w.]+$")


class GlmMoeDsaConfig(DeepseekV32Config):
    expected = {"indexer_rope_interleave": True}
    index_interleave = True


class GlmMoeDsaForCausalLM(DeepseekV32ForCausalLM):
    """GLM-5, some of whose layers see what the layer before has chosen."""

    config_class = GlmMoeDsaConfig

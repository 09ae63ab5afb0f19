"""The config of every decoder, and the settings of the server for a model."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import mindspore as ms
import numpy as np

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.layers_ms.mlp import ACTIVATIONS
from sglang.srt.models_ms.config_keys import KeyedConfig, UnsupportedConfig, computed, key
from sglang.srt.models_ms.ignored_keys import IGNORED
from sglang.srt.models_ms.rope_config import read_rope
from sglang.srt.models_ms.windows import no_windows

__all__ = ["DecoderConfig", "Runtime", "UnsupportedConfig", "computed", "key"]


@dataclass(frozen=True)
class Runtime:
    """The settings of the server, which no checkpoint has."""

    dtype: ms.Type = ms.float32  # of weights and activations
    max_positions: int = 0  # longest context served, in tokens; 0: as long as config.json says
    shard: Shard = field(default_factory=Shard)
    stage: Stage = field(default_factory=Stage)
    allreduce_fusion: bool = True  # whether all-reduces may be fused into the norms that follow
    max_prefill_tokens: int = 0  # of one step; 0: as many as the longest context
    draft_tokens: int = 0  # of speculative decoding, that a step computes beyond the longest context
    kv_cache_dtype: str = "auto"  # SGLang's name; "auto": as dtype
    towers: bool = True  # of a model that sees: whether it does, or serves text alone

    def cast_like_activations(self, value: float) -> float:
        """The value rounded to the activations' dtype. Some models were trained with factors rounded like this."""
        if self.dtype != ms.bfloat16:
            return float(np.dtype(str(self.dtype).lower()).type(value))
        bits = int(np.float32(value).view(np.uint32))
        return float(np.uint32(bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).view(np.float32))


class DecoderConfig(KeyedConfig):
    """The values that every decoder needs, under Hugging Face's names, and the server's settings."""

    runtime: Runtime
    vocab_size: int = key("vocab_size")
    hidden_size: int = key("hidden_size")
    intermediate_size: int = key("intermediate_size")
    num_hidden_layers: int = key("num_hidden_layers")
    num_attention_heads: int = key("num_attention_heads")
    num_key_value_heads: int = key("num_key_value_heads", lambda config: config.num_attention_heads)
    head_dim: int = key("head_dim", lambda config: config.hidden_size // config.num_attention_heads)
    hidden_act: str = key("hidden_act", "silu", accepted=ACTIVATIONS)
    rms_norm_eps: float = key("rms_norm_eps")  # of every norm, also of layer norms
    tie_word_embeddings: bool = key("tie_word_embeddings", False)
    max_position_embeddings: int = key("max_position_embeddings")
    original_max_position_embeddings: int = key(
        "original_max_position_embeddings", lambda config: config.max_position_embeddings
    )
    rope_theta: float = key("rope_theta", 10000.0)
    rope_parameters: dict = key("rope_parameters", {}, aliases=("rope_scaling",))
    partial_rotary_factor: float = key("partial_rotary_factor", 1.0)
    sliding_window: int = key("sliding_window", 0)
    use_sliding_window: bool | None = key("use_sliding_window", None)
    max_window_layers: int = key("max_window_layers", 28)
    layer_types: tuple = key("layer_types", (), convert=tuple)
    id2label: dict = key("id2label", {})  # of classifiers
    num_labels: int = key("num_labels", 2)
    expected = {"is_causal": True}
    ignored = IGNORED
    # Of architectures that have no key for these.
    attention_bias = False
    mlp_bias = False
    head_bias = False  # of the vocabulary's head
    embedding_multiplier = 1.0  # on embedded tokens
    residual_multiplier = 1.0  # on what attention and mlp add
    logit_scale = 1.0
    final_logit_softcapping = None  # logits -> cap * tanh(logits / cap), after their scale
    has_experts = False

    @computed
    def rope(self):
        """The rotary embedding; None: positions are not rotated."""
        return read_rope(self)

    @computed
    def windows(self) -> tuple[int, ...]:
        """The window of each layer, in tokens, with the token itself; 0: full attention."""
        return no_windows(self)

    @property
    def dtype(self) -> ms.Type:
        return self.runtime.dtype

    @property
    def kv_cache_dtype(self) -> str:
        return self.runtime.kv_cache_dtype

    @property
    def shard(self) -> Shard:
        return self.runtime.shard

    @property
    def stage(self) -> Stage:
        return self.runtime.stage

    @property
    def max_positions(self) -> int:
        """The served context length, in tokens."""
        return self.runtime.max_positions or self.max_position_embeddings

    @property
    def rotary_rows(self) -> int:
        """The number of rows of rotary tables, more than the tokens of any step.

        The Ascend kernel takes a table of T rows for one row per token.
        """
        rows = max(self.max_positions + self.runtime.draft_tokens, self.runtime.max_prefill_tokens)
        # A video's positions in time may be beyond its tokens.
        return 1 + (max(rows, self.max_position_embeddings) if self.rope and self.rope.mrope_section else rows)

    @property
    def layer_range(self) -> range:
        """The layers of this stage."""
        return self.stage.layers(self.num_hidden_layers)

    def on(self, shard: Shard) -> "DecoderConfig":
        """The same model on another share of the ranks."""
        return replace(self, runtime=replace(self.runtime, shard=shard))

    def at(self, layer_id: int) -> "DecoderConfig":
        """The config for one layer, with the physical experts of that layer."""
        return self.on(self.shard.at(layer_id)) if self.shard.physical_to_logical_map else self

    def limit_context(self, length: int, feature: str) -> Iterator[str]:
        """A problem if contexts are longer than `length` tokens. Up to that length `feature` changes nothing."""
        if self.max_positions > length:
            yield (
                f"{feature} not computed, so that contexts end at {length} tokens; {self.max_positions} were asked "
                f"for: start with --context-length {length}"
            )


class RopeOfEachKindConfig(DecoderConfig):
    """Of models with a rotary embedding for layers with a sliding window, and one for the others."""

    @computed
    def rope(self):
        return read_rope(self, "full_attention")

    @computed
    def local_rope(self):
        """The rotary embedding of sliding-window layers."""
        return read_rope(self, "sliding_attention")

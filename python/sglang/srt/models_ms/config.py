"""Strict reading of Hugging Face configs: every value is read, required, or ignored for a reason."""

import logging
from dataclasses import dataclass, field, replace

import mindspore as ms
import numpy as np

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.layers_ms.mlp import ACTIVATIONS
from sglang.srt.layers_ms.rotary import FREQUENCIES, Rope

logger = logging.getLogger(__name__)

# Keys that change nothing here: key -> why.
IGNORED = {
    "architectures": "chose the class that reads this",
    "model_type": "the architecture decides",
    "transformers_version": "provenance",
    "_name_or_path": "provenance",
    "_from_model_config": "provenance",
    "is_llama_config": "provenance",
    "dtype": "--dtype decides, and SGLang reads this for its default",
    "torch_dtype": "older name of dtype",
    "initializer_range": "training",
    "attention_dropout": "training",
    "hidden_dropout": "training",
    "use_cache": "the cache is SGLang's",
    "cache_implementation": "the cache is SGLang's",
    "output_attentions": "not served",
    "output_hidden_states": "not served",
    "return_dict": "Python interface of transformers",
    "problem_type": "training",
    "chunk_size_feed_forward": "gives the same values",
    "pretraining_tp": "gives the same values",
    "bos_token_id": "the tokenizer and SGLang read it",
    "eos_token_id": "the tokenizer and SGLang read it",
    "pad_token_id": "the tokenizer and SGLang read it",
    "id2label": "names of classes; the heads of classifiers count them",
    "label2id": "names of classes",
    "auto_map": "code of the checkpoint is not run",
    "keys_to_ignore_at_inference": "Python interface of transformers",
    "num_labels": "read by the heads of classifiers",
    "classification_out_size": "read by the heads of classifiers",
    "reward_token_id": "SGLang scores the last token; a text that is to be scored ends with this one",
    "is_matryoshka": "SGLang reads it: embeddings may be cut",
    "matryoshka_dimensions": "SGLang reads it: embeddings may be cut",
    "torchscript": "Python interface of transformers",
    "is_encoder_decoder": "the architecture decides",
    "_attn_implementation": "Python interface of transformers",
    "_attn_implementation_autoset": "Python interface of transformers",
    "context_len": "SGLang's note on the config: --context-length decides",
    "original_num_attention_heads": "SGLang's note on the config",
    "original_total_num_kv_heads": "SGLang's note on the config",
    "swa_head_dim": "SGLang's note on the config, for sliding windows",
    "swa_v_head_dim": "SGLang's note on the config, for sliding windows",
    "v_head_dim": "SGLang's note on the config: head_dim, outside MLA",
    "ep_size": "SGLang's flags say who computes which experts",
    "seq_aux": "training",
    "aux_loss_alpha": "training",
    "quantization_config": "the loader and models_ms/int8.py read it; other methods are refused",
    "qk_head_dim": "qk_nope_head_dim + qk_rope_head_dim",
    "encoder_only": "SGLang's note on the config, for multimodal models",
    "language_only": "SGLang's note on the config, for multimodal models",
    "language_model_only": "SGLang's note on the config, for multimodal models",
    "model_max_length": "read by SGLang for the length of the context",
    "max_sequence_length": "read by SGLang for the length of the context",
    "mup_denominator": "training",
    "unsloth_fixed": "provenance",
    "unsloth_version": "provenance",
    "gradient_checkpointing": "training",
    "resid_pdrop": "training",
    "embd_pdrop": "training",
    "attn_pdrop": "training",
    "emb_pdrop": "training",
    "embed_dropout": "training",
    "attn_dropout_prob": "training",
    "emb_dropout_prob": "training",
    "classifier_dropout": "training",
    "bias_dropout_fusion": "gives the same values",
    "prefix_projection": "of prefixes that are trained, which are refused",
    "apply_query_key_layer_scaling": "gives the same values",
    "attention_softmax_in_fp32": "scores are float32",
    "softmax_in_fp32": "scores are float32",
    "attn_implementation": "Python interface of transformers",
    "tokenizer_class": "the tokenizer and SGLang read it",
    "tokenizer_type": "the tokenizer and SGLang read it",
}
ROPE_KEYS = {
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "truncate",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
}
ROPE_IGNORED = {"finetuned"}  # provenance
LONGROPE_KEYS = {"short_factor", "long_factor", "short_mscale", "long_mscale"}
ROPE_NEEDS = {  # rope_type -> what has no default
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
ROPE_TYPES = {"su": "longrope"}  # older names


class UnsupportedConfig(Exception):
    """The checkpoint asks for something that this backend does not compute."""


class ConfigReader:
    """Reads config.json's values by name and remembers which were read."""

    def __init__(self, hf: dict):
        self.hf = hf
        self.arch = (hf.get("architectures") or ["unknown architecture"])[0]
        self.read = set()
        self.spelling = {}
        self.parts = {}

    def spell(self, **keys):
        """Read each of these keys under the name that this architecture's config.json has for it, from now on."""
        self.spelling.update(keys)

    def part(self, key) -> "ConfigReader":
        """The reader of the values under key; `unknown` names those of them that nobody read, too."""
        self.parts[key] = ConfigReader({"architectures": [self.arch], **self.get(key, {})})
        return self.parts[key]

    def get(self, key, default=...):
        """The value of key; where it is absent or null, the default, or UnsupportedConfig if there is none."""
        key = self.spelling.get(key, key)
        self.read.add(key)
        value = self.hf.get(key)
        if value is None and default is ...:
            raise UnsupportedConfig(f"{self.arch}: config.json has no {key!r}, which this architecture needs")
        return default if value is None else value

    def require(self, key, *allowed):
        """The value of key, refused if it is none of `allowed`; an absent key counts as the first."""
        value = self.get(key, allowed[0])
        if value not in allowed:
            key = self.spelling.get(key, key)
            raise UnsupportedConfig(f"{self.arch}: {key} = {value!r} is not supported, only {list(allowed)}")
        return value

    def refuse_windows(self):
        """Refuse what would hide earlier tokens from some layers, where an architecture reads no windows.

        A sliding_window that is switched off, or as long as the longest context, has no effect and is accepted.
        """
        self.require("use_sliding_window", False)
        window = self.get("sliding_window", 0)
        kinds = set(self.get("layer_types", ["full_attention"]))
        self.get("max_window_layers", None)
        if kinds != {"full_attention"}:
            raise UnsupportedConfig(f"{self.arch}: layer_types has {sorted(kinds)}, only 'full_attention' is supported")
        switched_off = self.hf.get("use_sliding_window") is False or not window
        if not switched_off and window < self.get("max_position_embeddings"):
            raise UnsupportedConfig(
                f"{self.arch}: sliding_window = {window!r} is shorter than the longest context, and this architecture "
                "is computed without windows: remove the key, or set use_sliding_window to false, if that is meant"
            )

    def refuse_beyond(self, length: int, contexts: int, feature: str):
        """Refuse contexts of more than `length` tokens, up to which `feature` of a checkpoint changes nothing."""
        if contexts > length:
            raise UnsupportedConfig(
                f"{self.arch}: {feature} not computed, so that contexts end at {length} tokens; {contexts} were asked "
                f"for: start with --context-length {length}"
            )

    def windows(self, slides, used=True) -> tuple[int, ...]:
        """The window of each layer in tokens, itself included; 0 for a layer that sees all tokens before it.

        slides: layer -> whether it has a window, where layer_types does not say; used: whether any has.
        """
        layers, window = self.get("num_hidden_layers"), self.get("sliding_window", 0) if used else 0
        default = ["sliding_attention" if window and slides(layer) else "full_attention" for layer in range(layers)]
        kinds = self.get("layer_types", default)
        possible = {"full_attention", "sliding_attention"} if window else {"full_attention"}
        if not set(kinds) <= possible or len(kinds) != layers:
            raise UnsupportedConfig(
                f"{self.arch}: layer_types has {sorted(set(kinds))} for {len(kinds)} of {layers} layers, "
                f"only {sorted(possible)} are supported with a sliding_window of {window}"
            )
        return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)

    def unknown(self) -> list[str]:
        """Keys that nobody read and that are not known to change nothing."""
        below = [f"{key}.{name}" for key, part in self.parts.items() for name in part.unknown()]
        return sorted(set(self.hf) - self.read - set(IGNORED)) + below

    def rope(self, head_dim: int, layer_type: str | None = None) -> Rope:
        """The rotary embedding, from transformers 5's rope_parameters or the older rope_theta and rope_scaling.

        layer_type: of which kind of layers, where rope_parameters has an entry for each.
        """
        found = self.get("rope_parameters", None) or self.get("rope_scaling", None) or {}
        found = found.get(layer_type) or found
        kind = found.get("rope_type") or found.get("type") or "default"
        kind = ROPE_TYPES.get(kind, kind)
        if kind not in FREQUENCIES:
            raise UnsupportedConfig(f"{self.arch}: rope_type = {kind!r} is not supported, only {sorted(FREQUENCIES)}")
        theta, partial = self.get("rope_theta", 10000.0), self.get("partial_rotary_factor", 1.0)
        theta, partial = found.get("rope_theta") or theta, found.get("partial_rotary_factor") or partial
        longest = self.get("max_position_embeddings")
        known = ROPE_KEYS | LONGROPE_KEYS if kind == "longrope" else ROPE_KEYS
        strange = set(found) - known - ROPE_IGNORED - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
        if strange:
            raise UnsupportedConfig(f"{self.arch}: rope_parameters has {sorted(strange)}, which {kind!r} does not use")
        missing = [key for key in ROPE_NEEDS.get(kind, ()) if found.get(key) is None]
        if missing:
            raise UnsupportedConfig(f"{self.arch}: rope_type = {kind!r} needs {missing} beside it")
        rotary_dim = int(head_dim * partial)
        if rotary_dim % 2:
            raise UnsupportedConfig(
                f"{self.arch}: {rotary_dim} of head_dim = {head_dim} dimensions are rotated "
                f"(partial_rotary_factor = {partial}); pairs need an even number"
            )
        given = {key: found[key] for key in known if found.get(key) is not None}
        given.update({key: tuple(given[key]) for key in ("short_factor", "long_factor") if key in given})
        wrong = {key: len(given[key]) for key in ("short_factor", "long_factor") if key in given}
        if set(wrong.values()) - {rotary_dim // 2}:
            raise UnsupportedConfig(f"{self.arch}: {wrong} factors, and {rotary_dim // 2} pairs that are rotated")
        given.setdefault("original_max_position_embeddings", self.get("original_max_position_embeddings", longest))
        if kind != "default" and "factor" not in given:
            given["factor"] = longest / given["original_max_position_embeddings"]
        return Rope(kind, float(theta), rotary_dim, longest, **given)


@dataclass(frozen=True)
class Runtime:
    """What the server, not the checkpoint, decides about a model."""

    dtype: ms.Type = ms.float32  # of weights and activations
    max_positions: int = 0  # longest context served, in tokens; 0: as long as config.json says
    shard: Shard = field(default_factory=Shard)
    stage: Stage = field(default_factory=Stage)
    fused_sums: bool = True  # whether sums over ranks may be left to the norms behind them
    most_prompt_tokens: int = 0  # of one step; 0: as many as the longest context

    def rounded(self, value: float) -> float:
        """The value as an activation holds it: what a checkpoint was trained with, where it rounds a factor."""
        if self.dtype != ms.bfloat16:
            return float(np.dtype(str(self.dtype).lower()).type(value))
        bits = int(np.float32(value).view(np.uint32))
        return float(np.uint32(bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).view(np.float32))


@dataclass(frozen=True)
class DecoderConfig:
    """The values that every decoder needs, under Hugging Face's names, and the runtime's."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    rms_norm_eps: float  # of every norm, whatever its kind and its key
    rope: Rope
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    dtype: ms.Type
    max_positions: int
    shard: Shard
    stage: Stage = field(default_factory=Stage)
    most_prompt_tokens: int = 0
    windows: tuple[int, ...] = ()  # of each layer, see ConfigReader.windows
    embedding_multiplier: float = 1.0  # on embedded tokens
    residual_multiplier: float = 1.0  # on what attention and mlp add
    logit_scale: float = 1.0
    final_logit_softcapping: float | None = None  # logits -> cap * tanh(logits / cap), after their scale

    @property
    def windowed(self) -> tuple[int, ...]:
        """The layers with a window that some context outgrows; the others see all tokens before theirs."""
        return tuple(layer for layer, window in enumerate(self.windows) if 0 < window < self.max_positions)

    @property
    def rotary_rows(self) -> int:
        """Of rotary tables. With as many rows as a step has tokens, one would be taken for each token."""
        return max(self.max_positions, self.most_prompt_tokens) + 1

    @property
    def held(self) -> range:
        """The layers of this stage."""
        return self.stage.layers(self.num_hidden_layers)

    def at(self, layer_id: int) -> "DecoderConfig":
        """As the layers of that number see it: with its places of experts."""
        return replace(self, shard=self.shard.at(layer_id)) if self.shard.places else self

    @classmethod
    def read(cls, hf: ConfigReader, runtime: Runtime, **special):
        """Read what all decoders share; `special` are the fields that an architecture reads in its own way.

        Raises UnsupportedConfig, naming key and value, for what is missing or not supported.
        """
        heads, hidden = hf.get("num_attention_heads"), hf.get("hidden_size")
        head_dim = special.get("head_dim") or hf.get("head_dim", hidden // heads)
        shared = dict(
            vocab_size=hf.get("vocab_size"),
            hidden_size=hidden,
            intermediate_size=special.get("intermediate_size") or hf.get("intermediate_size"),
            num_hidden_layers=hf.get("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=hf.get("num_key_value_heads", heads),
            head_dim=head_dim,
            hidden_act=hf.require("hidden_act", *ACTIVATIONS),
            rms_norm_eps=special["rms_norm_eps"] if "rms_norm_eps" in special else hf.get("rms_norm_eps"),
            rope=special["rope"] if "rope" in special else hf.rope(head_dim),
            tie_word_embeddings=hf.get("tie_word_embeddings", False),
            attention_bias=False,
            mlp_bias=False,
            dtype=runtime.dtype,
            max_positions=runtime.max_positions or hf.get("max_position_embeddings"),
            shard=runtime.shard,
            stage=runtime.stage,
            most_prompt_tokens=runtime.most_prompt_tokens,
        )
        hf.require("is_causal", True)
        if "sliding_window" not in hf.read:
            hf.refuse_windows()
        config = cls(**{**shared, **special})
        if hf.unknown():
            logger.warning(
                "%s: config.json has keys that are not understood and have no effect: %s", hf.arch, hf.unknown()
            )
        return config

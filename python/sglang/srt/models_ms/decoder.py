"""The frame that decoder-only models share: embedding, a column of layers, the last norm, the head."""

import itertools
import logging
import re
from collections.abc import Sequence

from mindspore import nn

from sglang.srt.layers_ms import LayerNorm, LMHead, RMSNorm, VocabParallelEmbedding, ops
from sglang.srt.layers_ms.cache_spec import caching_layers
from sglang.srt.layers_ms.fusion import PreNormBlocks
from sglang.srt.layers_ms.ops.metadata import INPUT_IDS, LAST_SEEN, TOKENS, Field
from sglang.srt.layers_ms.quantization import QuantizationConfig, UnsupportedQuantization, create_parameters, read
from sglang.srt.model_loader_ms.names import TensorNames
from sglang.srt.models_ms.config import DecoderConfig, Runtime, UnsupportedConfig

logger = logging.getLogger(__name__)

MEDIA_MASK = Field("media_mask", (TOKENS,))  # 0: the token is embedded, else its row of MEDIA_ROWS takes its place
MEDIA_ROWS = "media_rows"
HIDDEN_STATES = "hidden_states"  # what a stage begins with that is not the first
# Positions of a token, where it has three: in time, and in an image's height and width.
MROPE = tuple(Field(name, (TOKENS,)) for name in ("mrope_t", "mrope_h", "mrope_w"))


def rms_norm(config):
    """The norm of most decoders, over rows of hidden_size values."""
    return RMSNorm(config.hidden_size, config.rms_norm_eps, config.dtype)


def layer_norm(config):
    """A mean and variance norm without a bias."""
    return LayerNorm(config.hidden_size, config.rms_norm_eps, config.dtype, bias=False)


class PreNormLayer(nn.Cell):
    """x -> x + attention(norm(x)) -> + mlp(norm(x)), with the additions fused into the norms.

    Layers pass on what they computed last and the sum of all before it, which the next norm adds. norm: what makes one.
    """

    def __init__(self, config, attention, mlp, norm=rms_norm):
        super().__init__()
        self.self_attn, self.mlp = attention, mlp
        self.input_layernorm = norm(config)
        self.post_attention_layernorm = norm(config)

    def blocks(self) -> list:
        """(norm, block) in the order in which `construct` computes them."""
        return [(self.input_layernorm, self.self_attn), (self.post_attention_layernorm, self.mlp)]

    def construct(self, x, residual, step):
        x, residual = self.input_layernorm(x, residual)
        x = self.self_attn(x, step)
        x, residual = self.post_attention_layernorm(x, residual)
        return self.mlp(x, step), residual


class ScaledLayer(PreNormLayer):
    """PreNormLayer whose attention and mlp are scaled by config.residual_multiplier before they are added."""

    def __init__(self, config, attention, mlp):
        super().__init__(config, attention, mlp)
        self.factor = config.residual_multiplier

    def construct(self, x, residual, step):
        x, residual = self.input_layernorm(x, residual)
        x = ops.scale(self.self_attn(x, step), self.factor)
        x, residual = self.post_attention_layernorm(x, residual)
        return ops.scale(self.mlp(x, step), self.factor), residual


class PostNormLayer(nn.Cell):
    """x -> x + norm(attention(x)) -> + norm(mlp(x))."""

    def __init__(self, config, attention, mlp):
        super().__init__()
        self.self_attn, self.mlp = attention, mlp
        self.post_attention_layernorm = rms_norm(config)
        self.post_feedforward_layernorm = rms_norm(config)

    def construct(self, x, residual, step):
        x = x if residual is None else ops.add(x, residual, 1.0)
        x = ops.add(x, self.post_attention_layernorm.plain(self.self_attn(x, step)), 1.0)
        return self.post_feedforward_layernorm.plain(self.mlp(x, step)), x


class SandwichNormLayer(nn.Cell):
    """x -> x + norm(attention(norm(x))) -> + norm(mlp(norm(x))); the names of the norms are Gemma 2's."""

    def __init__(self, config, attention, mlp, norm=rms_norm):
        super().__init__()
        self.self_attn, self.mlp = attention, mlp
        self.input_layernorm = norm(config)
        self.post_attention_layernorm = norm(config)
        self.pre_feedforward_layernorm = norm(config)
        self.post_feedforward_layernorm = norm(config)

    def construct(self, x, residual, step):
        x, residual = self.input_layernorm(x, residual)
        x = self.post_attention_layernorm.plain(self.self_attn(x, step))
        x, residual = self.pre_feedforward_layernorm(x, residual)
        return self.post_feedforward_layernorm.plain(self.mlp(x, step)), residual


class ParallelLayer(nn.Cell):
    """x -> x + attention(norm(x)) + mlp(norm(x)): both see the same norm."""

    def __init__(self, config, attention, mlp, norm=rms_norm):
        super().__init__()
        self.self_attn, self.mlp, self.input_layernorm = attention, mlp, norm(config)

    def construct(self, x, residual, step):
        x, residual = self.input_layernorm(x, residual)
        return ops.add(self.self_attn(x, step), self.mlp(x, step), 1.0), residual


class Decoder(nn.Cell):
    """Embedding, layers and last norm, or what this stage has of them; attribute names are Hugging Face's."""

    of_first_stage = ("embed_tokens",)  # cells that other stages do not have

    def __init__(self, config, layer_class, norm=rms_norm):
        super().__init__()
        self.embed_tokens = self.norm = self.fused = None
        # Which field the first layer's input is made of, and before which layers that are held the sum goes out too.
        self.begins_with, self.aux_places = INPUT_IDS.name if config.stage.first else HIDDEN_STATES, ()
        # Whether steps may begin with rows too that take the place of embedded tokens, and with which that are added
        # to what the first layers give.
        self.takes_media, self.deepstack = False, ()
        if config.stage.first:
            self.embed_tokens = VocabParallelEmbedding(
                config.vocab_size,
                config.hidden_size,
                config.shard.attention,
                config.dtype,
                config.embedding_multiplier,
                *(("weight", "../../lm_head.weight") if config.tie_word_embeddings else ()),
            )
        self.layers = nn.CellList([layer_class(config.at(layer_id), layer_id) for layer_id in config.layer_range])
        for index, layer in enumerate(caching_layers(self.layers)):
            layer.cache_index = index
        if config.stage.last:
            self.norm = norm(config)

    def take_media(self, deepstack: int) -> None:
        """Let steps begin with rows in the place of tokens; deepstack: after how many layers others are added."""
        if deepstack > len(self.layers):
            raise UnsupportedConfig(f"rows are added after {deepstack} layers, and the first stage has fewer")
        self.takes_media, self.deepstack = True, tuple(f"deepstack_{layer}" for layer in range(deepstack))

    def fuse_all_reduces(self) -> int:
        """Compute products, sums over the ranks and norms as one where that is possible -> how many are.

        Once, when the methods of all layers are known and no weights are loaded yet.
        """
        if self.deepstack or any(type(layer).construct is not PreNormLayer.construct for layer in self.layers):
            return 0  # other orders have other things between a sum and a norm
        norms, blocks = zip(*itertools.chain(*(layer.blocks() for layer in self.layers)), strict=True)
        column = PreNormBlocks(norms, blocks, self.norm)
        self.fused = column if column.count else None
        return column.count

    def construct(self, step):
        outputs = ()
        for x in self.hidden_states(ops.with_valid_rows(step[self.begins_with], step), step):
            outputs = outputs + (ops.without_valid_rows(x),)
        return outputs

    def apply_layer(self, layer, x, residual, handed_on, step):
        """Compute a layer -> its result, the sum of all before it, and what else the next layer is given, () at first.

        Decoders whose layers tell each other more override it.
        """
        x, residual = layer(x, residual, step)
        return x, residual, handed_on

    def embed(self, x, step):
        """What the first layer sees of what the first stage's step begins with: ids, or what they are embedded as."""
        return self.embed_tokens(x, step) if self.begins_with == INPUT_IDS.name else x

    def hidden_states(self, x, step):
        """x, which the step begins with -> what leaves the norm, and what enters the layers of `aux_places`."""
        residual, aux, handed_on = None, (), ()
        if self.begins_with != HIDDEN_STATES:
            x = self.embed(x, step)
        if MEDIA_MASK.name in step:
            x = ops.put_rows(x, step[MEDIA_ROWS], step[MEDIA_MASK.name])
        if self.fused is not None:
            return (self.fused(x, residual, step),)
        for place, layer in enumerate(self.layers):
            if place in self.aux_places:
                aux = aux + (x if residual is None else ops.add(x, residual, 1.0),)
            x, residual, handed_on = self.apply_layer(layer, x, residual, handed_on, step)
            if place < len(self.deepstack) and MEDIA_MASK.name in step:
                x = ops.add(x, step[self.deepstack[place]], 1.0)
        if len(self.layers) in self.aux_places:
            aux = aux + (ops.add(x, residual, 1.0),)
        if self.norm is None:
            return (ops.add(x, residual, 1.0),) + aux  # as the next layer's norm does first, to the same bits
        return (self.norm(x, residual)[0],) + aux


class CausalLM(nn.Cell):
    """A decoder and its head. Subclasses name their config and their layer; that is all most models are."""

    config_class = DecoderConfig
    decoder_class = Decoder
    layer_class = None
    scores_vocabulary = True  # False: there is no head of the vocabulary, though the checkpoint may have one
    norm = staticmethod(rms_norm)  # the last one
    pooling = "lasttoken"  # of embeddings, in sentence-transformers' words, where no file of the checkpoint says it
    whole_prompts = False  # whether each prompt has to be computed in one step
    whole_images = False  # whether tokens of an image see all of it
    tensor_names = {}  # our names of tensors, or whole dotted parts of them -> the checkpoint's, where they differ
    other_tensor_names = ()  # such tables that hold too, of other checkpoints of the same models
    tensor_endings = {}  # what names of the checkpoint's tensors may end in -> what is meant
    beside = {}  # what names of tensors begin with that another checkpoint may have -> its folder or hub id
    # Tensors that this model's checkpoints carry and it does not compute with, beside those that no model does:
    # patterns of their names.
    ignored_tensors = ()
    optional_fields = ()  # names of optional fields of a step that its layers read
    tied_tensors = ("model.embed_tokens.weight", "lm_head.weight")  # by tie_word_embeddings
    # Checkpoints of a decoder alone, as embedding models are published, name its tensors without this.
    optional_prefix = "model."

    def __init__(self, hf_config: dict, runtime: Runtime):
        """Build the model of a Hugging Face config, parameters still zero; UnsupportedConfig if it cannot be."""
        super().__init__()
        config = self.config_class.read(self.decoder_config(hf_config), runtime=runtime)
        self.config = config
        self.model = self.decoder_class(config, self.layer_class, self.norm)
        tied = config.tie_word_embeddings or not self.scores_vocabulary
        self.lm_head = self._head(config, tied)
        names = TensorNames(self.tensor_names)
        if tied:
            self.ignored_tensors += (rf"^{re.escape(names.of('lm_head', 'weight'))}$",)
        self.tied = self.tied_tensors if config.tie_word_embeddings and self.scores_vocabulary else None
        self._place(config)
        self.add_towers(hf_config, runtime)
        self._create_parameters(hf_config)
        self._fuse_all_reduces(runtime)

    @staticmethod
    def decoder_config(hf_config: dict) -> dict:
        """What of config.json is the decoder's: all of it, but of models that take more than text."""
        return hf_config

    def add_towers(self, hf_config: dict, runtime: Runtime) -> None:
        """Add the cells that make rows of what is no text, before parameters are created."""

    @classmethod
    def longest_context(cls, hf_config) -> int | None:
        """The longest context, in tokens, where it is not what config.json, an object, has as its positions."""
        return None

    def quantization(self, hf_config: dict) -> QuantizationConfig:
        """Which method each layer has, by what config.json says. What wraps methods, as adapters do, overrides it."""
        dtype = hf_config.get("dtype") or hf_config.get("torch_dtype") or ""
        return read(hf_config.get("quantization_config"), str(dtype).removeprefix("torch."))

    def _create_parameters(self, hf_config: dict):
        try:
            scheme = self.quantization(hf_config)
            create_parameters(self, scheme, TensorNames(self.tensor_names, self.layer_renames))
        except UnsupportedQuantization as error:
            raise UnsupportedConfig(f"{type(self).__name__}: {error}") from error
        self.ignored_tensors = (*self.ignored_tensors, *scheme.ignored_tensors)

    def _fuse_all_reduces(self, runtime: Runtime):
        shard = runtime.shard
        possible = shard.attn_dp_size == 1 and ops.supports_all_reduce_norm_fusion(shard.size)
        if not (runtime.allreduce_fusion and possible):
            return
        count = self.model.fuse_all_reduces()
        if count:
            logger.info("all-reduces that are computed with the norms behind them: %d", count)

    def _head(self, config, tied):
        stage = config.stage
        same = stage.first and config.shard.head == config.shard.attention
        if not stage.last or tied and same:
            return None
        # Where they are tied: a copy, of other rows or in another stage.
        sources = ("../model.embed_tokens.weight", "weight") if tied else ()
        sizes = (config.vocab_size, config.hidden_size)
        return LMHead(*sizes, config.shard.head, config.dtype, *sources, bias=config.head_bias)

    def _place(self, config):
        """Say what the layers of this stage are called in the checkpoint, and which cells other stages have."""
        held, every = config.layer_range, range(config.num_hidden_layers)
        self.other_stages = [f"model.layers.{layer}" for layer in every if layer not in held]
        optional = (*self.model.of_first_stage, "norm")
        self.other_stages += [f"model.{name}" for name in optional if getattr(self.model, name) is None]
        self.other_stages += [] if config.stage.last else ["lm_head"]
        self.layer_renames = {
            f"model.layers.{i}": f"model.layers.{layer}" for i, layer in enumerate(held) if i != layer
        }

    def model_inputs(self) -> tuple[Field, ...]:
        """What a step of this model begins with: ids, or of a later stage the hidden states of the one before."""
        first = INPUT_IDS if self.model.begins_with == INPUT_IDS.name else self._rows(self.model.begins_with)
        return (first, *self._positions())

    def media_inputs(self) -> tuple[Field, ...]:
        """What a step begins with too if rows take the place of some of its tokens; () where none ever do."""
        if not self.model.takes_media:
            return ()
        return (MEDIA_MASK, *map(self._rows, (MEDIA_ROWS, *self.model.deepstack)))

    def _rows(self, name: str) -> Field:
        return Field(name, (TOKENS, self.config.hidden_size), str(self.config.dtype).lower())

    def _positions(self) -> tuple[Field, ...]:
        rope = self.config.rope
        axes = MROPE if rope is not None and rope.mrope_section else ()
        return (*axes, LAST_SEEN) if self.whole_images else axes

    def take_embeddings(self) -> None:
        """Begin with `input_embeds` [T, hidden_size], as embed_tokens gives them, in the place of ids.

        Before the graph is compiled, of the first stage.
        """
        if not self.config.stage.first:
            raise ValueError("a stage that is not the first begins with hidden states, not with embeddings")
        self.model.begins_with = "input_embeds"

    def set_aux_layers(self, layers: Sequence[int]) -> None:
        """Return what enters these layers too, [T, hidden_size] each, in this order, before the graph is compiled.

        Layers are numbered as in the whole model; its number of layers stands for what leaves the last one, before the
        norm. ValueError where this stage does not have one.
        """
        if self.model.fused is not None:  # what enters a layer is summed over the ranks in the norm only
            raise ValueError("auxiliary hidden states want SGLANG_MS_ALLREDUCE_FUSION=0: sums are fused with norms")
        first, last = self.config.layer_range.start, self.config.layer_range.stop
        if sorted(set(layers)) != list(layers) or not all(first <= layer <= last for layer in layers):
            raise ValueError(f"auxiliary hidden states of layers {list(layers)}: ascending, from {first} to {last}")
        self.model.aux_places = tuple(layer - first for layer in layers)

    def checkpoint(self) -> dict:
        """What the loader has to know of this model's checkpoints, as its keywords."""
        return dict(
            names=self.tensor_names,
            other_names=self.other_tensor_names,
            ignore=self.ignored_tensors,
            optional_prefix=self.optional_prefix,
            layer_renames=self.layer_renames,
            other_stages=self.other_stages,
            layers=("model.layers", self.config.num_hidden_layers),
            tied=self.tied,
            endings=self.tensor_endings,
            beside=self.beside,
        )

    def process_weights_after_loading(self):
        """Let every layer that wants to rearrange its weight. Once after each load."""
        for _, cell in self.cells_and_names():
            if cell is not self and hasattr(cell, "process_weights_after_loading"):
                cell.process_weights_after_loading()

    def head(self):
        """The [vocab_size (padded), hidden_size] parameter that scores hidden states; the embedding where tied.

        None on a stage that is not the last.
        """
        return self.head_layer().weight if self.config.stage.last else None

    def head_layer(self):
        """The Vocabulary that has it."""
        return self.model.embed_tokens if self.lm_head is None else self.lm_head

    def head_bias(self):
        """What is added to the logits of `head`, a float32 [vocab_size (padded)] parameter, or None."""
        return None if self.lm_head is None else self.lm_head.bias

    def logits(self, x):
        """x [T, hidden_size] -> float32 [T, vocab_size (padded)], of what `head` holds. Called outside graphs."""
        return self.head_layer().logits(x)

    def construct(self, step):
        """A step, as runner/step.py describes it -> hidden states [T, hidden_size], and those of `set_aux_layers`."""
        return self.model(step)

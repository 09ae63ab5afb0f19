"""Gemma 3n, its text: Gemma 4's per-layer embeddings and shared keys and values, AltUp, LAuReL and sparse activations.

Reference: transformers/models/gemma3n/modeling_gemma3n.py.
"""

import dataclasses

from sglang.srt.layers_ms import GatedMLP, ops
from sglang.srt.layers_ms.altup import AltUp, Laurel, StreamsNorm, projections, split_streams
from sglang.srt.layers_ms.mlp import GaussianTopK
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import Decoder
from sglang.srt.models_ms.gemma4 import NAMES, TOWERS, SharedKVConfig, SharedKVLayer, SharedKVModel, inner_names
from sglang.srt.models_ms.multimodal import TextAlone
from sglang.srt.models_ms.windows import sliding_windows


def of_layers(given) -> tuple:
    """One value of all layers, or one of each."""
    return tuple(given) if isinstance(given, list | tuple) else (given,)


class Gemma3nConfig(SharedKVConfig):
    hidden_act: str = key("hidden_activation", "gelu_pytorch_tanh", accepted=("gelu_pytorch_tanh",))
    intermediate_size: int = key("intermediate_size", convert=lambda given: max(of_layers(given)))
    intermediate_sizes: tuple = key("intermediate_size", convert=of_layers)
    sparsities: tuple = key("activation_sparsity_pattern", (0.0,), convert=of_layers)
    hidden_size_per_layer_input: int = key("hidden_size_per_layer_input")
    altup_num_inputs: int = key("altup_num_inputs")
    altup_active_idx: int = key("altup_active_idx", 0)
    laurel_rank: int = key("laurel_rank")
    expected = {"altup_correct_scale": True}
    ignored = {
        "altup_coef_clip": "training",
        "query_pre_attn_scalar": "scores are not scaled",
        "rope_local_base_freq": "transformers makes rope_parameters of it",
    }

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: (layer + 1) % 5)

    def problems(self):
        yield from super().problems()
        layers, streams = self.num_hidden_layers, self.altup_num_inputs
        given = {"intermediate_size": self.intermediate_sizes, "activation_sparsity_pattern": self.sparsities}
        for name, values in given.items():
            if len(values) not in (1, layers):
                yield f"{name} has {len(values)} values for {layers} layers"
        if not all(0.0 <= sparsity < 1.0 for sparsity in self.sparsities):
            yield f"activation_sparsity_pattern = {list(self.sparsities)}: shares are from 0 to less than 1"
        if not 0 <= self.altup_active_idx < streams:
            yield f"altup_active_idx = {self.altup_active_idx} of {streams} streams"


def mlp(config: Gemma3nConfig, layer_id: int) -> GatedMLP:
    sizes, sparsities = config.intermediate_sizes, config.sparsities
    sparsity = sparsities[layer_id % len(sparsities)]
    sized = dataclasses.replace(config, intermediate_size=sizes[layer_id % len(sizes)])
    return GatedMLP(sized, act_and_mul=GaussianTopK(sized, sparsity) if sparsity else None)


class Gemma3nLayer(SharedKVLayer):
    """x: streams of each token, of which attention and MLP compute the active one."""

    def __init__(self, config, layer_id):
        super().__init__(config, layer_id, mlp(config, layer_id))
        self.altup, self.laurel = AltUp(config), Laurel(config)

    def construct(self, x, handed_on, step):
        embedded, kept = handed_on
        predictions = self.altup.predict(x)
        x = self.altup.active(predictions)
        normed = self.input_layernorm.plain(x)
        added, kept = self.attend(normed, kept, step)
        x = ops.add(x, self.post_attention_layernorm.plain(added), 1.0)
        x = ops.scale(ops.add(x, self.laurel(normed, step), 1.0), 2.0**-0.5)
        added = self.mlp(self.pre_feedforward_layernorm.plain(x), step)
        x = ops.add(x, self.post_feedforward_layernorm.plain(added), 1.0)
        streams = self.altup.correct(predictions, x)
        x = self.altup.scaled(self.altup.active(streams))
        x = self.per_layer(x, self.inputs(embedded, step), step)
        return ops.add_to_streams(streams, x, None, 1, 1.0), (embedded, kept)


class Gemma3nDecoder(Decoder):
    """Embedded tokens become streams before the first layer."""

    def __init__(self, config, layer_class, norm):
        super().__init__(config, layer_class, norm)
        self.altup_projections = projections(config)

    def apply_layer(self, layer, x, residual, handed_on, step):
        if layer.first:
            x, handed_on = split_streams(x, self.altup_projections, step), (x, ((), ()))
        x, handed_on = layer(x, handed_on, step)
        return x, residual, handed_on


OWN = {**NAMES, "norm.projections": "altup_unembed_projections"}


class Gemma3nForCausalLM(SharedKVModel):
    config_class = Gemma3nConfig
    decoder_class = Gemma3nDecoder
    layer_class = Gemma3nLayer
    norm = StreamsNorm
    tensor_names = OWN


class Gemma3nForConditionalGeneration(TextAlone):
    """Its towers are not computed yet."""

    towers = TOWERS
    decoders = ("gemma3n_text",)
    tensor_names = inner_names(OWN)

"""Decoders that see: a vision tower makes rows of images, which take the place of placeholder tokens.

A family says what its tower and projector are, and how an image becomes their inputs. The decoder is any of ours, by
the model_type of config.json's text_config, or of what an older config.json has in its place.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.models_ms.config import KeyedConfig, Runtime, UnsupportedConfig
from sglang.srt.models_ms.ignored_keys import IGNORED

IMAGE, VIDEO = "image", "video"  # modalities, by SGLang's names
# Names of the decoder's modules in transformers 5, which checkpoints do not have, and adapters of PEFT's do.
OF_MODULES = {"model": "model.language_model"}
# Keys beside text_config that are the decoder's, where they are given.
OF_DECODER = ("tie_word_embeddings", "quantization_config", "architectures")


class VisionInputs(NamedTuple):
    """What a tower is given of one image, made by numpy on the host."""

    patches: np.ndarray  # float32 [P, values of a patch]
    indices: tuple[np.ndarray, ...]  # int32, or float32 of angles; as `vision` takes them
    positions: np.ndarray | None = None  # float32 [P, width of the tower], what is added to patches


class TowerConfig(KeyedConfig):
    """Of config.json's vision_config, or of what is beside it. The server's settings are the decoder's."""

    runtime: Runtime
    ignored = {**IGNORED, "id2label": "names of classes", "tie_word_embeddings": "a tower embeds no words"}

    @property
    def dtype(self):
        return self.runtime.dtype

    @property
    def shard(self):
        """The ranks divide a tower; each computes all of it where its heads or inner values do not divide."""
        ranks = self.runtime.shard.attention.size
        sizes = (getattr(self, name, 0) for name in ("num_attention_heads", "intermediate_size"))
        return Shard() if any(size % ranks for size in sizes) else self.runtime.shard


class Multimodal:
    """Before a decoder's class (`on_decoder`). Families fill in what is below."""

    modalities = (IMAGE,)
    text_key = "text_config"  # of config.json: what of it is the decoder's; None: not set apart from the rest
    decoders = ()  # model_type of it: those that are published, the usual one first
    own_decoders = {}  # of these -> the architecture that computes it, where it is not the usual one
    towers = ()  # names of the cells, which only the first stage of a pipeline has
    deepstack = 0  # of how many layers a tower makes rows too, which are added after the decoder's first layers
    optional_prefix = ""
    whole_images = False  # whether tokens of an image see all of it: it is in one chunk of its prompt then

    @classmethod
    def decoder_config(cls, hf_config):
        return hf_config[cls.text_key] | {name: hf_config[name] for name in OF_DECODER if name in hf_config}

    @classmethod
    def own_config(cls, hf_config: Mapping) -> dict:
        """What of config.json is not the decoder's. SGLang copies the decoder's keys beside the others."""
        text = hf_config[cls.text_key]
        return {name: value for name, value in hf_config.items() if name not in text or name == "architectures"}

    @classmethod
    def names_on(cls, decoder: type) -> dict[str, str]:
        """`tensor_names` of the whole model, where a decoder has names of its own."""
        return getattr(cls, "tensor_names", decoder.tensor_names)

    def add_towers(self, hf_config, runtime):
        self.whole_images = self.whole_images and runtime.towers
        if self.config.stage.first and runtime.towers and self.modalities:
            self.make_towers(hf_config, runtime)
            self.model.take_media(self.deepstack)
            return
        self.other_stages += list(self.towers)
        self.modalities = ()

    def make_towers(self, hf_config: dict, runtime: Runtime) -> None:
        """Add the cells of `towers`."""
        raise NotImplementedError

    def vision_inputs(self, feature: np.ndarray, modality: str, known: Mapping[str, np.ndarray]) -> VisionInputs:
        """What `vision` is given of one image, or `video` of one video, from what its processor made of it.

        known: whatever else it made.
        """
        raise NotImplementedError

    def vision(self, patches, *indices):
        """Patches in the model's dtype [P, n] -> rows [tokens, hidden_size * (1 + deepstack)]. Called outside graphs.

        indices: positions first, where `vision_inputs` made some.
        """
        raise NotImplementedError

    def video(self, patches, *indices):
        """The same of a video, where that is computed otherwise."""
        return self.vision(patches, *indices)


class TextAlone(Multimodal):
    """A model that sees and hears, of which only the text is computed."""

    modalities = ()


def on_decoder(family: type, hf_config: Mapping | None, decoder_class) -> type:
    """The class of a family's model with the decoder that config.json names, or its usual one.

    decoder_class: function of a model_type, and of the architecture if it is known -> the class of its decoder.
    """
    text = (hf_config or {}).get(family.text_key) or {}
    kind = text.get("model_type") or family.decoders[0]
    if kind not in family.decoders:
        raise UnsupportedConfig(
            f"{family.__name__}: {family.text_key}.model_type = {kind!r} is not supported, only {list(family.decoders)}"
        )
    decoder = decoder_class(kind, family.own_decoders.get(kind))
    return type(family.__name__, (family, decoder), {"tensor_names": family.names_on(decoder)})

"""Scales of a key/value cache in float8: of a checkpoint, of a file, or one."""

import mindspore as ms
from mindspore import nn

from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

FP8_E4M3 = "fp8_e4m3"  # SGLang's name of the dtype
# Names of a scale, from an attention layer: llmcompressor's, ModelOpt's, older ones; the last is of both.
NAMES = {"k": ("k_scale", "k_proj.k_scale", "attn.k_scale"), "v": ("v_scale", "v_proj.v_scale", "attn.v_scale")}
BOTH = ("kv_scale", "attn.kv_scale")


class KVScales(nn.Cell):
    """`scales` [2] float32: what cached keys, and what cached values of an attention layer are multiplied by."""

    def __init__(self):
        super().__init__()
        self.scales = parameter((2,), ms.float32)
        self.given = None  # of both, by a file; in the place of the checkpoint's
        self.k_scale, self.v_scale = (_of_checkpoint((*names, *BOTH)) for names in NAMES.values())

    def give(self, scale: float) -> None:
        """Use this scale of keys and values from now on, whatever a checkpoint says."""
        self.given = scale
        self.process_weights_after_loading()

    def process_weights_after_loading(self):
        for place, loaded in enumerate((self.k_scale, self.v_scale)):
            found = float(loaded.host[0])  # zero: the checkpoint has none
            loaded.host[:] = 0.0  # the next one may have none
            self.scales.host[place] = self.given or (found if found > 0.0 else 1.0)


def _of_checkpoint(names: tuple[str, ...]) -> ms.Parameter:
    """A scale that may be there by one of these names, of the shape [1] or []."""
    one = [[WeightSlice(f"../{name}", (slice(None),), whole=(1,))] for name in names]
    scalar = [[WeightSlice(f"../{name}", (), (0, ...), whole=())] for name in names]
    return parameter((1,), ms.float32, alternatives=(*one, *scalar))

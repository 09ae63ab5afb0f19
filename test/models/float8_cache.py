"""transformers with a key/value cache in float8, as torch rounds to it."""

from collections.abc import Sequence

import torch
from transformers import DynamicCache

LARGEST = torch.finfo(torch.float8_e4m3fn).max


def rounded(values: torch.Tensor, scale: float) -> torch.Tensor:
    """Values as they are read from a cache that holds them divided by the scale."""
    return (values / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).to(values.dtype) * scale


class Float8Cache(DynamicCache):
    """scales: of the keys and of the values of each layer."""

    def __init__(self, scales: Sequence[tuple[float, float]]):
        super().__init__()
        self.scales = scales

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        k_scale, v_scale = self.scales[layer_idx]
        held = rounded(key_states, k_scale), rounded(value_states, v_scale)
        return super().update(*held, layer_idx, *args, **kwargs)


@torch.no_grad()
def logits(model, ids, scales) -> torch.Tensor:
    """[T, vocab_size]: what a model of transformers says after each of the ids."""
    cache = Float8Cache(scales)
    return model(torch.as_tensor(ids)[None], past_key_values=cache, use_cache=True).logits[0]

"""Models with a key/value cache in float8 give the logits of transformers with such a cache."""

import numpy as np
import pytest
import torch
from models import float8_cache
from models.harness import PagedModel, Requests, assert_logits_close
from models.test_logits import mixed_batch, prompts
from models.tiny import described, hugging_face, save
from safetensors.torch import load_file, save_file
from tiers import mostly_slow

from sglang.srt.model_executor_ms.runner import device
from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights

SECONDS = 12, 20
VARIANTS = ["qwen3", "gemma2", "gpt_oss", "gemma4-shared"]  # norms of keys; windows, soft caps; sinks; shared keys
# Of the largest logit. A value half way between two codes may become the other one: a sixteenth of it.
LIMIT = 1e-2
NAMES = [("k_scale", "v_scale"), ("k_proj.k_scale", "v_proj.v_scale"), ("kv_scale", "kv_scale")]


def scales_of(layers, names=NAMES[0]):
    """Of keys and values of each layer; far from powers of two."""
    found = [(0.013 * (layer + 1), 0.0071 * (layer + 2)) for layer in range(layers)]
    return [(k, k) for k, _ in found] if names[0] == names[1] else found


def with_scales(folder, scales, names, shape):
    """The checkpoint in the folder, with these scales."""
    tensors = load_file(folder / "model.safetensors")
    for layer, pair in enumerate(scales):
        for name, scale in zip(names, pair, strict=True):
            tensors[f"model.layers.{layer}.self_attn.{name}"] = torch.full(shape, scale)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def served(folder):
    device.start("cpu", "cpu")
    return PagedModel(folder, kv_cache_dtype="fp8_e4m3")


def wanted(variant, scales):
    model = hugging_face(variant)
    return {name: float8_cache.logits(model, ids, scales).numpy() for name, ids in prompts().items()}


@pytest.mark.parametrize("variant", mostly_slow(VARIANTS, lambda variant: variant == "qwen3"))
def test_logits_are_those_of_a_rounded_cache(variant, tmp_path):
    layers = described(variant)["num_hidden_layers"]
    model = served(save(variant, tmp_path))
    found = mixed_batch(Requests(model, 4), prompts())
    ones = wanted(variant, [(1.0, 1.0)] * layers)
    assert_logits_close(found, {name: ones[name] for name in found}, LIMIT)


CASES = [(NAMES[0], (1,)), (NAMES[1], ()), (NAMES[2], (1,))]


@pytest.mark.parametrize("names, shape", mostly_slow(CASES, lambda names, shape: shape == ()), ids=str)
def test_scales_of_a_checkpoint_are_used_and_forgotten_with_it(names, shape, tmp_path):
    layers = described("qwen3")["num_hidden_layers"]
    scales, plain = scales_of(layers, names), save("qwen3", tmp_path / "plain")
    model = served(with_scales(save("qwen3", tmp_path / "scaled"), scales, names, shape))
    found = mixed_batch(Requests(model, 4), prompts())
    expected, others = wanted("qwen3", scales), wanted("qwen3", [(1.0, 1.0)] * layers)
    assert_logits_close(found, {name: expected[name] for name in found}, LIMIT)
    far = max(np.abs(expected[name] - others[name]).max() for name in found)
    assert far > LIMIT * max(np.abs(expected[name]).max() for name in found)
    load_weights(model.network, check_weights(model.network, plain), progress=False)
    found = mixed_batch(Requests(model, 4), prompts())
    assert_logits_close(found, {name: others[name] for name in found}, LIMIT)

"""Where logits differ from those of compressed-tensors' code in transformers: what that code does otherwise."""

import json

import numpy as np
import pytest
import torch
from compressed_tensors.quantization.utils import helpers
from models.harness import PagedModel, Requests, assert_logits_close
from models.test_logits import mixed_batch
from models.test_quantized import LIMIT, LIMIT_BFLOAT16, LIMIT_ROUNDED, rewritten, stated
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

SECONDS = 8
GROUP = 32
SIZES = dict(
    vocab_size=160,
    hidden_size=128,
    moe_intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    num_experts=4,
    num_experts_per_tok=2,
    max_position_embeddings=256,
    initializer_range=0.1,
    norm_topk_prob=True,
)
WEIGHTS = dict(num_bits=4, type="int", symmetric=True, strategy="group", group_size=GROUP, dynamic=False)


def logits(model, ids) -> dict:
    with torch.no_grad():
        return {name: model(torch.as_tensor(row)[None]).logits[0].numpy() for name, row in ids.items()}


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def distance(found, wanted) -> float:
    largest = max(np.abs(rows).max() for rows in wanted.values())
    return max(np.abs(found[name] - wanted[name]).max() for name in found) / largest


def with_dynamic_activations(tensors, settings):
    """W8A8 with a step for each row of activations, in the place of a static one."""
    for name in [name for name in tensors if name.endswith(("input_scale", "input_zero_point"))]:
        del tensors[name]
    for group in settings["config_groups"].values():
        group["input_activations"] = dict(num_bits=8, type="int", strategy="token", dynamic=True, symmetric=True)
    return settings


def test_dynamic_activations_have_steps_of_a_127th_of_the_largest(table, tmp_path, monkeypatch):
    """As SGLang's and vLLM's kernels have them; compressed-tensors simulates them with steps of a 127.5th."""
    folder, (ids, _) = rewritten("W8A8_static", tmp_path, with_dynamic_activations), stated("W8A8_static")
    found = mixed_batch(Requests(PagedModel(folder, compiled=False), 4), ids)
    simulated = logits(loaded(folder), ids)
    steps = helpers.calculate_qparams

    def as_kernels(*arguments, **named):
        scales, zeros = steps(*arguments, **named)
        return scales * (127.5 / 127), zeros

    monkeypatch.setattr(helpers, "calculate_qparams", as_kernels)
    assert_logits_close(found, logits(loaded(folder), ids), LIMIT_ROUNDED)
    assert LIMIT_ROUNDED < distance(found, simulated) < 5e-2


def packed(weight: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """Tensors of pack-quantized codes of four bits, by the ends of their names; and what they stand for."""
    rows, columns = weight.shape
    groups = weight.float().view(rows, columns // GROUP, GROUP)
    scale = (groups.abs().amax(-1) / 7.5).bfloat16()
    codes = (groups / scale.float()[..., None]).round().clamp(-8, 7)
    octets = (codes + 8).to(torch.uint8).view(rows, columns)
    words = (octets[:, ::2] | octets[:, 1::2] << 4).contiguous().view(torch.int32)
    held = {"_packed": words, "_scale": scale, "_shape": torch.tensor([rows, columns])}
    return held, (codes * scale.float()[..., None]).view(rows, columns)


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """-> folders of a small mixture of experts: in four bits as llmcompressor writes it, and of the values."""
    source, folder, plain = (tmp_path_factory.mktemp(name) for name in ("source", "four_bits", "values"))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(Qwen3MoeConfig(**SIZES), dtype=torch.bfloat16).save_pretrained(source)
    coded, values = {}, {}
    for name, weight in load_file(source / "model.safetensors").items():
        values[name] = weight.float()
        if weight.ndim != 2 or "proj" not in name:
            coded[name] = weight
            continue
        held, values[name] = packed(weight)
        coded |= {name + suffix: tensor for suffix, tensor in held.items()}
    config = json.loads((source / "config.json").read_text())
    group = dict(format="pack-quantized", targets=["Linear"], weights=WEIGHTS)
    scheme = dict(config_groups={"g": group}, format="pack-quantized", ignore=["lm_head", "re:.*mlp.gate$"])
    scheme |= dict(quant_method="compressed-tensors", quantization_status="compressed")
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": scheme}))
    (plain / "config.json").write_text(json.dumps(config))
    save_file(coded, folder / "model.safetensors", {"format": "pt"})
    save_file({name: value.contiguous() for name, value in values.items()}, plain / "model.safetensors")
    return folder, plain


def test_experts_of_four_bits_are_the_values_that_they_stand_for(table, experts):
    """transformers rounds these values to bfloat16 in its stacks of experts, also where it computes in float32."""
    folder, plain = experts
    ids, _ = stated("W4A16")
    found = mixed_batch(Requests(PagedModel(folder, compiled=False), 4), ids)
    exact, theirs = loaded(plain), loaded(folder)
    assert_logits_close(found, logits(exact, ids), LIMIT / 100)
    name = "model.layers.1.mlp.experts.down_proj"
    assert torch.equal(theirs.state_dict()[name].float(), exact.state_dict()[name].bfloat16().float())
    assert LIMIT < distance(found, logits(theirs, ids)) < LIMIT_BFLOAT16

"""Adapters of what operators multiply by inside: single experts and kv_b_proj. Logits against PEFT's, in float32."""

import numpy as np
import pytest
import safetensors.torch
import torch
from models.adapters import LATENT, MAX_RANK, adapter_of, fill, load, logits_of, with_room
from models.harness import PagedModel, Requests, assert_logits_close
from models.test_logits import LIMITS, mixed_batch, prompts
from models.tiny import save
from tiers import mostly_slow

from sglang.srt.layers_ms.lora_experts import ExpertsLoRA
from sglang.srt.model_loader_ms import lora

SECONDS = 12, 25
STACKS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
CONFIGS = {
    "qwen3_moe": dict(target_modules=["q_proj"], target_parameters=STACKS, rank_pattern={"experts.down_proj": 3}),
    "mixtral": dict(target_modules=["o_proj"], target_parameters=["experts.down_proj"]),
    "gpt_oss": dict(target_modules=[], target_parameters=STACKS, use_rslora=True),
    "deepseek_v3": dict(target_modules=[*LATENT, "kv_b_proj"], target_parameters=STACKS),
    "deepseek_v2-lite": dict(target_modules=["kv_b_proj"]),
}
CASES = [*(("cpu", variant) for variant in CONFIGS), ("reference", "deepseek_v3"), ("reference", "gpt_oss")]
CASES = mostly_slow(CASES, lambda table, variant: table == "cpu" and variant in ("qwen3_moe", "deepseek_v3"))
ON_CPU = pytest.mark.parametrize("table", ["cpu"], indirect=True)


@pytest.mark.parametrize("table, variant", CASES, indirect=["table"])
def test_experts_and_latent_rows_have_pefts_logits(table, tmp_path, variant):
    folder, ids = save(variant, tmp_path / "model"), prompts()
    config = dict(r=4, lora_alpha=6) | CONFIGS[variant]
    references = [adapter_of(variant, tmp_path / name, seed, **config) for seed, name in enumerate("ab")]
    compiled = table == "cpu"
    plain = mixed_batch(Requests(PagedModel(folder, compiled=compiled), 4), ids)
    model = PagedModel(folder, compiled=compiled)
    layers = with_room(model.network)
    for slot, name in ((2, "a"), (0, "b")):
        fill(layers, slot, load(tmp_path / name))
    requests = Requests(model, 4)
    requests.lora_slots = {"long": 2, "short": 0}
    found = mixed_batch(requests, ids)
    wanted = {name: logits_of(one, ids[name]) for name, one in zip(("long", "short"), references, strict=True)}
    assert_logits_close({name: found[name] for name in wanted}, wanted, LIMITS["float32"])
    assert all(np.abs(found[name] - plain[name]).max() > 0.05 for name in wanted)
    np.testing.assert_array_equal(found["one"], plain["one"])


def in_other_forms(folder, form):
    """The adapter of qwen3_moe in another form than PEFT's: of each expert, or of gate, up and down as stacks."""
    tensors, config = safetensors.torch.load_file(folder / "adapter_model.safetensors"), lora.read_config(folder)
    written = {}
    for name, factors in lora.adapter(config, tensors).modules.items():
        if not name.endswith("experts.gate_up_proj") and not name.endswith("experts.down_proj"):
            own = f"{lora.PREFIX}{name}.lora_"
            written |= {f"{own}{one}.weight": tensors[f"{own}{one}.weight"] for one in "AB"}
            continue
        path, _, stack = f"{lora.PREFIX}{name}".rpartition(".")
        halves = factors.b.chunk(2, 1) if stack == "gate_up_proj" else [factors.b]
        for own, b in zip(("gate_proj", "up_proj") if len(halves) == 2 else ("down_proj",), halves, strict=True):
            for expert, (of_a, of_b) in enumerate(zip(factors.a, b, strict=True)):
                if form == "each":
                    written[f"{path}.{expert}.{own}.lora_A.weight"] = of_a.contiguous()
                    written[f"{path}.{expert}.{own}.lora_B.weight"] = of_b.contiguous()
            if form == "stacks":
                written[f"{path}.{own}.lora_A.weight"] = factors.a.contiguous()
                written[f"{path}.{own}.lora_B.weight"] = b.contiguous()
    return config | {"target_parameters": None}, written


@ON_CPU
@pytest.mark.parametrize("form", ["each", "stacks"])
def test_every_form_of_experts_adapters_means_the_same(table, tmp_path, form):
    adapter_of("qwen3_moe", tmp_path / "a", r=4, lora_alpha=6, target_modules=["q_proj"], target_parameters=STACKS)
    layers = with_room(PagedModel(save("qwen3_moe", tmp_path / "model")).network)
    fill(layers, 0, load(tmp_path / "a"))
    other = lora.adapter(*in_other_forms(tmp_path / "a", form))
    lora.check_fits(other, lora.room_of(layers), MAX_RANK)
    experts = [layer for layer in layers if isinstance(layer, ExpertsLoRA)]
    assert len(experts) == 2 * 2  # layers
    for layer in experts:
        before = [held.copy() for held in layer.hosts]
        assert all(held.any() for held in before)
        lora.put(layer, 0, None)
        assert not any(held.any() for held in layer.hosts)
        lora.put(layer, 0, other)
        for held, wanted in zip(layer.hosts, before, strict=True):
            np.testing.assert_array_equal(held, wanted)


@ON_CPU
def test_a_factor_that_all_experts_share_is_each_ones(table, tmp_path):
    layers = with_room(PagedModel(save("qwen3_moe", tmp_path / "model")).network)
    name, config = "model.layers.1.mlp.experts.down_proj", dict(r=2, lora_alpha=2, target_modules=["down_proj"])
    named = [{one for part in layer.parts for one in part.names} for layer in layers]
    (place,) = (place for place, names in enumerate(named) if name in names)
    count, out, size = layers[place].parts[-1].stack, *layers[place].parts[-1].whole
    a, b = torch.randn(count, 2, size), torch.randn(1, out, 2)
    written = []
    for shared in (b, b.expand(count, out, 2)):
        tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": shared}
        fill(layers, 0, lora.adapter(dict(config, peft_type="LORA"), tensors))
        written.append(layers[place].hosts[1].copy())
    np.testing.assert_array_equal(*written)
    assert written[0].any()


@ON_CPU
def test_adapters_of_experts_that_do_not_fit_are_refused_by_name(table, tmp_path):
    adapter_of("qwen3_moe", tmp_path / "a", r=4, lora_alpha=6, target_modules=["q_proj"], target_parameters=STACKS)
    layers = with_room(PagedModel(save("qwen3_moe", tmp_path / "model")).network)
    good, config = lora.read_tensors(tmp_path / "a"), lora.read_config(tmp_path / "a")
    experts = f"{lora.PREFIX}model.layers.0.mlp.experts"
    each, of_each = in_other_forms(tmp_path / "a", "each")
    first, down = f"{experts}.0.down_proj.lora_A.weight", f"{experts}.lora_A.weight"
    refused = {
        "names ['gate_up_proj'] of it": (config | {"target_parameters": STACKS[:1]}, good),
        "names none of it": (config | {"target_parameters": None}, good),
        "says rank 5": (config | {"r": 5}, good),
        "experts.9.up_proj": (each, of_each | {first.replace("0.down", "9.up"): of_each[first]}),
        "0.down_proj has lora_A alone": (each, {first: of_each[first]}),
        "are the same matrix": (config, good | {one: of_each[one] for one in (first, first.replace("_A", "_B"))}),
        "the model's matrix is [": (
            config,
            good | {down: good[down][:, 1:]},
        ),
        "more than --max-lora-rank 8": (
            config | {"r": 12},
            {name: tensor.repeat_interleave(3, 0 if "_A" in name else 1) for name, tensor in good.items()},
        ),
        "the order of their factors": (config | {"target_parameters": [*STACKS, "experts.gate_up_proj_bias"]}, good),
    }
    for problem, (of, tensors) in refused.items():
        with pytest.raises(lora.AdapterError) as error:
            lora.check_fits(lora.adapter(of, tensors), lora.room_of(layers), MAX_RANK)
        assert problem in str(error.value), (problem, str(error.value))
    lora.check_fits(lora.adapter(config, good), lora.room_of(layers), MAX_RANK)

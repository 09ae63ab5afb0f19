"""Logits with adapters against PEFT's, in float32: of every kind of projection, and of batches of several adapters."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from distributed.pool import Pool
from models.adapters import ALL, BESIDE, LATENT, MAX_RANK, PACKED, adapted, adapter_of, fill, load, logits_of, with_room
from models.harness import PagedModel, Requests, assert_logits_close
from models.test_logits import LIMITS, chunks, mixed_batch, prompts
from models.test_quantized import FOLDER, LIMIT, stated
from models.test_ranks import LAYOUTS, PLACES, check
from models.tiny import save
from tiers import mostly_slow
from transformers import AutoConfig, AutoModelForCausalLM

from sglang.srt.layers_ms.cache_spec import StateSpec
from sglang.srt.layers_ms.lora_attach import attach_embedding
from sglang.srt.layers_ms.quantization.unquantized import unquantized
from sglang.srt.model_executor_ms.runner import lora as runner_lora
from sglang.srt.model_executor_ms.runner.lora import KEPT, MindSporeLoRAManager, MindSporeLoRAMemoryPool
from sglang.srt.model_executor_ms.seams import batches
from sglang.srt.model_loader_ms import lora
from sglang.srt.model_loader_ms.loader import Wanted
from sglang.srt.models_ms.decoder import CausalLM

SECONDS = 20, 35
ON_CPU = pytest.mark.parametrize("table", ["cpu"], indirect=True)
CONFIGS = {
    "all": dict(r=4, lora_alpha=6, target_modules=ALL),
    "queries and values": dict(r=8, lora_alpha=4, target_modules=["q_proj", "v_proj"]),
    "keys": dict(r=3, lora_alpha=7, target_modules=["k_proj"]),
    "rank-stabilized": dict(r=5, lora_alpha=3, target_modules=["up_proj", "o_proj"], use_rslora=True),
    "patterns": dict(
        r=4,
        lora_alpha=6,
        target_modules=ALL,
        rank_pattern={"q_proj": 7, "layers.1.mlp.down_proj": 2},
        alpha_pattern={"up_proj": 5, r".*0\.self_attn\.o_proj": 9},
    ),
}
TARGETS = {
    "qwen3": ALL,
    "qwen2": ALL,
    "phi3": PACKED,
    "glm": ["q_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"],
    "qwen2_moe": ["q_proj", "o_proj", "shared_expert.gate_proj", "shared_expert.up_proj", "shared_expert.down_proj"],
    "deepseek_v3": LATENT,
}


@ON_CPU
def test_a_batch_of_several_adapters_has_the_logits_of_each_alone(table, tmp_path):
    folder, ids = save("llama", tmp_path / "model"), prompts()
    plain = mixed_batch(Requests(PagedModel(folder), 4), ids)
    model = PagedModel(folder)
    layers = with_room(model.network)
    assert len(layers) == 4 * model.config.num_hidden_layers
    references = {name: adapter_of("llama", tmp_path / name, **config) for name, config in CONFIGS.items()}
    names = list(CONFIGS)
    for first in (names[:3], names[3:]):  # the second ones come into slots that others have left
        for slot, name in enumerate(first):
            fill(layers, slot, load(tmp_path / name))
        for of_long, of_short in ((0, 1), (1, len(first) - 1)):
            requests = Requests(model, 4)
            requests.lora_slots = {"long": of_long, "short": of_short}
            found = mixed_batch(requests, ids)
            wanted = {
                "long": logits_of(references[first[of_long]], ids["long"]),
                "short": logits_of(references[first[of_short]], ids["short"]),
            }
            assert_logits_close({name: found[name] for name in wanted}, wanted, LIMITS["float32"])
            assert all(np.abs(found[name] - plain[name]).max() > 0.05 for name in wanted)
            np.testing.assert_array_equal(found["one"], plain["one"])


@ON_CPU
def test_room_for_larger_ranks_and_other_requests_change_no_bit(table, tmp_path):
    folder, ids = save("qwen3", tmp_path / "model"), prompts()
    adapter_of("qwen3", tmp_path / "a", **CONFIGS["all"])
    adapter_of("qwen3", tmp_path / "b", seed=1, **CONFIGS["queries and values"])
    found = []
    for rank, slots in ((8, {"long": 0, "short": 0, "one": 1}), (64, {"long": 1, "short": 1}), (64, {"long": 1})):
        model = PagedModel(folder)
        layers = with_room(model.network, rank)
        fill(layers, slots["long"], load(tmp_path / "a"), rank)
        if "one" in slots:
            fill(layers, slots["one"], load(tmp_path / "b"), rank)
        requests = Requests(model, 4)
        requests.lora_slots = slots
        batch = {name: ids[name] for name in ("long", *slots)}
        found.append(chunks(requests, batch)["long"])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


KINDS = [*(("cpu", variant) for variant in TARGETS), ("reference", "phi3")]
KINDS = mostly_slow(KINDS, lambda table, variant: table == "cpu" and variant in ("phi3", "qwen2_moe", "deepseek_v3"))


@pytest.mark.parametrize("table, variant", KINDS, indirect=["table"])
def test_every_kind_of_projection_has_pefts_logits(table, tmp_path, variant):
    folder, ids = save(variant, tmp_path / "model"), prompts()
    reference = adapter_of(variant, tmp_path / "a", r=5, lora_alpha=6, target_modules=TARGETS[variant])
    model = PagedModel(folder, compiled=table == "cpu")
    layers = with_room(model.network)
    fill(layers, 1, load(tmp_path / "a"))
    requests = Requests(model, 4)
    requests.lora_slots = dict.fromkeys(ids, 1)
    wanted = {name: logits_of(reference, tokens) for name, tokens in ids.items()}
    assert_logits_close(mixed_batch(requests, ids), wanted, LIMITS["float32"])


@ON_CPU
def test_what_is_not_served_is_refused_by_name(table, tmp_path):
    import safetensors.torch

    folder = save("llama", tmp_path / "model")
    layers = with_room(PagedModel(folder).network)
    adapter_of("llama", tmp_path / "a", **CONFIGS["all"])
    good, prefix = lora.read_tensors(tmp_path / "a"), "base_model.model.model.layers.0.self_attn.q_proj"
    config = lora.read_config(tmp_path / "a")
    refused = {
        "use_dora True": (config | {"use_dora": True}, good),
        "modules_to_save ": (config | {"modules_to_save": ["lm_head"]}, good),
        "bias 'all'": (config | {"bias": "all"}, good),
        "init_lora_weights 'pissa'": (config | {"init_lora_weights": "pissa"}, good),
        "has no lora_alpha": ({key: value for key, value in config.items() if key != "lora_alpha"}, good),
        "says rank 3": (config | {"r": 3}, good),
        "lm_head.weight": (config, good | {"base_model.model.lm_head.weight": torch.ones(4, 4)}),
        "q_proj.lora_magnitude_vector": (config, good | {f"{prefix}.lora_magnitude_vector.weight": torch.ones(4)}),
        "q_proj has lora_A alone": (config, {f"{prefix}.lora_A.weight": good[f"{prefix}.lora_A.weight"]}),
        "no finite numbers": (config, good | {f"{prefix}.lora_A.weight": good[f"{prefix}.lora_A.weight"] * np.inf}),
        "model.layers.9.mlp.up_proj": (
            config,
            good | {f"model.layers.9.mlp.up_proj.lora_{one}.weight": torch.ones(4, 4) for one in "AB"},
        ),
        "the model's matrix is": (config, good | {f"{prefix}.lora_B.weight": torch.ones(5, 4)}),
        "more than --max-lora-rank 8": (
            config | {"rank_pattern": {"q_proj": 9}},
            {f"{prefix}.lora_A.weight": torch.ones(9, 60), f"{prefix}.lora_B.weight": torch.ones(60, 9)},
        ),
    }
    for problem, (of, tensors) in refused.items():
        with pytest.raises(lora.AdapterError) as error:
            lora.check_fits(lora.adapter(of, tensors), lora.room_of(layers), MAX_RANK)
        assert problem in str(error.value), (problem, str(error.value))
    (tmp_path / "b").mkdir()
    for problem in (lora.CONFIG, "neither adapter_model"):
        with pytest.raises(lora.AdapterError, match=problem):
            load(tmp_path / "b")
        (tmp_path / "b" / lora.CONFIG).write_text(json.dumps(config))
    (tmp_path / "b" / lora.WEIGHTS[0]).write_bytes(b"no tensors")
    with pytest.raises(lora.AdapterError, match="cannot be read"):
        load(tmp_path / "b")
    safetensors.torch.save_file(good, tmp_path / "b" / lora.WEIGHTS[0])
    lora.check_fits(load(tmp_path / "b"), lora.room_of(layers), MAX_RANK)


EMBEDDINGS = [("cpu", "llama-tied"), ("cpu", "gemma"), ("reference", "llama-tied")]
EMBEDDINGS = mostly_slow(EMBEDDINGS, lambda table, variant: (table, variant) == ("cpu", "gemma"))


@pytest.mark.parametrize("table, variant", EMBEDDINGS, indirect=["table"])
def test_an_embedding_with_adapters_has_pefts_logits(table, tmp_path, variant):
    folder, ids = save(variant, tmp_path / "model"), prompts()
    targets = ["embed_tokens", "q_proj"]
    references = [
        adapter_of(variant, tmp_path / name, seed, r=3 + seed, lora_alpha=6, target_modules=targets)
        for seed, name in enumerate("ab")
    ]
    model = PagedModel(folder, compiled=table == "cpu")
    layers, names = with_room(model.network), Wanted(**model.network.checkpoint()).tensor_names()
    (embedding,) = attach_embedding(model.network, names, lambda parts: True, 3, MAX_RANK)
    for slot, name in enumerate("ab"):
        adapter = load(tmp_path / name)
        lora.check_fits(adapter, lora.room_of([*layers, embedding]), MAX_RANK)
        for layer in layers:
            lora.put(layer, slot, adapter)
            layer.renew()
        for _ in range(2):  # as when weights come anew
            lora.put_embedding(embedding, slot, adapter)
            embedding.renew()
    requests = Requests(model, 4)
    requests.lora_slots = {"long": 0, "short": 1}
    wanted = {name: logits_of(references[slot], ids[name]) for name, slot in requests.lora_slots.items()}
    found = mixed_batch(requests, ids)
    assert_logits_close({name: found[name] for name in wanted}, wanted, LIMITS["float32"])
    np.testing.assert_array_equal(
        found["one"], mixed_batch(Requests(PagedModel(folder, compiled=table == "cpu"), 4), ids)["one"]
    )


STACKS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
RANKS = {
    "llama@ranks": dict(target_modules=ALL),
    "phi3@ranks": dict(target_modules=PACKED),
    "qwen2_moe@ranks": dict(target_modules=TARGETS["qwen2_moe"]),
    "qwen3_moe@ranks": dict(target_modules=[], target_parameters=STACKS),
    "deepseek_v3@ranks": dict(target_modules=[*LATENT, "kv_b_proj"], target_parameters=STACKS),
}


@pytest.fixture(scope="module")
def four():
    pool = Pool(4)
    yield pool
    pool.close()


@pytest.mark.parametrize("variant", mostly_slow(RANKS, lambda variant: variant in ("llama@ranks", "deepseek_v3@ranks")))
def test_ranks_say_what_one_process_says_with_the_same_adapters(four, tmp_path, variant):
    folder = save(variant, tmp_path)
    for seed, name in enumerate(("0", "1")):
        adapter_of(variant, folder / BESIDE / name, seed, r=3 + seed, lora_alpha=6, **RANKS[variant])
    steps, wanted = four.alone(folder)
    assert {slot for _, step in steps for slot in step.host.lora_slots} == {-1, 0, 1}
    experts = ["EP 2", "attention DP 2, EP 2"] if "target_parameters" in RANKS[variant] else []
    for layout in ("TP 2", "TP 4", "PP 2", "attention DP 2", *experts):
        check(four.together(folder, LAYOUTS[layout], steps), wanted)
    if experts:
        layout = LAYOUTS["EP 2 with replicas"]
        check(four.together(folder, layout, steps), wanted)
        four.move(layout, PLACES[::-1], tmp_path / "meeting")
        check(four.again(layout, steps), wanted)


@ON_CPU
@pytest.mark.parametrize("name", mostly_slow(["W4A16", "gptq", "W8A16"], lambda name: name == "W4A16"))
def test_a_quantized_base_with_an_adapter_is_the_dequantized_one_with_it(table, tmp_path, monkeypatch, name):
    config = AutoConfig.from_pretrained(FOLDER / name)
    del config.quantization_config
    adapted(AutoModelForCausalLM.from_config(config), tmp_path, r=4, lora_alpha=6, target_modules=ALL)
    ids, read = stated(name)[0], CausalLM.quantization

    def dequantized(network, config):
        scheme = read(network, config)
        scheme.method = unquantized
        return scheme

    def logits():
        model = PagedModel(FOLDER / name)
        fill(with_room(model.network), 0, load(tmp_path))
        requests = Requests(model, 4)
        requests.lora_slots = {"long": 0, "short": 0}
        return mixed_batch(requests, ids)

    found = logits()
    monkeypatch.setattr(CausalLM, "quantization", dequantized)
    assert_logits_close(found, logits(), LIMIT)
    plain = mixed_batch(Requests(PagedModel(FOLDER / name), 4), ids)
    assert all(np.abs(found[name] - plain[name]).max() > 0.05 for name in ("long", "short"))


def test_a_request_on_its_way_to_an_adapter_that_is_unloaded_meanwhile_still_has_it():
    written = []
    pool = object.__new__(MindSporeLoRAMemoryPool)
    pool.layers, pool.embeddings, pool.kind, pool.unloaded, pool.written = [], [], "cpu", {}, {}
    pool.heads = [SimpleNamespace(put=lambda slot, adapter: written.append((slot, adapter)))]
    pool.remove_lora = lambda uid: None
    manager = object.__new__(MindSporeLoRAManager)
    manager.memory_pool, manager.configs, manager.lora_refs, manager.num_pinned_loras = pool, {}, {}, 0
    manager.loras = {str(number): f"adapter {number}" for number in range(KEPT + 1)}
    for number in range(KEPT + 1):
        assert manager._unload_lora_adapter(SimpleNamespace(lora_id=str(number))).success
    pool.load_lora_weight_to_buffer("1", 5, None)
    pool.load_lora_weight_to_buffer(None, 6, None)
    assert written == [(5, "adapter 1")] and manager.loras == {}
    with pytest.raises(lora.AdapterError, match="not loaded any more"):  # and not the model without it
        pool.load_lora_weight_to_buffer("0", 5, None)


def test_attention_replicas_tell_each_other_the_slots_of_their_tokens(monkeypatch):
    """Of a step in which one has two requests in an extend, and the other is idle."""
    manager = object.__new__(MindSporeLoRAManager)
    manager.memory_pool = SimpleNamespace(uid_to_buffer_id={None: 0, "a": 2})
    manager.attn_dp_enabled, manager.heads, manager.dp_lora_slots = True, [], None
    said = []
    group = SimpleNamespace(all_gather_object=lambda own: said.append(own) or [own, np.array([], np.int32)])
    monkeypatch.setattr(runner_lora, "get_parallel", lambda: SimpleNamespace(tp_group=group))
    mode = SimpleNamespace(is_decode_or_idle=lambda: False, is_target_verify=lambda: False)
    batch = SimpleNamespace(lora_ids=["a", None], extend_seq_lens_cpu=[3, 1], seq_lens_cpu=torch.tensor([3, 5]))
    batch.forward_mode = mode
    manager.prepare_lora_batch(batch)
    manager.note_slots(batch)
    assert batches.lora_slots(batch).tolist() == [2, -1]
    assert batches.dp_lora_slots(batch).tolist() == said[0].tolist() == [2, 2, 2, -1]
    manager.attn_dp_enabled = False
    manager.prepare_lora_batch(batch)
    assert len(said) == 1


def test_models_whose_layers_keep_states_are_refused():
    cells = [("layer", SimpleNamespace(layer_id=0, cache_spec=StateSpec((4, 3))))]
    network = SimpleNamespace(cells_and_names=lambda: cells)
    model = SimpleNamespace(network=network, parameters=lambda: iter([0]))
    with pytest.raises(ValueError, match="keep a state of each request"):
        MindSporeLoRAManager(model, "cpu")

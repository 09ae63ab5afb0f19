"""--pp-size 2 on a CPU: the same answers from two stages, and a clean end when one of them is killed."""

import json
import time

import pytest
import torch
from models.adapters import ALL, adapted
from safetensors.torch import load_file, save_file
from serving.answers import (
    TEXTS,
    check_a_group_sends_tensors,
    check_a_killed_rank_ends,
    check_many_at_once,
    check_server,
    check_tensors_are_taken_by_all_or_none,
    check_weights_are_taken_by_all_or_none,
)
from serving.conftest import MODEL
from tiers import SLOW

from sglang.srt.utils import MultiprocessingSerializer

SECONDS = 28, 33


@pytest.fixture(scope="module")
def stages(serve):
    """A server of two stages; the test that ends it is the last."""
    adapters = ("--enable-lora", "--max-lora-rank", "6", "--lora-target-modules", "all", "--max-loras-per-batch", "3")
    return serve(MODEL, "--pp-size", "2", "--chunked-prefill-size", "32", *adapters)


def test_tokens_and_prompt_logprobs_are_those_of_transformers(stages, reference):
    check_server(stages, reference, (*TEXTS, " ".join(TEXTS * 6)))  # the last one in several chunks


def test_many_requests_at_once(stages, reference):
    check_many_at_once(stages, reference)


def test_each_stage_has_its_own_layers_only(stages):
    read = [line for line in stages.log.read_text().splitlines() if "weights: " in line]
    tensors = [int(line.split("weights: ")[1].split()[0]) for line in read]
    assert len(tensors) == 2
    assert all(count < 40 for count in tensors)


def test_new_weights_are_taken_by_all_stages_or_none(stages, tmp_path):
    check_weights_are_taken_by_all_or_none(stages, tmp_path)


def test_a_trainers_tensors_are_taken_by_all_stages_or_none(stages):
    check_tensors_are_taken_by_all_or_none(stages, ranks=1)


@SLOW
def test_a_trainers_group_sends_tensors_to_the_first_stage(stages):
    check_a_group_sends_tensors(stages, ranks=1)


ADAPTERS = {
    "a": dict(r=4, lora_alpha=8, target_modules=ALL),
    "ends": dict(r=3, lora_alpha=4, target_modules=["embed_tokens", "lm_head", "v_proj"]),
}


def test_adapters_are_loaded_by_all_stages_or_none_and_computed_as_peft_does(
    stages, reference, tmp_path, shared_by_name
):
    def load(name):
        return stages.post("/load_lora_adapter", {"lora_name": name, "lora_path": str(tmp_path / name)})

    def send(name, of, payload):
        config = json.loads((tmp_path / of / "adapter_config.json").read_text())
        body = {"lora_name": name, "config_dict": config, "serialized_named_tensors": [payload]}
        return stages.post("/load_lora_adapter_from_tensors", body)

    models = {None: reference.model}
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        models[name] = adapted(reference.model, tmp_path / name, seed, scale=1.0, **config)
        answer = load(name)
        assert answer.ok, answer.text
    whole = load_file(tmp_path / "a" / "adapter_model.safetensors")
    last = max(int(name.split(".layers.")[1].split(".")[0]) for name in whole)
    for layer in (0, last):  # of which one stage only can say that it is damaged
        module = f"base_model.model.model.layers.{layer}.mlp.up_proj"
        broken = whole | {f"{module}.lora_B.weight": torch.ones(5, 4)}
        save_file(broken, tmp_path / "a" / "adapter_model.safetensors")
        for refused in (
            stages.post("/load_lora_adapter", {"lora_name": "broken", "lora_path": str(tmp_path / "a")}),
            send("broken", "a", MultiprocessingSerializer.serialize(broken, output_str=True)),
        ):
            assert refused.status_code == 400 and f"layers.{layer}.mlp.up_proj has lora_A" in refused.text, refused.text
    refused = send("unread", "a", "AAAA")
    assert refused.status_code == 400 and "cannot be read" in refused.text, refused.text
    sent = load_file(tmp_path / "ends" / "adapter_model.safetensors")
    answer = send("sent", "ends", MultiprocessingSerializer.serialize(sent, output_str=True))
    assert answer.ok, answer.text
    models["sent"] = models["ends"]
    ids = [[20 + 7 * number, 31, 5 + number, 90] for number in range(4)]
    greedy, names = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}, ["a", None, "ends", "sent"]
    for asked in (names[:3], names[1:]):  # the slot of one that goes is the other's
        body = {"input_ids": ids[:3], "lora_path": asked, "sampling_params": greedy}
        for prompt, name, found in zip(ids, asked, stages.post("/generate", body).json(), strict=False):
            with torch.no_grad():
                logits = models[name](torch.tensor([prompt + found["output_ids"]])).logits[0]
            assert found["output_ids"] == logits.argmax(-1)[len(prompt) - 1 : -1].tolist(), name
    for name in ("a", "ends", "sent"):
        assert stages.post("/unload_lora_adapter", {"lora_name": name}).ok


def test_idle_stages_sleep(stages):
    ranks = stages.ranks()
    time.sleep(1)
    before = [sum(rank.cpu_times()[:2]) for rank in ranks]
    time.sleep(2)
    assert all(sum(rank.cpu_times()[:2]) - start < 0.5 for rank, start in zip(ranks, before, strict=True))


def test_a_killed_stage_ends_the_server_and_its_requests(stages):
    check_a_killed_rank_ends([stages])

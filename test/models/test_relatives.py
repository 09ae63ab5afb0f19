"""Configs as older checkpoints of Llama's shape have them: other spellings, absent keys, scaling by `type`."""

import json

import numpy as np
import pytest
import torch
from models.harness import Requests, assert_logits_close
from models.reference_models import reference_logits
from models.reference_models import save as save_statement
from models.tiny import TINY, save
from models.tiny import reference_logits as transformers_logits
from transformers import LlamaForCausalLM

SECONDS = 2
ABSENT = None
RELATIVES = {  # architecture, changes of config.json
    "Yi": ("llama", "LlamaForCausalLM", dict(rope_theta=5000.0, rope_scaling=ABSENT, pretraining_tp=1)),
    "Llama 1": ("llama-mha", "LLaMAForCausalLM", dict(num_key_value_heads=ABSENT, max_sequence_length=256)),
    "Vicuna 16k": ("llama-mha", "LlamaForCausalLM", dict(rope_scaling=dict(type="linear", factor=4.0))),
    "CodeLlama": ("llama", "LlamaForCausalLM", dict(rope_theta=1000.0, rope_scaling=ABSENT, mlp_bias=ABSENT)),
}
IDS = np.arange(30) * 7 % 131


@pytest.mark.parametrize("name", RELATIVES)
def test_older_configs_of_llamas_relatives_mean_what_they_mean_to_transformers(served, tmp_path, name):
    variant, architecture, changes = RELATIVES[name]
    folder = save(variant, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    changes = {"rope_parameters": ABSENT, "head_dim": ABSENT, "architectures": [architecture], **changes}
    config = {key: value for key, value in {**config, **changes}.items() if value is not ABSENT}
    (folder / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        wanted = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor(IDS)[None]).logits[0]
    found = Requests(served(folder, "transformers"), 4).step({"asked": IDS})
    assert_logits_close(found, {"asked": wanted.numpy()}, 1e-4)


def test_chatglm_is_also_known_by_the_name_that_its_fine_tuned_checkpoints_have(served, tmp_path):
    config = dict(TINY["chatglm"], architectures=["ChatGLMForConditionalGeneration"])
    found = Requests(served(save_statement(config, tmp_path), "a reference model, from its paper"), 4).step(
        {"asked": IDS}
    )
    assert_logits_close(found, {"asked": reference_logits(config, IDS)}, 1e-4)


@pytest.mark.parametrize(
    "variant, architecture",
    [
        ("ernie4_5", "Ernie4_5_ForCausalLM"),
        ("exaone_moe", "ExaoneMoEForCausalLM"),
        ("bailing_moe", "BailingMoEForCausalLM"),
        ("phimoe", "PhimoeForCausalLM"),
        ("llama", "IQuestCoderForCausalLM"),
        ("llama-bias", "XverseForCausalLM"),
    ],
)
def test_a_name_that_makers_or_sglang_write_otherwise_is_the_same_architecture(served, tmp_path, variant, architecture):
    folder = save(variant, tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(config))
    found = Requests(served(folder, "transformers"), 4).step({"asked": IDS})
    assert_logits_close(found, {"asked": transformers_logits(variant, IDS)}, 1e-4)

"""A model cut into pipeline stages gives what the whole one gives, and its stages have exactly its tensors."""

import numpy as np
import pytest
import torch
from models.harness import PagedModel, Requests, assert_logits_close
from models.parts import StagedModel, network_of
from models.test_logits import LIMITS, WAYS, prompts
from models.tiny import PLAIN, reference_logits, save
from safetensors.torch import load_file, save_file

from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.model_loader_ms import loader

SECONDS = 15

# Layers that end in different ways, tied and scaled heads, tensors by other names, latent caches, experts.
CUT = ["qwen3-tied", "llama", "olmo2", "gemma2", "cohere", "chatglm", "deepseek_v3", "qwen3_moe", "grok"]
CASES = [("cpu", variant) for variant in CUT] + [("reference", "qwen3-tied")]


@pytest.mark.parametrize("table, variant", CASES, indirect=["table"])
def test_two_stages_give_the_logits_of_hugging_face(table, variant, tmp_path):
    ids = prompts()
    found = WAYS["mixed_batch"](Requests(StagedModel(save(variant, tmp_path)), 4), ids)
    wanted = {request: reference_logits(variant, ids[request]) for request in found}
    assert_logits_close(found, wanted, LIMITS["float32"])


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
def test_stages_change_no_bit_of_an_answer(table, tmp_path):
    folder = save("qwen3", tmp_path, "bfloat16")
    whole, cut = PagedModel(folder, "bfloat16"), StagedModel(folder, dtype="bfloat16")
    found = [WAYS["chunks"](Requests(model, 4), prompts()) for model in (whole, cut)]
    for request, logits in found[0].items():
        np.testing.assert_array_equal(found[1][request], logits)


def values(network) -> dict:
    """What a loaded model has of each part of each tensor, by the checkpoint's names."""
    names = loader.Wanted(**network.checkpoint()).tensor_names()
    return {(item.source, str(item.read)): item.host.copy() for item in loader.tensors_of(network, names=names)}


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
@pytest.mark.parametrize("variant", [*PLAIN, "qwen3-tied"])
def test_stages_have_the_tensors_of_the_whole_model_and_each_only_its_own(table, variant, tmp_path):
    folder = save(variant, tmp_path)
    whole, first, last = (values(network_of(folder, stage)) for stage in (Stage(), Stage(0, 2), Stage(1, 2)))
    tied = network_of(folder, Stage()).config.tie_word_embeddings
    assert len(set(first) & set(last)) == tied  # the head is the embedding
    assert set(first) | set(last) == set(whole)
    for part, wanted in whole.items():
        for stage in (first, last):
            np.testing.assert_array_equal(stage.get(part, wanted), wanted)


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
def test_a_tensor_of_no_stage_is_still_unexpected(table, tmp_path):
    folder = save("qwen3", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.extra.weight"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    network_of(folder, Stage(0, 2))
    with pytest.raises(loader.CheckpointError, match=r"unexpected: model\.layers\.1\.extra\.weight"):
        network_of(folder, Stage(1, 2))

"""GGUF files of llama.cpp's own converter: tensors, config and logits are those of the checkpoints that they are of."""

import numpy as np
import pytest
import torch
from models import gguf_models
from models.harness import Requests, assert_logits_close
from models.test_logits import LIMITS, prompts
from models.tiny import hugging_face, reference_logits
from tiers import mostly_slow

from sglang.srt.model_loader_ms.gguf.folder import folder_of
from sglang.srt.model_loader_ms.gguf.header import read_header

SECONDS = 15, 40
# Permuted rows and experts; biases and windows; rope_freqs; norms plus one; parallel residuals; MXFP4's model; MLA.
QUICK = ("llama3", "qwen2_moe", "gemma3", "phi3-long", "stablelm-parallel", "gpt_oss", "deepseek_v3")


def test_there_is_a_file_of_each_model():
    assert sorted(path.stem for path in gguf_models.FILES.glob("*.gguf")) == sorted(gguf_models.MODELS)
    found = {read_header(path).metadata["general.architecture"] for path in gguf_models.FILES.glob("*.gguf")}
    served = "llama qwen2 qwen2moe qwen3 qwen3moe gemma gemma2 gemma3 phi3 stablelm gpt-oss deepseek2"
    assert found == set(served.split())


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", mostly_slow(gguf_models.MODELS, lambda name: name in QUICK))
def test_logits_of_a_converted_model_are_those_of_its_checkpoint(served, name, table, tmp_path):
    """Names, permutations and the config from the header at once. One step: others differ in what no file says."""
    model = served(folder_of(gguf_models.FILES / f"{name}.gguf", tmp_path), "transformers")
    variant, ids = gguf_models.variant(name), prompts()
    found = Requests(model, 4).step(ids)
    wanted = {request: reference_logits(variant, ids[request], "float16") for request in found}
    assert_logits_close(found, wanted, LIMITS["float32"])


@pytest.mark.parametrize("name", gguf_models.MODELS)
def test_weights_are_the_checkpoints(name):
    """Without a model in between: what a test of logits would miss is a tensor that is read twice."""
    from sglang.srt.model_loader_ms.checkpoint import Checkpoint

    found = Checkpoint(gguf_models.FILES / f"{name}.gguf").tensors
    wanted = hugging_face(gguf_models.variant(name), "float16").state_dict()
    same = [one for one in found if one in wanted]
    assert len(same) > 14
    for one in same:
        values = found[one].data[tuple(slice(None) for _ in found[one].shape)].float()
        error = (values - wanted[one].float()).abs().max()
        assert values.shape == wanted[one].shape
        assert error <= (1e-6 if "norm" in one else 0), one  # less one again: two roundings
    assert torch.is_tensor(values)
    assert np.isfinite(values.numpy()).all()

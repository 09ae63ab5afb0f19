"""An Engine on a checkpoint of DeepSeek V3's kind: latent cache, experts, float8 weights."""

import numpy as np
import pytest
import torch
from models.float8 import to_float8
from models.tiny import COMMON, save
from serving.conftest import Engine
from transformers import AutoModelForCausalLM

SECONDS = 15


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    source, *folders = (tmp_path_factory.mktemp(name) for name in ("source", "float8", "products"))
    to_float8(save("deepseek_v3", source), *folders)
    return folders


@pytest.fixture(scope="module")
def latent_engine(folders):
    engine = Engine(folders[0], skip_tokenizer_init=True, max_running_requests=8, page_size=4, chunked_prefill_size=48)
    yield engine
    engine.shutdown()


def test_chunks_batches_and_prefix_hits_answer_as_transformers(latent_engine, folders):
    model = AutoModelForCausalLM.from_pretrained(folders[1], dtype=torch.float32, experts_implementation="eager")
    generator = np.random.default_rng(3)
    prompts = [generator.integers(0, COMMON["vocab_size"], length).tolist() for length in (1, 90, 20)]
    prompts.append([*prompts[1][:60], *prompts[2]])  # begins as one before it
    greedy = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
    found = latent_engine.generate(input_ids=prompts, sampling_params=greedy)
    found += latent_engine.generate(input_ids=prompts[-1:], sampling_params=greedy)
    assert found[-1]["meta_info"]["cached_tokens"] > 40
    for prompt, answer in zip([*prompts, prompts[-1]], found, strict=True):
        ids = answer["output_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0]
        assert ids == logits.argmax(-1)[len(prompt) - 1 : -1].tolist()

"""A server of a quantized checkpoint with a key/value cache in float8, over HTTP; new codes for it; files of scales."""

import json

import pytest
import requests
import torch
from models import float8_cache
from models.test_quantized import FOLDER, damaged
from transformers import AutoConfig, AutoModelForCausalLM

from sglang.srt.model_executor_ms.runner import kv_scales

SECONDS = 12
NAME, DOWN = "W4A16", "model.layers.0.mlp.down_proj.weight"
SCALES, TOKENS = [0.03], 200000  # of the cache of each layer; tokens of the pool
GREEDY = dict(temperature=0, max_new_tokens=24, ignore_eos=True)
PROMPTS = [torch.randint(3, 160, (length,), generator=torch.Generator().manual_seed(length)) for length in (5, 90)]


def scales_file(folder, scales, **changed):
    """--quantization-param-path: rank -> scale of each layer."""
    factors = {rank: dict(enumerate(layers)) for rank, layers in enumerate(scales)}
    found = {"model_type": "qwen3", "kv_cache": {"dtype": "float8_e4m3fn", "scaling_factor": factors}} | changed
    path = folder / "scales.json"
    path.write_text(json.dumps(found))
    return str(path)


@pytest.fixture(scope="module")
def quantized_server(serve, tmp_path_factory):
    path = scales_file(tmp_path_factory.mktemp("scales"), [SCALES])
    cache = ("--kv-cache-dtype", "fp8_e4m3", "--quantization-param-path", path, "--max-total-tokens", str(TOKENS))
    return serve(FOLDER / NAME, "--skip-tokenizer-init", *cache)


def check_answers(server, folder) -> list:
    """Each token is the best one, but for rounding, of what transformers computes of the same -> all tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    given = {"input_ids": [prompt.tolist() for prompt in PROMPTS], "sampling_params": GREEDY}
    answers = [answer["output_ids"] for answer in server.post("/generate", given).json()]
    for prompt, ids in zip(PROMPTS, answers, strict=True):
        logits = float8_cache.logits(model, [*prompt.tolist(), *ids], [(scale, scale) for scale in SCALES])
        logits = logits[len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(ids)[:, None])[:, 0]
        assert (chosen >= logits.max(-1).values - 1e-2 * logits.abs().max()).all()
    return answers


def test_answers_are_those_of_transformers_with_a_rounded_cache(quantized_server):
    check_answers(quantized_server, FOLDER / NAME)
    config = AutoConfig.from_pretrained(FOLDER / NAME)
    values = TOKENS * config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim
    state = requests.get(f"{quantized_server.url}/server_info", timeout=60).json()["internal_states"][0]
    assert state["memory_usage"]["kvcache"] == pytest.approx(values / 2**30, abs=0.006)  # GB, a byte each


def test_codes_are_updated_whole_or_not_at_all(quantized_server, tmp_path):
    before = check_answers(quantized_server, FOLDER / NAME)
    folders = [tmp_path / name for name in ("other", "cut")]
    for folder in folders:
        folder.mkdir()

    def other(tensors):
        tensors[DOWN + "_packed"] = tensors[DOWN + "_packed"].roll(1, 0)
        tensors[DOWN + "_scale"] *= 1.5

    def cut(tensors):
        tensors[DOWN + "_packed"] = tensors[DOWN + "_packed"][:-8].clone()

    damaged(NAME, folders[0], other), damaged(NAME, folders[1], cut)
    refused = quantized_server.post("/update_weights_from_disk", {"model_path": str(folders[1])})
    assert refused.status_code == 400
    assert f"{DOWN}_packed" in refused.json()["message"] and "wrong shape" in refused.json()["message"]
    assert check_answers(quantized_server, FOLDER / NAME) == before
    assert quantized_server.post("/update_weights_from_disk", {"model_path": str(folders[0])}).json()["success"]
    assert check_answers(quantized_server, folders[0]) != before


@pytest.mark.parametrize(
    "scales, changed, said",
    [
        ([[0.1]] * 2, {}, "TP size 2 .* TP size 1"),
        ([[0.1] * 2], {}, "Expected 1 layers, got 2"),
        ([[0.1]], {"model_type": "llama"}, "model type is qwen3 but .* llama"),
        ([[0.0]], {}, "layer 0 of rank 0: 0.0"),
        ([[-1.0]], {}, "layer 0 of rank 0: -1.0"),
        ([[0.1]], {"kv_cache": 3}, "kv_cache: Input should be an object"),
    ],
)
def test_files_of_other_models_and_ranks_are_refused_by_name(tmp_path, scales, changed, said):
    path, config = scales_file(tmp_path, scales, **changed), AutoConfig.from_pretrained(FOLDER / NAME)
    with pytest.raises(kv_scales.WrongScales, match=f"(?si)--quantization-param-path {path}: .*{said}"):
        kv_scales.check(path, "fp8_e4m3", config, 1)


def test_files_that_nothing_or_two_models_would_read_are_refused(tmp_path):
    path, config = scales_file(tmp_path, [SCALES]), AutoConfig.from_pretrained(FOLDER / NAME)
    with pytest.raises(kv_scales.WrongScales, match="give --kv-cache-dtype fp8_e4m3"):
        kv_scales.check(path, "auto", config, 1)
    with pytest.raises(kv_scales.WrongScales, match="and some/draft has a cache too: leave it out"):
        kv_scales.check(path, "fp8_e4m3", config, 1, "some/draft")
    with pytest.raises(kv_scales.WrongScales, match="No such file"):
        kv_scales.check(path + "x", "fp8_e4m3", config, 1)

"""Checkpoints of int4 and of int8 with static activations on an NPU, through SGLang's Engine, on kernels that check.

In float32: a row in float16 would often be rounded to another step of int8.
"""

import numpy as np
import pytest
import torch
from ascend.exact_codes import FOLDER as CALLED
from models.test_quantized import FOLDER, limit, stated
from serving.warm import BEFORE

SECONDS = 10
KERNELS = {"W4A16_ASYM": "weight_quant_matmul", "W8A8_static": "quant_matmul"}
NEW_TOKENS = 6


@pytest.fixture(params=KERNELS)
def name(request):
    return request.param


@pytest.fixture
def engine(monkeypatch, start_engine, tmp_path, name):
    monkeypatch.setenv("SGLANG_MS_OPS", "ascend_reference")
    monkeypatch.setenv(BEFORE, "ascend.exact_codes")
    monkeypatch.setenv(CALLED, str(tmp_path))
    return start_engine(FOLDER / name, skip_tokenizer_init=True, dtype="float32", page_size=16, max_total_tokens=1024)


def test_logprobs_are_those_of_the_makers_code(engine, name, tmp_path):
    """Prompts of one, 13 and 40 tokens, the last one in chunks; then decoding, whose places are also a prompt's."""
    ids, wanted = stated(name)
    sampling = {"temperature": 0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
    asked = dict(return_logprob=True, logprob_start_len=0)
    prompts = [ids[request].tolist() for request in ids]
    answers = engine.generate(input_ids=prompts, sampling_params=sampling, **asked)
    for prompt, logits, answer in zip(prompts, wanted.values(), answers, strict=True):
        most = 2 * limit(name) * np.abs(logits).max()  # of two values: the logit, and the sum of all of them
        logprobs = torch.from_numpy(logits).log_softmax(-1).numpy()
        given = told(answer, "input")
        np.testing.assert_allclose(given, logprobs[np.arange(len(prompt) - 1), prompt[1:]], atol=most)
        first, *_ = answer["output_ids"]
        assert logits[-1, first] > logits[-1].max() - most
        again = engine.generate(
            input_ids=[*prompt, *answer["output_ids"]], sampling_params=sampling | {"max_new_tokens": 1}, **asked
        )
        np.testing.assert_allclose(told(answer, "output"), told(again, "input")[len(prompt) - 1 :], atol=most)
    assert [file.name for file in tmp_path.iterdir()] == [KERNELS[name]]


def told(answer, which) -> list[float]:
    """Logprobs of its tokens; of an input's without the first one, of which nothing says how likely it is."""
    return [logprob for logprob, *_ in answer["meta_info"][f"{which}_token_logprobs"] if logprob is not None]

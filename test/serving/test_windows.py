"""Models with sliding windows through SGLang's engine, whatever SGLang makes of their configs.

Gemma 3 has two rotary tables; of gpt-oss, SGLang would keep the layers with a window in a pool of their own.
"""

import numpy as np
import pytest
import torch
from models.tiny import reference_logits, save
from serving.conftest import Engine

PROMPTS = [[5, 90, 17], list(range(5, 85, 2))]  # shorter and longer than the window of 9
NEW_TOKENS = 12


@pytest.mark.parametrize("variant", ["gemma3", "gpt_oss"])
def test_logprobs_and_greedy_tokens_are_hugging_faces(tmp_path, variant):
    folder = save(variant, tmp_path)
    engine = Engine(folder, skip_tokenizer_init=True, max_running_requests=4, chunked_prefill_size=16)
    greedy = dict(temperature=0, max_new_tokens=NEW_TOKENS, ignore_eos=True)
    try:
        answers = engine.generate(input_ids=PROMPTS, sampling_params=greedy, return_logprob=True, logprob_start_len=0)
    finally:
        engine.shutdown()
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = [*prompt, *answer["output_ids"]]
        wanted = torch.from_numpy(reference_logits(variant, ids)).log_softmax(-1).numpy()
        meta = answer["meta_info"]
        found = [logprob for logprob, *_ in (*meta["input_token_logprobs"][1:], *meta["output_token_logprobs"])]
        np.testing.assert_allclose(found, wanted[np.arange(len(ids) - 1), ids[1:]], atol=1e-3)
        np.testing.assert_array_equal(answer["output_ids"], wanted.argmax(-1)[len(prompt) - 1 : -1])

"""--ep-size 2 with --tp-size 2, in two pipeline stages: a mixture of experts answers as transformers do."""

import numpy as np
import pytest
import torch
from models.tiny import TINY, reference_logits, save
from serving.conftest import Engine

NAME = "qwen3_moe-even"  # 8 experts, which two ranks divide; the variant has 9
PROMPTS = [[5, 90, 17], list(range(5, 85, 2))]
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY, NAME, dict(TINY["qwen3_moe"], num_experts=8, moe_intermediate_size=37))
        yield save(NAME, tmp_path_factory.mktemp("moe"))


def test_ranks_that_hold_half_of_the_experts_give_hugging_faces_logprobs_and_tokens(folder):
    # 37 rows of an expert cannot be cut in two: experts must be divided, not cut.
    engine = Engine(folder, tp_size=2, ep_size=2, pp_size=2, skip_tokenizer_init=True, max_running_requests=4)
    greedy = dict(temperature=0, max_new_tokens=NEW_TOKENS, ignore_eos=True)
    try:
        answers = engine.generate(input_ids=PROMPTS, sampling_params=greedy, return_logprob=True, logprob_start_len=0)
    finally:
        engine.shutdown()
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = [*prompt, *answer["output_ids"]]
        wanted = torch.from_numpy(reference_logits(NAME, ids)).log_softmax(-1).numpy()
        meta = answer["meta_info"]
        found = [logprob for logprob, *_ in (*meta["input_token_logprobs"][1:], *meta["output_token_logprobs"])]
        np.testing.assert_allclose(found, wanted[np.arange(len(ids) - 1), ids[1:]], atol=1e-3)
        np.testing.assert_array_equal(answer["output_ids"], wanted.argmax(-1)[len(prompt) - 1 : -1])

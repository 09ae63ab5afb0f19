"""A model whose logits are scaled, through SGLang's engine: its LogitsProcessor sees them scaled, once."""

import numpy as np
import torch
from models.tiny import reference_logits, save
from serving.conftest import Engine


def test_cohere_gives_hugging_faces_logprobs_and_greedy_tokens(tmp_path):
    engine = Engine(save("cohere", tmp_path), skip_tokenizer_init=True, max_running_requests=4)
    prompt, greedy = list(range(5, 85, 2)), dict(temperature=0, max_new_tokens=8, ignore_eos=True)
    try:
        answer = engine.generate(input_ids=prompt, sampling_params=greedy, return_logprob=True, logprob_start_len=0)
    finally:
        engine.shutdown()
    ids, meta = [*prompt, *answer["output_ids"]], answer["meta_info"]
    wanted = torch.from_numpy(reference_logits("cohere", ids)).log_softmax(-1).numpy()
    found = [logprob for logprob, *_ in (*meta["input_token_logprobs"][1:], *meta["output_token_logprobs"])]
    np.testing.assert_allclose(found, wanted[np.arange(len(ids) - 1), ids[1:]], atol=1e-4)
    np.testing.assert_array_equal(answer["output_ids"], wanted.argmax(-1)[len(prompt) - 1 : -1])

"""Models with sliding windows through SGLang's engine, whatever SGLang makes of their configs.

Gemma 3 has two rotary tables; of gpt-oss, SGLang would keep the layers with a window in a pool of their own.
"""

import pytest
from models.tiny import save
from serving.answers import answered, check_answers
from serving.conftest import Engine


@pytest.mark.parametrize("variant", ["gemma3", "gpt_oss"])
def test_logprobs_and_greedy_tokens_are_hugging_faces(tmp_path, variant):
    folder = save(variant, tmp_path)
    engine = Engine(folder, skip_tokenizer_init=True, max_running_requests=4, chunked_prefill_size=16)
    try:
        check_answers(answered(engine), variant, 1e-3)
    finally:
        engine.shutdown()

"""A model whose logits are scaled, through SGLang's engine: its LogitsProcessor sees them scaled, once."""

from models.tiny import save
from serving.answers import answered, check_answers
from serving.conftest import Engine
from tiers import SLOW

SECONDS = 1, 12


@SLOW
def test_cohere_gives_hugging_faces_logprobs_and_greedy_tokens(tmp_path):
    engine = Engine(save("cohere", tmp_path), skip_tokenizer_init=True, max_running_requests=4)
    try:
        check_answers(answered(engine), "cohere", 1e-4)
    finally:
        engine.shutdown()

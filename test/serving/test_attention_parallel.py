"""--enable-dp-attention on a CPU: replicas of attention with requests of their own, experts for all their tokens."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from models.tiny import TINY, reference_logits, save
from serving.conftest import Engine, Server

NAME = "deepseek_v3-even"  # with sizes that two ranks divide
NEW_TOKENS = 10
GREEDY = dict(temperature=0, max_new_tokens=NEW_TOKENS, ignore_eos=True)


def assert_as_hugging_face(name, prompt, answer):
    ids = [*prompt, *answer["output_ids"]]
    wanted = torch.from_numpy(reference_logits(name, ids)).log_softmax(-1).numpy()
    meta = answer["meta_info"]
    found = [logprob for logprob, *_ in (*meta["input_token_logprobs"][1:], *meta["output_token_logprobs"])]
    np.testing.assert_allclose(found, wanted[np.arange(len(ids) - 1), ids[1:]], atol=1e-3)
    np.testing.assert_array_equal(answer["output_ids"], wanted.argmax(-1)[len(prompt) - 1 : -1])


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY, NAME, TINY["deepseek_v3"])
        folder = save(NAME, tmp_path_factory.mktemp("moe"))
        sizes = dict(tp_size=2, dp_size=2, ep_size=2, enable_dp_attention=True)
        limits = dict(
            max_running_requests=8, chunked_prefill_size=64
        )  # 32 tokens of a prompt at a time on each replica
        engine = Engine(folder, skip_tokenizer_init=True, **sizes, **limits)
        yield engine
        engine.shutdown()


def ask(engine, prompts, **where):
    found = engine.generate(
        input_ids=prompts, sampling_params=GREEDY, return_logprob=True, logprob_start_len=0, **where
    )
    for prompt, answer in zip(prompts, found, strict=True):
        assert_as_hugging_face(NAME, prompt, answer)


@pytest.mark.parametrize("replica", [0, 1])
def test_a_replica_answers_while_the_other_is_idle(engine, replica):
    ask(engine, [[5, 90, 17, 3 + replica]], routed_dp_rank=replica)


def test_replicas_with_prompts_of_other_lengths_answer_at_once(engine):
    ask(engine, [list(range(5 + i, 5 + i + length)) for i, length in enumerate((2, 70, 9, 1, 41))])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The demo model on four ranks: two replicas of two ranks each, which score the tokens of their replica."""
    sizes = ("--tp-size", "4", "--attn-dp-size", "2", "--enable-dp-lm-head", "--max-total-tokens", "2048")
    server = Server(tmp_path_factory.mktemp("four") / "log", *sizes)
    try:
        yield server.await_ready()
    finally:
        server.stop()


def test_replicas_of_several_ranks_answer_as_transformers_does(server, reference):
    ids = [reference.tokenizer(prompt).input_ids for prompt in ("Return the", "def main(self):\n", "The first")]
    bodies = [
        {"input_ids": each, "sampling_params": GREEDY | {"ignore_eos": False}, "routed_dp_rank": replica}
        for each, replica in zip(ids, (0, 1, 0), strict=True)
    ]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda body: server.post("/generate", body).json(), bodies))
    assert [answer["output_ids"] for answer in answers] == [reference.greedy(each, NEW_TOKENS) for each in ids]

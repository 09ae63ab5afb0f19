"""--enable-dp-attention on a CPU: replicas of attention with requests of their own, experts for all their tokens."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from models.tiny import COMMON, TINY, divisible, save
from serving.answers import asked, check_answers, request
from serving.conftest import Engine, Server, free_port

SIZES = dict(tp_size=2, dp_size=2, enable_dp_attention=True, skip_tokenizer_init=True)
SIZES |= dict(max_running_requests=8, chunked_prefill_size=16)
EVEN = {  # sizes that two ranks divide; of Qwen3 MoE they divide the experts, of DeepSeek V3 they cut each of them
    "qwen3_moe-two": dict(TINY["qwen3_moe"], num_experts=8, moe_intermediate_size=37),
    "deepseek_v3-two": divisible(TINY["deepseek_v3"]),
}
FOUR = "qwen3-four"
UNEVEN = [list(range(5 + i, 5 + i + length)) for i, length in enumerate((2, 70, 9, 1, 41))]  # in chunks of 8 tokens


@pytest.fixture(scope="module", params=[("qwen3_moe-two", 2), ("deepseek_v3-two", 1)], ids=lambda param: param[0])
def replicas(request, tmp_path_factory):
    """An engine of two replicas, and the name of its model."""
    name, expert_size = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY, name, EVEN[name])
        # SGLang takes ports of its controller and schedulers from this one's neighbourhood.
        folder, port = save(name, tmp_path_factory.mktemp(name)), free_port()
        engine = Engine(folder, ep_size=expert_size, port=port, **SIZES)
        yield engine, name
        engine.shutdown()


def check(replicas, prompts, **where):
    engine, name = replicas
    check_answers(engine.generate(**request(10, prompts), **where), name, 1e-4, prompts)


def test_a_replica_answers_while_the_other_is_idle(replicas):
    for replica in (0, 1):
        check(replicas, [[5, 90, 17, 3 + replica]], routed_dp_rank=replica)


def test_replicas_with_prompts_of_other_lengths_answer_at_once(replicas):
    check(replicas, UNEVEN)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Four ranks: two replicas of two ranks each, which score the tokens of their replica."""
    sizes = ["--tp-size", "4", "--attn-dp-size", "2", "--enable-dp-lm-head", "--max-total-tokens", "2048"]
    sizes += ["--skip-tokenizer-init", "--chunked-prefill-size", "16"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY, FOUR, dict(divisible(TINY["qwen3"]), vocab_size=COMMON["vocab_size"] // 4 * 4 + 4))
        folder = tmp_path_factory.mktemp("four")
        server = Server(folder / "log", *sizes, model=save(FOUR, folder / "model"))
        try:
            yield server.await_ready()
        finally:
            server.stop()


def test_replicas_of_several_ranks_answer_as_transformers_does(server):
    check_answers(asked(server, 10, UNEVEN), FOUR, 1e-4, UNEVEN)
    prompts = [[5, 90, 17], UNEVEN[1], [44]]
    bodies = [request(10, each) | {"routed_dp_rank": replica} for each, replica in zip(prompts, (0, 1, 0), strict=True)]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda body: server.post("/generate", body).json(), bodies))
    check_answers(answers, FOUR, 1e-4, prompts)

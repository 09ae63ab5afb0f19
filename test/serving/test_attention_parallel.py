"""--enable-dp-attention on a CPU: replicas of attention with requests of their own, experts for all their tokens."""

import pytest
from models.tiny import TINY, divisible, save
from serving.answers import check_answers, request
from serving.conftest import Engine, free_port

SIZES = dict(tp_size=2, dp_size=2, enable_dp_attention=True, skip_tokenizer_init=True)
SIZES |= dict(max_running_requests=8, chunked_prefill_size=16)
EVEN = {  # sizes that two ranks divide; of Qwen3 MoE they divide the experts, of DeepSeek V3 they cut each of them
    "qwen3_moe-two": dict(TINY["qwen3_moe"], num_experts=8, moe_intermediate_size=37),
    "deepseek_v3-two": divisible(TINY["deepseek_v3"]),
}
UNEVEN = [list(range(5 + i, 5 + i + length)) for i, length in enumerate((2, 70, 9, 1, 41))]  # in chunks of 8 tokens


@pytest.fixture(
    scope="module", params=[("qwen3_moe-two", 2, False), ("deepseek_v3-two", 1, True)], ids=lambda param: param[0]
)
def replicas(request, tmp_path_factory):
    """An engine of two replicas, and the name of its model."""
    name, expert_size, own_head = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY, name, EVEN[name])
        # SGLang takes ports of its controller and schedulers from this one's neighbourhood.
        folder, port = save(name, tmp_path_factory.mktemp(name)), free_port()
        engine = Engine(folder, ep_size=expert_size, enable_dp_lm_head=own_head, port=port, **SIZES)
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

"""--enable-dp-attention on a CPU: replicas of attention with requests of their own, experts for all their tokens."""

import pytest
from models.tiny import TINY, divisible, save
from serving.answers import check_answers, request
from serving.conftest import free_port

SIZES = dict(enable_dp_attention=True, skip_tokenizer_init=True, max_running_requests=8, chunked_prefill_size=16)
EVEN = {  # of DeepSeek V3 ranks cut each expert, of the others they divide them
    "qwen3_moe-two": dict(TINY["qwen3_moe"], num_experts=8, moe_intermediate_size=37),
    "qwen3_moe-four": divisible(TINY["qwen3_moe"]),  # two key/value heads, of which a replica's ranks have one each
    "deepseek_v3-two": divisible(TINY["deepseek_v3"]),
    "deepseek_v3-four": divisible(TINY["deepseek_v3"]),
}
KINDS = {  # ranks, replicas; a part of the experts on so many of them; whether each replica has a head
    "qwen3_moe-two": dict(tp_size=2, dp_size=2, ep_size=2),
    "qwen3_moe-four": dict(tp_size=4, dp_size=2, ep_size=4),
    "deepseek_v3-two": dict(tp_size=2, dp_size=2, enable_dp_lm_head=True),
    "deepseek_v3-four": dict(tp_size=4, dp_size=2, ep_size=2, enable_dp_lm_head=True),
}
UNEVEN = [list(range(5 + i, 5 + i + length)) for i, length in enumerate((2, 70, 9, 1, 41))]  # in chunks of 8 tokens


@pytest.fixture(scope="module", params=KINDS)
def replicas(request, start_engine, tmp_path_factory):
    """An engine of two replicas, and the name of its model."""
    name = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY, name, EVEN[name])
        folder = save(name, tmp_path_factory.mktemp(name))
        # SGLang takes ports of its controller and schedulers from this one's neighbourhood.
        yield start_engine(folder, port=free_port(), **KINDS[name], **SIZES), name


def check(replicas, prompts, **where):
    engine, name = replicas
    check_answers(engine.generate(**request(10, prompts), **where), name, 1e-4, prompts)


def test_a_replica_answers_while_the_other_is_idle(replicas):
    for replica in (0, 1):
        check(replicas, [[5, 90, 17, 3 + replica]], routed_dp_rank=replica)


def test_replicas_with_prompts_of_other_lengths_answer_at_once(replicas):
    check(replicas, UNEVEN)

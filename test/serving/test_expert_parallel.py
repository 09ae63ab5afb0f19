"""--ep-size 2 with --tp-size 2, in two pipeline stages: a mixture of experts answers over HTTP as transformers do."""

import pytest
from models.tiny import TINY, save
from serving.answers import asked, check_answers
from tiers import SLOW

SECONDS = 1, 60
NAME = "qwen3_moe-even"  # 8 experts, which two ranks divide; the variant has 9
RANKS = ("--tp-size", "2", "--ep-size", "2", "--pp-size", "2", "--skip-tokenizer-init", "--max-running-requests", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY, NAME, dict(TINY["qwen3_moe"], num_experts=8, moe_intermediate_size=37))
        yield save(NAME, tmp_path_factory.mktemp("moe"))


@SLOW  # test_attention_parallel.py and test_expert_location.py serve parts of experts, and test_hosts.py stages
def test_ranks_that_hold_half_of_the_experts_give_hugging_faces_logprobs_and_tokens(serve, folder):
    # 37 rows of an expert cannot be cut in two: experts must be divided, not cut.
    check_answers(asked(serve(folder, *RANKS)), NAME, 1e-4)

"""Seeds of a server and of single requests: the same seed samples the same tokens, another one others."""

import pytest
from serving.conftest import MODEL

SECONDS = 25
SAMPLED = dict(temperature=1.0, max_new_tokens=24, ignore_eos=True)


def test_a_server_with_the_same_random_seed_samples_the_same_tokens_and_another_one_others(start_engine):
    found = []
    for seed in (7, 7, 8):
        engine = start_engine(MODEL, random_seed=seed, max_running_requests=None, chunked_prefill_size=None)
        found.append(engine.generate("The list", SAMPLED)["output_ids"])
    assert found[0] == found[1] != found[2]


@pytest.fixture(scope="module")
def seeded_engine(start_engine):
    return start_engine(MODEL, enable_deterministic_inference=True)


@pytest.mark.parametrize("filters", [dict(), dict(top_p=0.95, top_k=50)])
def test_a_request_with_a_seed_samples_the_same_tokens_whatever_runs_beside_it(seeded_engine, filters):
    # SGLang's sampler sorts tokens for a batch in which any request has a filter, and draws by their places then: what
    # runs beside a request has to have one if it has one.
    prompts = ["The list", "Return the", "The list", "The list"]
    asked = [dict(SAMPLED, sampling_seed=seed, **filters) for seed in (11, 11, 11, 12)]
    first, _, again, other = (answer["output_ids"] for answer in seeded_engine.generate(prompts, asked))
    assert first == again != other
    assert seeded_engine.generate("The list", asked[0])["output_ids"] == first
    assert seeded_engine.generate("The list", asked[3])["output_ids"] == other


@pytest.mark.parametrize("seed", [dict(), dict(sampling_seed=11)])
def test_several_answers_with_one_seed_differ_and_are_the_same_the_next_time(seeded_engine, seed):
    found = [
        [answer["output_ids"] for answer in seeded_engine.generate("The list", dict(SAMPLED, n=4, **seed))]
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert len({tuple(ids) for ids in found[0]}) == 4

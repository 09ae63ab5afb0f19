"""Models whose layers keep a state, on the path of an NPU, through SGLang's Engine on kernels that check."""

import numpy as np
import pytest
from models.tiny import PUBLISHED_CONFIGS, PUBLISHED_TENSORS, TINY, save
from serving.test_ascend_blockwise import DTYPE, assert_close
from tiers import mostly_slow

SECONDS = 17, 47
KIMI = "kimi_linear-all"  # whom a token goes to may change with the last bits: to all experts
VARIANTS = ["qwen3_5@32", f"{KIMI}@16", "lfm2@h96", "granitemoehybrid@h96"]
VARIANTS = mostly_slow(VARIANTS, lambda variant: variant == "qwen3_5@32")


@pytest.fixture(autouse=True)
def all_experts(monkeypatch):
    for table in (TINY, PUBLISHED_CONFIGS, PUBLISHED_TENSORS):
        monkeypatch.setitem(table, KIMI, table["kimi_linear"])
    monkeypatch.setitem(TINY, KIMI, TINY[KIMI] | dict(num_experts_per_token=TINY[KIMI]["num_experts"]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_prompts_share_a_beginning_and_requests_take_turns_on_slots(monkeypatch, start_engine, tmp_path, variant):
    monkeypatch.setenv("SGLANG_MS_OPS", "ascend_reference")
    engine = start_engine(
        save(variant, tmp_path, DTYPE),
        skip_tokenizer_init=True,
        dtype=DTYPE,
        page_size=16,
        chunked_prefill_size=128,
        max_total_tokens=2048,
        max_mamba_cache_size=20,  # for four requests at a time
        mamba_track_interval=64,
        cuda_graph_bs_decode=[2, 4],
    )
    generator = np.random.default_rng(5)

    def prompts(*lengths):
        return [generator.integers(0, TINY[variant.partition("@")[0]]["vocab_size"], one).tolist() for one in lengths]

    (shared,) = prompts(150)
    asked = [[*shared, *rest] for rest in prompts(21, 9, 1)] + prompts(70, 3, 40)
    sampled = dict(sampling_params=dict(temperature=0, max_new_tokens=24, ignore_eos=True), return_logprob=True)
    answers = engine.generate(input_ids=asked[:1], **sampled) + engine.generate(input_ids=asked[1:], **sampled)
    cached = [answer["meta_info"]["cached_tokens"] for answer in answers]
    assert cached[0] == 0 and min(cached[1:3]) >= 128 and not any(cached[3:])
    for prompt, answer in zip(asked, answers, strict=True):
        assert_close(variant, prompt, answer)
    # A state within an answer is kept too, where one more prompt goes on from.
    longer = [*asked[0], *answers[0]["output_ids"], 7, 8]
    (again,) = engine.generate(input_ids=[longer], **sampled)
    assert again["meta_info"]["cached_tokens"] >= 192
    assert_close(variant, longer, again)

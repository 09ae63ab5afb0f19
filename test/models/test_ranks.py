"""Every architecture on several ranks: what one process says, to 1e-4, and the same greedy tokens."""

import functools
import json

import numpy as np
import pytest
from distributed.pool import Layout, Pool
from models import pooled
from models.tiny import save
from models.variants import older
from scipy.special import log_softmax
from tiers import mostly_slow

from sglang.srt.models_ms.registry import MODELS, model_class

SECONDS = 25, 300

# Ten places for eight experts, others in each layer. Where a layout has them they move to those of other layers.
PLACES = tuple(tuple(np.random.default_rng(layer).permutation([*range(8), layer, 3]).tolist()) for layer in range(4))
LAYOUTS = {
    "TP 2": Layout(tp=2),
    "TP 4": Layout(tp=4),  # more ranks than key/value heads
    "PP 2": Layout(pp=2),
    "TP 2 x PP 2": Layout(tp=2, pp=2),
    "EP 2": Layout(tp=2, ep=2),
    "EP 2 of TP 4": Layout(tp=4, ep=2),
    "EP 2 with replicas": Layout(tp=2, ep=2, places=PLACES),
    "EP 2, dispatch": Layout(tp=2, ep=2, dispatch=True),
    # Steps in which both replicas have tokens, not as many, and in which one of them has none.
    "attention DP 2": Layout(tp=2, attn_dp_size=2),
    "attention DP 2 of TP 4": Layout(tp=4, attn_dp_size=2),
    "attention DP 2, EP 2": Layout(tp=2, ep=2, attn_dp_size=2),
    "attention DP 2, EP 2 with replicas, dispatch": Layout(tp=2, ep=2, attn_dp_size=2, places=PLACES, dispatch=True),
    "attention DP 2, EP 4, dispatch": Layout(tp=4, ep=4, attn_dp_size=2, dispatch=True),
}
DENSE = ["llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "stablelm", "cohere"]
DENSE += ["cohere2", "granite", "olmo2", "glm", "glm4", "minicpm", "minicpm3", "internlm2", "internlm3", "qwen"]
DENSE += ["exaone", "exaone4", "phi3", "chatglm", "baichuan", "baichuan-13b"]
DENSE += ["seed_oss", "smollm3", "ernie4_5", "cwm", "vaultgemma"]
DENSE += ["arcee", "apertus", "starcoder2", "olmo", "hunyuan_v1_dense", "ministral3", "mimo", "phi", "youtu"]
EXPERTS = ["mixtral", "dbrx", "deepseek", "deepseek_v2", "deepseek_v3", "grok", "grok-residual", "gpt_oss"]
EXPERTS += ["qwen2_moe", "qwen3_moe", "olmoe", "glm4_moe"]
EXPERTS += ["dots1", "solar_open", "exaone_moe", "minimax_m2", "ernie4_5_moe", "flex_olmo", "granitemoe"]
EXPERTS += ["granitemoeshared", "glm4_moe_lite", "deepseek_v32", "glm_moe_dsa"]
EXPERTS += ["afmoe", "hunyuan_v1_moe", "hy_v3", "mellum", "bailing_moe", "bailing_moe_v2"]
DENSE += ["lfm2", "qwen3_5", "falcon_h1"]
EXPERTS += ["granitemoehybrid-experts", "lfm2_moe", "qwen3_next", "qwen3_5_moe"]
DENSE += ["falcon_h1-norm", "nemotron_h"]
EXPERTS += ["nemotron_h-latent", "kimi_linear", "phimoe", "mistral4", "mistral-large-3", "step3p5"]
EXPERTS += ["cohere2_moe"]
DENSE += older.PLAIN[:-1]
EXPERTS += older.PLAIN[-1:]
STATES = ["granitemoehybrid-experts", "falcon_h1", "falcon_h1-norm"]  # in no attention DP
STATES += ["kimi_linear", "nemotron_h", "nemotron_h-latent", "lfm2", "qwen3_5", "lfm2_moe", "qwen3_next", "qwen3_5_moe"]
VARIANTS = [f"{name}@ranks" for name in (*DENSE, *EXPERTS)]
# Other names of an architecture: a checkpoint differs in that name.
SAME = {
    "LLaMAForCausalLM": "LlamaForCausalLM",
    "ChatGLMForConditionalGeneration": "ChatGLMModel",
    "Ernie4_5_ForCausalLM": "Ernie4_5ForCausalLM",
    "ExaoneMoEForCausalLM": "ExaoneMoeForCausalLM",
    "BailingMoEForCausalLM": "BailingMoeForCausalLM",
    "IQuestCoderForCausalLM": "LlamaForCausalLM",
    "PhimoeForCausalLM": "PhiMoEForCausalLM",
    "XverseForCausalLM": "LlamaForCausalLM",
}
CASES = [(name, layout) for name in VARIANTS for layout in LAYOUTS if "EP" not in layout or name[:-6] in EXPERTS]
CASES = [(name, layout) for name, layout in CASES if "DP" not in layout or name[:-6] not in STATES]
CASES += [("gemma4-shared@ranks", "TP 2"), ("gemma3n@ranks", "TP 2")]  # the text of models that see
CASES += [("gemma4-experts@ranks", layout) for layout in ("TP 2", "EP 2", "EP 2, dispatch", "attention DP 2")]
KINDS = {  # of weights and of layers: in which layouts `make test` has them, beside "TP 2"
    "qwen3": LAYOUTS,
    "qwen3_moe": LAYOUTS,
    "deepseek_v3": ("TP 4", "PP 2", "TP 2 x PP 2", "EP 2, dispatch", "attention DP 2", "attention DP 2 of TP 4"),
    "gpt_oss": ("TP 4", "EP 2 with replicas", "attention DP 2, EP 2"),
    "olmo2": ("TP 4",),  # norms over the heads of all ranks
    "gemma2": ("PP 2", "attention DP 2"),
    "chatglm": ("TP 4", "PP 2"),
    "gpt2": ("PP 2",),  # places of tokens, which the first stage has
    "granitemoehybrid-experts": ("PP 2",),
    "falcon_h1-norm": ("TP 4",),  # more ranks than groups of heads
    "qwen3_next": ("TP 4", "PP 2"),
}


def first_of_its_kind(variant, layout):
    kind = variant.removesuffix("@ranks")
    return kind in KINDS and layout in ("TP 2", *KINDS[kind])


@pytest.fixture(scope="module")
def pool():
    pool = Pool(4)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return functools.cache(lambda variant: save(variant, tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def meeting(tmp_path_factory):
    return tmp_path_factory.mktemp("meeting") / "file"


@pytest.fixture(scope="module")
def alone(pool, checkpoint):
    return functools.lru_cache(1)(lambda variant: pool.alone(checkpoint(variant)))


def test_every_architecture_that_generates_is_here(checkpoint):
    found = {json.loads((checkpoint(variant) / "config.json").read_text())["architectures"][0] for variant in VARIANTS}
    assert found | set(SAME) == {name for name, model in MODELS.items() if model.generates and not model.sees}
    for name, other in SAME.items():
        assert issubclass(model_class([name]), model_class([other]))


def check(found, wanted):
    vocab_size = wanted[0].shape[1]
    for number, (rows, expected) in enumerate(zip(found, wanted, strict=True)):
        where = f"step {number} of {len(wanted)}"
        rows, expected = log_softmax(rows[:, :vocab_size], -1), log_softmax(expected, -1)
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-4, err_msg=where)
        np.testing.assert_array_equal(rows.argmax(-1), expected.argmax(-1), err_msg=where)


@pytest.mark.parametrize("variant, layout", mostly_slow(CASES, first_of_its_kind))
def test_ranks_say_what_one_process_says(pool, checkpoint, alone, meeting, variant, layout):
    steps, wanted = alone(variant)
    check(pool.together(checkpoint(variant), LAYOUTS[layout], steps), wanted)
    if LAYOUTS[layout].places:
        pool.move(LAYOUTS[layout], PLACES[::-1], meeting)
        check(pool.again(LAYOUTS[layout], steps), wanted)


IN_CHUNKS = [name for name in pooled.KINDS if name not in pooled.WHOLE]  # as the pool's steps are


@pytest.mark.parametrize("architecture", mostly_slow(IN_CHUNKS, lambda name: name == "Qwen3Model"))
def test_ranks_give_the_hidden_states_that_one_process_gives_to_be_pooled(pool, tmp_path, architecture):
    folder = pooled.save(architecture, tmp_path)
    steps, wanted = pool.alone(folder, hidden_states=True)
    found = pool.together(folder, Layout(tp=2), steps, hidden_states=True)
    for rows, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-4 * np.abs(expected).max())

"""Every architecture of the registry through SGLang's own Engine, in one process of each kind as for any user.

Prompts come in chunks, in a batch, and behind a cached prefix; README's table of models says what passed.
"""

import json

import numpy as np
import pytest
import torch
from models import pooled
from models.results import SERVED
from models.tiny import COMMON, reference_logits, save
from tiers import SLOW, mostly_slow

from sglang.srt.managers.io_struct import EmbeddingReqInput
from sglang.srt.models_ms.registry import MODELS

SECONDS = 60, 540
GENERATING = {  # architecture -> variants of models/tiny.py
    "BaiChuanForCausalLM": ["baichuan"],
    "BaichuanForCausalLM": ["baichuan-13b"],
    "ChatGLMForConditionalGeneration": ["chatglm-bias"],
    "ChatGLMModel": ["chatglm"],
    "AfmoeForCausalLM": ["afmoe"],
    "ApertusForCausalLM": ["apertus"],
    "ArceeForCausalLM": ["arcee"],
    "BailingMoeForCausalLM": ["bailing_moe"],
    "BailingMoeV2ForCausalLM": ["bailing_moe_v2"],
    "HunYuanDenseV1ForCausalLM": ["hunyuan_v1_dense"],
    "HunYuanMoEV1ForCausalLM": ["hunyuan_v1_moe"],
    "HYV3ForCausalLM": ["hy_v3"],
    "DeepseekV32ForCausalLM": ["deepseek_v32"],
    "GlmMoeDsaForCausalLM": ["glm_moe_dsa"],
    "MellumForCausalLM": ["mellum"],
    "MiMoForCausalLM": ["mimo"],
    "Ministral3ForCausalLM": ["ministral3"],
    "OlmoForCausalLM": ["olmo"],
    "Starcoder2ForCausalLM": ["starcoder2"],
    "Cohere2ForCausalLM": ["cohere2"],
    "CohereForCausalLM": ["cohere-qk-norm"],
    "CwmForCausalLM": ["cwm"],
    "Dots1ForCausalLM": ["dots1"],
    "Ernie4_5ForCausalLM": ["ernie4_5"],
    "Ernie4_5_ForCausalLM": ["ernie4_5-bias"],
    "Ernie4_5_MoeForCausalLM": ["ernie4_5_moe"],
    "ExaoneMoEForCausalLM": ["exaone_moe"],
    "ExaoneMoeForCausalLM": ["exaone_moe"],
    "FalconH1ForCausalLM": ["falcon_h1"],
    "FlexOlmoForCausalLM": ["flex_olmo"],
    "Glm4MoeLiteForCausalLM": ["glm4_moe_lite"],
    "GraniteMoeForCausalLM": ["granitemoe"],
    "GraniteMoeHybridForCausalLM": ["granitemoehybrid-experts"],
    "GraniteMoeSharedForCausalLM": ["granitemoeshared"],
    "MiniMaxM2ForCausalLM": ["minimax_m2"],
    "SeedOssForCausalLM": ["seed_oss"],
    "SmolLM3ForCausalLM": ["smollm3"],
    "SolarOpenForCausalLM": ["solar_open"],
    "VaultGemmaForCausalLM": ["vaultgemma"],
    "DbrxForCausalLM": ["dbrx"],
    "DeepseekForCausalLM": ["deepseek"],
    "DeepseekV2ForCausalLM": ["deepseek_v2", "deepseek_v2-lite"],
    "DeepseekV3ForCausalLM": ["deepseek_v3", "kimi_k2"],
    "Exaone4ForCausalLM": ["exaone4"],
    "ExaoneForCausalLM": ["exaone"],
    "Gemma2ForCausalLM": ["gemma2"],
    "Gemma3ForCausalLM": ["gemma3"],
    "GemmaForCausalLM": ["gemma"],
    "Glm4ForCausalLM": ["glm4"],
    "Glm4MoeForCausalLM": ["glm4_moe"],
    "GlmForCausalLM": ["glm"],
    "GptOssForCausalLM": ["gpt_oss"],
    "GraniteForCausalLM": ["granite"],
    "Grok1ForCausalLM": ["grok"],
    "Grok1ModelForCausalLM": ["grok-residual"],
    "InternLM2ForCausalLM": ["internlm2"],
    "InternLM3ForCausalLM": ["internlm3"],
    "LLaMAForCausalLM": ["llama-mha"],
    "KimiLinearForCausalLM": ["kimi_linear"],
    "Lfm2ForCausalLM": ["lfm2-bias"],
    "Lfm2MoeForCausalLM": ["lfm2_moe"],
    "LlamaForCausalLM": ["llama3"],
    "MiniCPM3ForCausalLM": ["minicpm3-longrope"],
    "MiniCPMForCausalLM": ["minicpm"],
    "MinistralForCausalLM": ["ministral"],
    "MistralForCausalLM": ["mistral-window"],
    "Mistral4ForCausalLM": ["mistral4"],
    "MistralLarge3ForCausalLM": ["mistral-large-3"],
    "MixtralForCausalLM": ["mixtral"],
    "NemotronHForCausalLM": ["nemotron_h-experts"],
    "Olmo2ForCausalLM": ["olmo2", "olmo3", "olmo3-transformers"],
    "OlmoeForCausalLM": ["olmoe"],
    "PhiForCausalLM": ["phi"],
    "PhiMoEForCausalLM": ["phimoe"],
    "Phi3ForCausalLM": ["phi3-long", "phi3-window"],
    "QWenLMHeadModel": ["qwen"],
    "Qwen2ForCausalLM": ["qwen2-yarn"],
    "Qwen2MoeForCausalLM": ["qwen2_moe"],
    "Qwen3ForCausalLM": ["qwen3-tied"],
    "Qwen3NextForCausalLM": ["qwen3_next"],
    "Qwen3_5ForCausalLM": ["qwen3_5-tied"],
    "Qwen3_5MoeForCausalLM": ["qwen3_5_moe"],
    "Qwen3MoeForCausalLM": ["qwen3_moe"],
    "Cohere2MoeForCausalLM": ["cohere2_moe"],
    "Step3p5ForCausalLM": ["step3p5"],
    "YoutuForCausalLM": ["youtu"],
    "StableLmForCausalLM": ["stablelm-parallel"],
    "BailingMoEForCausalLM": ["bailing_moe"],
    "BloomForCausalLM": ["bloom"],
    "CodeGenForCausalLM": ["codegen"],
    "GPT2LMHeadModel": ["gpt2"],
    "GPTBigCodeForCausalLM": ["gpt_bigcode"],
    "GPTJForCausalLM": ["gptj"],
    "GPTNeoXForCausalLM": ["gpt_neox"],
    "GraniteMoeSWAForCausalLM": ["granitemoe_swa"],
    "GraniteSWAForCausalLM": ["granite_swa"],
    "HeliumForCausalLM": ["helium"],
    "IQuestCoderForCausalLM": ["llama"],
    "Jais2ForCausalLM": ["jais2"],
    "NemotronForCausalLM": ["nemotron"],
    "MptForCausalLM": ["mpt"],
    "OPTForCausalLM": ["opt"],
    "OrionForCausalLM": ["orion"],
    "PhimoeForCausalLM": ["phimoe"],
    "XverseForCausalLM": ["llama-bias"],
    "FalconForCausalLM": ["falcon", "falcon-groups"],
}
TEXT_ALONE = {  # of models that see
    "Gemma3nForConditionalGeneration": "gemma3n",
    "Gemma4ForConditionalGeneration": "gemma4-shared",
    "KimiK25ForConditionalGeneration": "kimi_k25",
    "PixtralForConditionalGeneration": "mistral-large-3-seeing",
    "Qwen3_5ForConditionalGeneration": "qwen3_5-seeing",
    "Qwen3_5MoeForConditionalGeneration": "qwen3_5_moe-seeing",
}
CASES = [(architecture, variant) for architecture, variants in GENERATING.items() for variant in variants]
# Of each kind of config and cache one: test_logits.py has all of them step by step.
KINDS = ["baichuan-13b", "chatglm", "deepseek_v3", "gemma3", "gpt_oss"]
KINDS += ["qwen3_next"]
POOLED_KINDS = ["LlamaForSequenceClassificationWithNormal_Weights"]
PROMPTS = [[1, 2, 3], list(range(20, 70))]
GREEDY = dict(temperature=0, max_new_tokens=8, ignore_eos=True)


@pytest.fixture
def serves(request):
    """Function of an architecture: notes that this test serves it."""
    return lambda architecture: request.node.user_properties.append((SERVED, architecture))


def save_as(architecture, variant, folder):
    """The checkpoint of a variant, under an architecture's name."""
    config = save(variant, folder) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": [architecture]}))
    return folder


def assert_answers(variant, prompt, answer):
    """Each token is the reference's choice, and each logprob that came with the answer is the reference's."""
    tokens, meta = [*prompt, *answer["output_ids"]], answer["meta_info"]
    wanted = torch.from_numpy(reference_logits(variant, tokens)).log_softmax(-1).numpy()
    np.testing.assert_array_equal(answer["output_ids"], wanted.argmax(-1)[len(prompt) - 1 : -1])
    found = [logprob for logprob, *_ in (*meta["input_token_logprobs"], *meta["output_token_logprobs"])]
    found = found[1:] if found[0] is None else found  # nothing says how likely a first token is
    places = np.arange(len(tokens) - 1)[-len(found) :]
    np.testing.assert_allclose(found, wanted[places, np.asarray(tokens)[places + 1]], atol=1e-3)


def assert_served(engine, variant, **where):
    generator = np.random.default_rng(5)
    short, long, other = (generator.integers(0, COMMON["vocab_size"], length).tolist() for length in (3, 45, 6))
    asked = dict(sampling_params=GREEDY, return_logprob=True, **where)
    first = engine.generate(input_ids=[short, long], logprob_start_len=0, **asked)
    for prompt, answer in zip((short, long), first, strict=True):
        assert len(answer["meta_info"]["input_token_logprobs"]) == len(prompt)
        assert_answers(variant, prompt, answer)
    again = [*long, *first[1]["output_ids"], *other]
    (second,) = engine.generate(input_ids=[again], **asked)
    assert second["meta_info"]["cached_tokens"] == len(long) + GREEDY["max_new_tokens"] - 1  # the last one was not read
    assert_answers(variant, again, second)


def test_every_architecture_is_served_by_one_of_these_tests():
    seeing = {name for name, model in MODELS.items() if model.sees}  # of test_vision.py
    generating = {name for name, model in MODELS.items() if model.generates} - seeing
    assert set(GENERATING) == generating
    assert set(pooled.KINDS) == set(MODELS) - generating - seeing
    assert set(TEXT_ALONE) == {name for name, model in MODELS.items() if model.text_alone}


@pytest.mark.parametrize("architecture, variant", mostly_slow(CASES, lambda _, variant: variant in KINDS))
def test_tokens_and_logprobs_are_the_references(start_engine, serves, tmp_path, architecture, variant):
    serves(architecture)
    assert_served(start_engine(save_as(architecture, variant, tmp_path), skip_tokenizer_init=True), variant)


@SLOW
@pytest.mark.parametrize(
    "architecture, variant", [*TEXT_ALONE.items(), ("Gemma4ForConditionalGeneration", "gemma4-experts")]
)
def test_the_text_of_a_model_that_sees_is_the_references(start_engine, serves, tmp_path, architecture, variant):
    serves(architecture)
    folder = save_as(architecture, variant, tmp_path / variant)
    assert_served(start_engine(folder, skip_tokenizer_init=True), variant)


@pytest.mark.parametrize(
    "architecture, variant", [("Olmo2ForCausalLM", "olmo3"), pytest.param("OlmoeForCausalLM", "olmoe", marks=SLOW)]
)
def test_two_ranks_normalize_queries_and_keys_over_the_heads_of_both(start_engine, tmp_path, architecture, variant):
    folder = save_as(architecture, variant, tmp_path)
    assert_served(start_engine(folder, skip_tokenizer_init=True, tp_size=2), variant)


# Replicas share nothing of a model: latent attention with experts, and windows with a pool of their own, stand for all.
@pytest.mark.parametrize("variant", [pytest.param("deepseek_v3", marks=SLOW), "gpt_oss"])
def test_each_of_two_replicas_gives_tokens_and_logprobs_of_the_reference(start_engine, tmp_path, variant):
    engine = start_engine(save(variant, tmp_path), skip_tokenizer_init=True, dp_size=2)
    for replica in (0, 1):
        assert_served(engine, variant, routed_dp_rank=replica)


def encode(engine, prompts):
    """As Engine.encode, which takes text only."""
    request = EmbeddingReqInput(input_ids=prompts)
    return engine.loop.run_until_complete(anext(engine.tokenizer_manager.generate_request(request, None)))


@pytest.mark.parametrize("architecture", mostly_slow(pooled.KINDS, lambda name: name in POOLED_KINDS))
def test_what_a_pooled_model_says_is_the_references(start_engine, serves, tmp_path, architecture):
    serves(architecture)
    engine = start_engine(pooled.save(architecture, tmp_path), skip_tokenizer_init=True, is_embedding=True)
    for prompts in (PROMPTS, [[*PROMPTS[1], 7]]):  # the last one behind a cached prefix
        found = [answer["embedding"] for answer in encode(engine, prompts)]
        wanted = torch.stack([pooled.answer(architecture, prompt) for prompt in prompts])
        torch.testing.assert_close(torch.tensor(found), wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)

"""Architecture name in config.json -> where its class is. Adding a model is one line here and one file beside it.

The table of docs/models.md is made of these lines: run `make models-table` after a change.
"""

import importlib
import os.path
from collections.abc import Mapping
from string import digits
from typing import NamedTuple

from sglang.srt.models_ms import other_names

GENERATE, EMBED, CLASSIFY, REWARD = "generate", "embed", "classify", "reward"  # tasks
SEE = "see"  # generates, from images too


class Model(NamedTuple):
    module: str  # of this room
    models: str  # published models of the architecture
    features: str = ""  # what sets it apart from a plain decoder
    task: str = GENERATE
    class_name: str = ""  # in the module, where it is not the architecture's name
    needs: str = ""  # a package that its processor imports, and SGLang does not bring
    text_alone: bool = False  # of a model that sees: whether nothing but its text is computed

    @property
    def generates(self) -> bool:
        """Whether it can generate text. All can be pooled."""
        return self.task in (GENERATE, SEE)

    @property
    def sees(self) -> bool:
        """Whether it takes images too: a family of multimodal.py, with a decoder that config.json names."""
        return self.task == SEE

    @property
    def has_scores(self) -> bool:
        """Whether it gives scores of a text, not embeddings."""
        return self.task in (CLASSIFY, REWARD)


MODELS = {  # sorted by name
    "AfmoeForCausalLM": Model("afmoe", "Trinity", "gated attention, experts, sliding windows"),
    "ApertusForCausalLM": Model("apertus", "Apertus", "xIELU, query/key norm"),
    "ArceeForCausalLM": Model("arcee", "AFM-4.5B", "MLP of squared relu"),
    "BaiChuanForCausalLM": Model("baichuan", "Baichuan 7B", "fused weights", class_name="BaichuanForCausalLM"),
    "BaichuanForCausalLM": Model("baichuan", "Baichuan 13B, Baichuan2", "fused weights, ALiBi, unit head"),
    "BailingMoeForCausalLM": Model("bailing_moe", "Ling, Ring: lite, plus", "fused weights, experts"),
    "BailingMoEForCausalLM": Model("bailing_moe", "as SGLang names it", class_name="BailingMoeForCausalLM"),
    "BailingMoeV2ForCausalLM": Model(
        "bailing_moe", "Ling 2, Ring 2: mini, flash, 1T", "fused weights, grouped experts, routing bias"
    ),
    "BertForSequenceClassification": Model(
        "bert", "rerankers and classifiers of BERT's shape", "scores, both directions", task=CLASSIFY
    ),
    "BertModel": Model("bert", "bge, e5, gte, all-MiniLM", "embedding, both directions", task=EMBED),
    "BloomForCausalLM": Model("bloom", "BLOOM, BLOOMZ", "ALiBi, fused weights, LayerNorm"),
    "ChatGLMForConditionalGeneration": Model(
        "chatglm", "ChatGLM as fine-tuned", "as ChatGLMModel", class_name="ChatGLMModel"
    ),
    "ChatGLMModel": Model("chatglm", "ChatGLM2, ChatGLM3, GLM-4-9b", "fused weights, half rotary in pairs"),
    "CodeGenForCausalLM": Model("gptj", "CodeGen", "as GPT-J, fused weights"),
    "Cohere2ForCausalLM": Model(
        "cohere2", "Command R7B, Command A", "sliding windows, layers without rotary embedding"
    ),
    "Cohere2MoeForCausalLM": Model("cohere2_moe", "Command A+", "experts, sliding windows, parallel residual"),
    "CohereForCausalLM": Model("cohere", "Command R, Command R+", "parallel residual, LayerNorm, logit scale"),
    "Contriever": Model("bert", "Contriever", "embedding, both directions", task=EMBED),
    "CwmForCausalLM": Model("cwm", "CWM", "sliding windows in three of four layers"),
    "DbrxForCausalLM": Model("dbrx", "DBRX", "experts, LayerNorm, clipped queries and keys"),
    "DeepseekForCausalLM": Model("deepseek", "DeepSeek-MoE 16B", "experts, shared experts, dense first layers"),
    "DeepseekV2ForCausalLM": Model("deepseek_v2", "DeepSeek V2, V2.5, V2-Lite", "MLA, grouped experts"),
    "DeepseekV32ForCausalLM": Model("deepseek_v32", "DeepSeek V3.2", "MLA, sparse attention, FP8 checkpoints"),
    "DeepseekV3ForCausalLM": Model("deepseek_v3", "DeepSeek V3, R1, Kimi K2", "MLA, routing bias, FP8 checkpoints"),
    "Dots1ForCausalLM": Model("dots1", "dots.llm1", "experts, sigmoid router with a bias, query/key norm"),
    "Ernie4_5_ForCausalLM": Model("ernie4_5", "as its makers name it", "", class_name="Ernie4_5ForCausalLM"),
    "Ernie4_5_MoeForCausalLM": Model("ernie4_5_moe", "ERNIE-4.5-21B-A3B, 300B-A47B", "experts, routing bias"),
    "Ernie4_5ForCausalLM": Model("ernie4_5", "ERNIE 4.5, dense", "interleaved rotary"),
    "Exaone4ForCausalLM": Model("exaone4", "EXAONE 4", "norms after, query/key norm, sliding windows"),
    "ExaoneForCausalLM": Model("exaone", "EXAONE 3, 3.5"),
    "ExaoneMoEForCausalLM": Model("exaone_moe", "as SGLang names it", class_name="ExaoneMoeForCausalLM"),
    "ExaoneMoeForCausalLM": Model("exaone_moe", "K-EXAONE", "experts, sigmoid router with a bias, sliding windows"),
    "FalconForCausalLM": Model("falcon", "Falcon 7B, 40B, 180B, 11B", "fused weights, LayerNorm, parallel residual"),
    "FalconH1ForCausalLM": Model("falcon_h1", "Falcon-H1", "attention beside Mamba-2, multipliers"),
    "FlexOlmoForCausalLM": Model("flex_olmo", "FlexOlmo", "experts, norms after"),
    "Gemma2ForCausalLM": Model("gemma2", "Gemma 2", "alternating sliding windows, soft caps, norms before and after"),
    "Gemma2ForSequenceClassification": Model("pooled", "Skywork-Reward-Gemma-2", "scores", task=CLASSIFY),
    "Gemma3ForCausalLM": Model("gemma3", "Gemma 3, text", "sliding windows in five of six layers, two rotary tables"),
    "Gemma3ForConditionalGeneration": Model(
        "gemma3_vl", "Gemma 3 4B, 12B, 27B", "as Gemma3ForCausalLM; SigLIP's tower, whole images seen", task=SEE
    ),
    "Gemma3nForConditionalGeneration": Model(
        "gemma3n",
        "Gemma 3n E2B, E4B, text alone",
        "AltUp, sparse activations, per-layer embeddings, shared keys and values",
        task=SEE,
        text_alone=True,
    ),
    "Gemma3TextModel": Model("pooled", "EmbeddingGemma", "embedding, both directions", task=EMBED),
    "Gemma4ForConditionalGeneration": Model(
        "gemma4",
        "Gemma 4 E2B, E4B, 26B-A4B, 31B, text alone",
        "per-layer embeddings, shared keys and values",
        task=SEE,
        text_alone=True,
    ),
    "GemmaForCausalLM": Model("gemma", "Gemma", "norm weights less one, scaled embeddings"),
    "Glm4ForCausalLM": Model("glm4", "GLM-4-0414", "norms before and after, interleaved partial rotary"),
    "Glm4MoeForCausalLM": Model("glm4_moe", "GLM-4.5, GLM-4.6", "experts, shared experts, sigmoid router with a bias"),
    "Glm4MoeLiteForCausalLM": Model("glm4_moe_lite", "GLM-4.7-Flash", "MLA, sigmoid router with a bias"),
    "GlmForCausalLM": Model("glm", "GLM-4", "interleaved partial rotary"),
    "GlmMoeDsaForCausalLM": Model("deepseek_v32", "GLM-5, GLM-5.2", "MLA, sparse attention, routing bias"),
    "GPT2LMHeadModel": Model("gpt2", "GPT-2, DistilGPT2, Cerebras-GPT", "learned positions, LayerNorm, fused weights"),
    "GPTBigCodeForCausalLM": Model(
        "gpt_bigcode", "StarCoder, SantaCoder", "learned positions, LayerNorm, fused weights"
    ),
    "GPTJForCausalLM": Model("gptj", "GPT-J-6B", "LayerNorm, parallel residual, interleaved partial rotary"),
    "GPTNeoXForCausalLM": Model(
        "gpt_neox", "Pythia, GPT-NeoX-20B, Dolly 2", "fused weights, LayerNorm, partial rotary"
    ),
    "GptOssForCausalLM": Model(
        "gpt_oss", "gpt-oss-20b, gpt-oss-120b", "MXFP4 experts, sinks, alternating sliding windows"
    ),
    "GraniteForCausalLM": Model("granite", "Granite 3.x", "multipliers"),
    "GraniteMoeForCausalLM": Model("granite_moe", "Granite 3 MoE, PowerMoE", "experts, multipliers"),
    "GraniteMoeHybridForCausalLM": Model("granite_hybrid", "Granite 4", "Mamba-2, multipliers, experts or none"),
    "GraniteMoeSharedForCausalLM": Model("granite_moe", "Granite MoE with a shared MLP", "experts, multipliers"),
    "GraniteMoeSWAForCausalLM": Model(
        "granite_swa", "Granite SWA with experts", "experts, sliding windows, sinks, multipliers"
    ),
    "GraniteSWAForCausalLM": Model("granite_swa", "Granite SWA", "sliding windows, sinks, multipliers"),
    "Grok1ForCausalLM": Model("grok", "Grok-1", "experts, soft caps, multipliers"),
    "Grok1ModelForCausalLM": Model("grok", "Grok-1", "experts, soft caps, multipliers", class_name="Grok1ForCausalLM"),
    "HeliumForCausalLM": Model("helium", "Helium 1", "interleaved rotary"),
    "HunYuanDenseV1ForCausalLM": Model("hunyuan_v1", "Hunyuan 0.5B to 7B", "query/key norm after rotary"),
    "HunYuanMoEV1ForCausalLM": Model("hunyuan_v1", "Hunyuan-A13B", "experts, query/key norm after rotary"),
    "HYV3ForCausalLM": Model("hy_v3", "Hunyuan 3", "experts, sigmoid router with a bias"),
    "Idefics3ForConditionalGeneration": Model(
        "idefics3", "Idefics3-8B, SmolVLM 1", "SigLIP's tower, images in tiles; Llama", task=SEE
    ),
    "InternLM2ForCausalLM": Model("internlm2", "InternLM2, InternLM2.5", "fused wqkv, dynamic NTK"),
    "InternLM2ForRewardModel": Model("pooled", "InternLM2-Reward", "reward", task=REWARD),
    "InternLM3ForCausalLM": Model("internlm3", "InternLM3", "biases, dynamic NTK"),
    "InternVLChatModel": Model("internvl_chat", "InternVL 2.5, 3, as published", "images in tiles, videos", task=SEE),
    "InternVLForConditionalGeneration": Model(
        "internvl", "InternVL 2.5, 3, as transformers names them", "images in tiles; Qwen2, Llama, Qwen3", task=SEE
    ),
    "IQuestCoderForCausalLM": Model("llama", "IQuest-Coder-V1", class_name="LlamaForCausalLM"),
    "Jais2ForCausalLM": Model("nemotron", "Jais 2", "LayerNorm, MLP of squared relu, biases"),
    "KimiK25ForConditionalGeneration": Model(
        "kimi_k25", "Kimi K2.5, K2.6, text alone", "MLA, routing bias", task=SEE, text_alone=True
    ),
    "KimiLinearForCausalLM": Model(
        "kimi_linear", "Kimi-Linear-48B-A3B", "delta attention by key, MLA without positions, experts"
    ),
    "Lfm2ForCausalLM": Model("lfm2", "LFM2, LFM2.5", "short convolutions"),
    "Lfm2MoeForCausalLM": Model("lfm2_moe", "LFM2-8B-A1B", "short convolutions, experts, routing bias"),
    "LlamaEmbeddingModel": Model("pooled", "Llama as an encoder, SGLang's name", "embedding", task=EMBED),
    "LlamaForCausalLM": Model("llama", "Llama 1, 2, 3.x and checkpoints of its shape", "biases, scaled rotary"),
    "LLaMAForCausalLM": Model("llama", "Llama 1 as first converted", class_name="LlamaForCausalLM"),
    "LlamaForClassification": Model("pooled", "classifiers as SGLang names them", "scores", task=CLASSIFY),
    "LlamaForSequenceClassification": Model(
        "pooled", "Skywork-Reward-Llama and other classifiers", "scores", task=CLASSIFY
    ),
    "LlamaForSequenceClassificationWithNormal_Weights": Model(
        "pooled", "URM-LLaMa", "scores, weighted by a gate", task=CLASSIFY
    ),
    "LlamaModel": Model("pooled", "Llama as an encoder", "embedding", task=EMBED),
    "LlavaForConditionalGeneration": Model(
        "llava", "LLaVA 1.5, Pixtral 12B", "the tower of CLIP, SigLIP or Pixtral; Llama, Mistral, Qwen2", task=SEE
    ),
    "LlavaLlamaForCausalLM": Model("llava_own", "LLaVA 1.5, 1.6, Yi-VL, as published", "CLIP's tower; Llama", task=SEE),
    "LlavaMistralForCausalLM": Model("llava_own", "LLaVA 1.6, as published", "CLIP's tower; Mistral", task=SEE),
    "LlavaNextForConditionalGeneration": Model(
        "llava_next", "LLaVA 1.6", "as LLaVA 1.5, images in tiles; Llama, Mistral, Qwen2", task=SEE
    ),
    "LlavaNextVideoForConditionalGeneration": Model(
        "llava_next_video", "LLaVA-NeXT-Video", "as LLaVA 1.6, and videos", task=SEE
    ),
    "LlavaOnevisionForConditionalGeneration": Model(
        "llava_onevision", "LLaVA-OneVision", "SigLIP's tower, images in tiles, videos; Qwen2", task=SEE
    ),
    "LlavaQwenForCausalLM": Model("llava_own", "LLaVA-OneVision, as published", "SigLIP's tower; Qwen2", task=SEE),
    "MellumForCausalLM": Model("mellum", "Mellum 2", "experts, sliding windows, two rotary tables"),
    "MiMoForCausalLM": Model("mimo", "MiMo-7B", "biases"),
    "MiniCPM3ForCausalLM": Model("minicpm3", "MiniCPM3", "MLA, multipliers"),
    "MiniCPMForCausalLM": Model("minicpm", "MiniCPM 1, 2 and 4 without sparse attention", "multipliers"),
    "MiniMaxM2ForCausalLM": Model("minimax_m2", "MiniMax-M2, M2.1, M2.5", "experts, sigmoid router with a bias"),
    "Ministral3ForCausalLM": Model("ministral3", "Ministral 3, text", "YaRN, queries scaled by position"),
    "MinistralForCausalLM": Model("mistral", "Ministral", "alternating sliding windows"),
    "Mistral3ForConditionalGeneration": Model(
        "mistral3", "Mistral Small 3.1, 3.2, Ministral 3", "Pixtral's tower, images of any size", task=SEE
    ),
    "Mistral4ForCausalLM": Model("mistral4", "Mistral Small 4, text", "MLA, experts, queries scaled by position"),
    "MistralForCausalLM": Model("mistral", "Mistral, Mistral NeMo", "sliding window"),
    "MistralLarge3ForCausalLM": Model(
        "mistral4", "Mistral Large 3, text, from Mistral's own files", "MLA, experts, queries scaled by position"
    ),
    "MistralModel": Model("pooled", "e5-mistral, Linq-Embed, SFR-Embedding", "embedding", task=EMBED),
    "MixtralForCausalLM": Model("mixtral", "Mixtral 8x7B, 8x22B", "experts, sliding window"),
    "ModernBertForSequenceClassification": Model(
        "modernbert", "gte-reranker-modernbert", "scores, both directions, sliding windows", task=CLASSIFY
    ),
    "ModernBertModel": Model(
        "modernbert", "gte-modernbert, modernbert-embed", "embedding, both directions, sliding windows", task=EMBED
    ),
    "MptForCausalLM": Model("mpt", "MPT 7B, 30B", "ALiBi, LayerNorm, fused weights"),
    "NemotronForCausalLM": Model("nemotron", "Nemotron 3 8B, Nemotron-4, Minitron", "LayerNorm, MLP of squared relu"),
    "NemotronHForCausalLM": Model(
        "nemotron_h", "Nemotron-H, Nemotron Nano 2, Nemotron 3", "Mamba-2, MLPs of squared relu, experts without gates"
    ),
    "Olmo2ForCausalLM": Model("olmo2", "OLMo 2, OLMo 3", "norms after, query/key norm over all heads, sliding windows"),
    "OlmoeForCausalLM": Model("olmoe", "OLMoE", "experts, query/key norm over all heads"),
    "OlmoForCausalLM": Model("olmo", "OLMo", "LayerNorm without weights, clipped queries and keys"),
    "OPTForCausalLM": Model("opt", "OPT, Galactica", "learned positions, LayerNorm, biases"),
    "OrionForCausalLM": Model("orion", "Orion-14B", "LayerNorm"),
    "Phi3ForCausalLM": Model(
        "phi3", "Phi-3, Phi-3.5, Phi-4, Phi-4-mini", "fused weights, partial rotary, longrope, sliding window"
    ),
    "PhiForCausalLM": Model("phi", "Phi-1, Phi-1.5, Phi-2", "LayerNorm, parallel residual, partial rotary, biases"),
    "PhiMoEForCausalLM": Model(
        "phimoe", "Phi-3.5-MoE, Phi-mini-MoE, Phi-tiny-MoE", "experts, sparsemixer router, LayerNorm, longrope"
    ),
    "PhimoeForCausalLM": Model("phimoe", "as transformers names it", class_name="PhiMoEForCausalLM"),
    "PixtralForConditionalGeneration": Model(
        "mistral4", "Mistral Large 3, from Mistral's own files, text alone", "MLA, experts", task=SEE, text_alone=True
    ),
    "Qwen2ForCausalLM": Model("qwen2", "Qwen2, Qwen2.5", "biases, YaRN, sliding windows"),
    "Qwen2ForRewardModel": Model("pooled", "Qwen2.5-Math-RM", "reward", task=REWARD),
    "Qwen2ForSequenceClassification": Model("pooled", "classifiers of Qwen2, Qwen2.5", "scores", task=CLASSIFY),
    "Qwen2_5_VLForConditionalGeneration": Model(
        "qwen2_vl", "Qwen2.5-VL", "tower with windows, images of any size, frames of videos, mrope", task=SEE
    ),
    "Qwen2Model": Model("pooled", "Qwen2 as an encoder", "embedding", task=EMBED),
    "Qwen2MoeForCausalLM": Model(
        "qwen2_moe", "Qwen1.5-MoE, Qwen2-57B-A14B", "experts, gated shared expert, sliding windows"
    ),
    "Qwen2VLForConditionalGeneration": Model(
        "qwen2_vl", "Qwen2-VL", "images of any size, frames of videos, mrope", task=SEE
    ),
    "Qwen3_5ForCausalLM": Model("qwen3_5", "Qwen3.5, dense, its text", "gated delta nets, gated attention"),
    "Qwen3_5ForConditionalGeneration": Model(
        "qwen3_5", "Qwen3.5, Qwen3.6, dense, text alone", "gated delta nets, gated attention", task=SEE, text_alone=True
    ),
    "Qwen3_5MoeForConditionalGeneration": Model(
        "qwen3_5",
        "Qwen3.5, Qwen3.6 with experts, text alone",
        "gated delta nets, gated attention, experts",
        task=SEE,
        text_alone=True,
    ),
    "Qwen3_5MoeForCausalLM": Model(
        "qwen3_5", "Qwen3.5 with experts, its text", "gated delta nets, gated attention, experts"
    ),
    "Qwen3ForCausalLM": Model("qwen3", "Qwen3, the demo model", "query/key norm, sliding windows"),
    "Qwen3ForRewardModel": Model("pooled", "rewards in the shape of Qwen2.5-Math-RM", "reward", task=REWARD),
    "Qwen3ForSequenceClassification": Model("pooled", "Skywork-Reward-V2-Qwen3, rerankers", "scores", task=CLASSIFY),
    "Qwen3Model": Model("pooled", "Qwen3 as an encoder", "embedding", task=EMBED),
    "Qwen3MoeForCausalLM": Model(
        "qwen3_moe", "Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder", "experts, sliding windows"
    ),
    "Qwen3NextForCausalLM": Model("qwen3_next", "Qwen3-Next-80B-A3B", "gated delta nets, gated attention, experts"),
    "Qwen3VLForConditionalGeneration": Model(
        "qwen3_vl", "Qwen3-VL", "images of any size, frames of videos, mrope, deepstack", task=SEE
    ),
    "Qwen3VLMoeForConditionalGeneration": Model(
        "qwen3_vl", "Qwen3-VL-30B-A3B, Qwen3-VL-235B-A22B", "as Qwen3-VL, experts", task=SEE
    ),
    "QWenLMHeadModel": Model("qwen", "Qwen 1, up to its training length", "fused weights, biases"),
    "RobertaForSequenceClassification": Model("xlm_roberta", "cross-encoders of RoBERTa", "scores", task=CLASSIFY),
    "RobertaModel": Model("xlm_roberta", "all-distilroberta-v1, SimCSE", "embedding, both directions", task=EMBED),
    "SeedOssForCausalLM": Model("seed_oss", "Seed-OSS-36B", "biases"),
    "SmolLM3ForCausalLM": Model("smollm3", "SmolLM3-3B", "layers without rotary embedding"),
    "SmolVLMForConditionalGeneration": Model(
        "idefics3", "SmolVLM2: 256M, 500M, 2.2B", "as Idefics3; wants `num2words`", task=SEE, needs="num2words"
    ),
    "SolarOpenForCausalLM": Model("glm4_moe", "Solar-Open-100B", "experts, sigmoid router with a bias"),
    "StableLmForCausalLM": Model("stablelm", "StableLM 2", "LayerNorm, partial rotary, parallel residual"),
    "Starcoder2ForCausalLM": Model("starcoder2", "StarCoder2", "LayerNorm, biases, plain MLP, sliding window"),
    "Step3p5ForCausalLM": Model(
        "step3p5", "Step-3.5-Flash", "experts, gated heads, sliding windows with more heads, bounded activations"
    ),
    "VaultGemmaForCausalLM": Model("gemma2", "VaultGemma", "alternating sliding windows, soft caps"),
    "XLMRobertaForSequenceClassification": Model(
        "xlm_roberta", "bge-reranker-v2-m3, bge-reranker-base", "scores, both directions", task=CLASSIFY
    ),
    "XLMRobertaModel": Model("xlm_roberta", "bge-m3, multilingual-e5", "embedding, both directions", task=EMBED),
    "XverseForCausalLM": Model("xverse", "XVERSE 7B, 13B, 65B"),
    "YoutuForCausalLM": Model("youtu", "Youtu-LLM-2B", "MLA"),
}
# Drafts of speculative decoding, which are no models to be served.
DRAFTS = {
    "DeepseekV3ForCausalLMNextN": Model("nextn", "DeepSeek V3, R1: in the checkpoint", "target's head"),
    "Glm4MoeForCausalLMNextN": Model("nextn", "GLM-4.5, GLM-4.6: in the checkpoint", "target's head"),
    "Glm4MoeLiteForCausalLMNextN": Model("nextn", "GLM-4.7-Flash: in the checkpoint", "target's head"),
    "LlamaForCausalLMEagle": Model("eagle", "EAGLE 1 and 2 for Llama and its like", "target's head"),
    "LlamaForCausalLMEagle3": Model("eagle", "EAGLE3 for any target", "head of its own vocabulary"),
    "Qwen2ForCausalLMEagle": Model("eagle", "EAGLE for Qwen2", "target's head"),
    "Qwen3MoeForCausalLMMTP": Model("mtp", "Qwen3-MoE with mtp in the checkpoint", "target's head"),
    "Qwen3NextForCausalLMMTP": Model("mtp", "Qwen3-Next: in the checkpoint", "target's head"),
    "Qwen3_5ForCausalLMMTP": Model("mtp", "Qwen3.5, dense or with experts: in the checkpoint", "target's head"),
}
# Another name of an architecture -> that of its published checkpoints, by which SGLang knows their keys.
AS_PUBLISHED = {"YiVLForCausalLM": "LlavaLlamaForCausalLM"}
# What is not computed although it looks like what is, and why.
NOT_COMPUTED = {
    "LlavaVidForCausalLM": "videos of LLaVA's own format; LlavaNextVideoForConditionalGeneration is computed",
    **other_names.REASONS,
}
# Decoders of models that see, which no checkpoint names by themselves.
INNER = {"Gemma3nForCausalLM": Model("gemma3n", "", ""), "Gemma4ForCausalLM": Model("gemma4", "", "")}
# model_type of what SGLang serves by transformers' code -> an architecture of which it knows that attention is latent.
KNOWN_AS = dict.fromkeys(("mistral4", "youtu"), "DeepseekV3ForCausalLM")
PLAIN = "LlamaForCausalLM"
GUIDE = "docs/adding_a_model.md"
# What names of architectures end in, whatever the family.
_KINDS = (
    "ForCausalLM",
    "LMHeadModel",
    "ForConditionalGeneration",
    "ForSequenceClassification",
    "ForRewardModel",
    "Model",
)


class UnknownArchitecture(Exception):
    """No file of this room computes the checkpoint's architecture."""


DECODERS = {  # model_type of a text_config -> the architecture that computes it
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3n_text": "Gemma3nForCausalLM",
    "gemma4_text": "Gemma4ForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_5_vl_text": "Qwen2ForCausalLM",
    "qwen2_vl_text": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_vl_moe_text": "Qwen3MoeForCausalLM",
    "qwen3_vl_text": "Qwen3ForCausalLM",
}


def model_class(architectures: list[str], hf_config: Mapping | None = None) -> type:
    """The class of the first architecture that is known; UnknownArchitecture, listing the known ones, if none is.

    hf_config: what names the decoder of a model that sees; without it such a model has the usual one.
    """
    for architecture in architectures:
        model = MODELS.get(architecture) or DRAFTS.get(architecture) or INNER.get(architecture)
        if model is not None:
            module = importlib.import_module(f"{__package__}.{model.module}")
            found = getattr(module, model.class_name or architecture)
            if not model.sees:
                return found
            multimodal = importlib.import_module(f"{__package__}.multimodal")
            return multimodal.on_decoder(found, hf_config, lambda kind, own: model_class([own or DECODERS[kind]]))
    raise UnknownArchitecture(unknown(architectures))


def unknown(architectures: list[str]) -> str:
    """What to tell the user of a checkpoint of which no architecture is known."""
    asked = f"architectures = {architectures} of config.json is not supported by --framework mindspore"
    for name in architectures:
        if name in NOT_COMPUTED:
            return f"{asked}: {NOT_COMPUTED[name]}"
    near = [name for name in map(nearest, architectures) if name]
    generates = any(name.endswith(_KINDS[:2]) for name in architectures)
    hint = f"nearest by name: {near[0]} ({MODELS[near[0]].models}); " if near else ""
    hint = hint or (f"no name is like it, and the plain decoder is {PLAIN}; " if generates else "")
    return f"{asked}; {hint}{GUIDE} says how to add one; supported: {', '.join(sorted(MODELS))}"


def nearest(architecture: str) -> str | None:
    """The known architecture whose family's name begins most like this one's, None if none is of its make.

    Of its make is what has the whole name before a number (grok1 for grok2), or five letters.
    """
    families, wanted = {}, _family(architecture)
    for name in MODELS:
        families.setdefault(_family(name), name)
    shared = {family: len(os.path.commonprefix([family, wanted])) for family in families}
    akin = [family for family, length in shared.items() if length >= min(5, len(family.rstrip(digits)))]
    best = min(akin, key=lambda family: (-shared[family], len(family)), default=None)
    return families.get(best)


def _family(architecture: str) -> str:
    kind = next((kind for kind in _KINDS if architecture.endswith(kind)), "")
    return architecture.removesuffix(kind).lower()

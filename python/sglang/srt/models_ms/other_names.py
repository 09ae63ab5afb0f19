"""Names of published models that are not computed here, and the architectures that are most like them, and are."""

NEAR = {  # of models that see: what is most like them -> their names
    "Gemma3ForConditionalGeneration": ("PaliGemmaForConditionalGeneration",),
    "InternVLForConditionalGeneration": (
        "InternS1ForConditionalGeneration",
        "NemotronH_Nano_VL_V2",
        "SkyworkR1VChatModel",
    ),
    "LlavaForConditionalGeneration": (
        "JanusForConditionalGeneration",
        "MultiModalityCausalLM",
        "VipLlavaForConditionalGeneration",
    ),
    "LlavaNextForConditionalGeneration": (
        "Llama4ForConditionalGeneration",
        "MllamaForConditionalGeneration",
        "MolmoForCausalLM",
        "Phi3VForCausalLM",
        "Step3VLForConditionalGeneration",
    ),
    "LlavaNextVideoForConditionalGeneration": ("VideoLlavaForConditionalGeneration",),
    "LlavaOnevisionForConditionalGeneration": (
        "AyaVisionForConditionalGeneration",
        "Cohere2VisionForConditionalGeneration",
        "DeepseekOCRForCausalLM",
        "DeepseekVL2ForCausalLM",
        "DeepseekVLV2ForCausalLM",
        "MiniCPMO",
        "MiniCPMV",
        "Phi4MMForCausalLM",
        "Phi4MultimodalForCausalLM",
    ),
    "Qwen2_5_VLForConditionalGeneration": (
        "DotsOCRForCausalLM",
        "DotsVLMForCausalLM",
        "Ernie4_5_VLMoeForConditionalGeneration",
        "Glm46VForConditionalGeneration",
        "Glm4vForConditionalGeneration",
        "Glm4vMoeForConditionalGeneration",
        "GlmOcrForConditionalGeneration",
        "KimiVLForConditionalGeneration",
        "Ovis2ForConditionalGeneration",
        "PaddleOCRVLForConditionalGeneration",
        "Qwen2_5OmniForConditionalGeneration",
        "Qwen2_5OmniModel",
    ),
    "Qwen3VLForConditionalGeneration": ("Qwen3OmniMoeForConditionalGeneration",),
    "SmolVLMForConditionalGeneration": (
        "Idefics2ForConditionalGeneration",
        "Lfm2VlForConditionalGeneration",
    ),
}
REASONS = {
    name: f"its images are not computed here; of the models that see, the nearest that is computed is {near}"
    for near, names in NEAR.items()
    for name in names
}
_STATES_ALONE = "no layer of it caches keys; the nearest that is computed is GraniteMoeHybridForCausalLM"
REASONS |= dict.fromkeys(("FalconMambaForCausalLM", "MambaForCausalLM", "Mamba2ForCausalLM"), _STATES_ALONE)
REASONS |= {
    "LagunaForCausalLM": "its heads are gated by softplus; the nearest that is computed is AfmoeForCausalLM",
    "Llama4ForCausalLM": "attention within chunks of a prompt; the nearest that is computed is LlamaForCausalLM",
    "SolarForCausalLM": "layers see what entered earlier ones; the nearest that is computed is LlamaForCausalLM",
}

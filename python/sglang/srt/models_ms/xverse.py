"""XVERSE 7B, 13B, 65B: Llama's decoder.

Reference: modeling_xverse.py of xverse/XVERSE-7B.
"""

from sglang.srt.models_ms.llama import LlamaConfig, LlamaForCausalLM


class XverseConfig(LlamaConfig):
    ignored = {"max_tokenizer_truncation": "the tokenizer reads it"}


class XverseForCausalLM(LlamaForCausalLM):
    config_class = XverseConfig

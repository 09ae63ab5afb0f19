"""MiMo 7B: Qwen2's decoder; its layers for multi-token prediction are left out.

Reference: modeling_mimo.py of XiaomiMiMo/MiMo-7B-RL.
"""

from sglang.srt.models_ms.qwen2 import Qwen2Config, Qwen2ForCausalLM


class MiMoConfig(Qwen2Config):
    expected = {"attention_bias": True}
    ignored = {"num_nextn_predict_layers": "multi-token prediction"}


class MiMoForCausalLM(Qwen2ForCausalLM):
    config_class = MiMoConfig
    ignored_tensors = (r"^model\.mtp_layers\.",)

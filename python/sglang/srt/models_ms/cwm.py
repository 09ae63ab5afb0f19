"""CWM: Llama's decoder with a window in three of four layers.

Reference: transformers/models/cwm/modeling_cwm.py.
"""

from sglang.srt.models_ms.config import computed
from sglang.srt.models_ms.mistral import MistralConfig, MistralForCausalLM
from sglang.srt.models_ms.windows import sliding_windows


class CwmConfig(MistralConfig):
    expected = {"mlp_bias": False}
    ignored = {"global_window": "the length of the context", "window_pattern": "transformers makes layer_types of it"}

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: layer % 4)


class CwmForCausalLM(MistralForCausalLM):
    config_class = CwmConfig

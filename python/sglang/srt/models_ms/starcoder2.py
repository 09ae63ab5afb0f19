"""StarCoder2: pre-norm decoder with LayerNorms, biases, an MLP without a gate, and a sliding window.

Reference: transformers/models/starcoder2/modeling_starcoder2.py.
"""

from sglang.srt.layers_ms import MLP, Attention
from sglang.srt.layers_ms.mlp import UNGATED
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mistral import MistralConfig
from sglang.srt.models_ms.stablelm import biased_layer_norm


class Starcoder2Config(MistralConfig):
    hidden_act: str = key("hidden_act", "gelu_pytorch_tanh", accepted=UNGATED)
    rms_norm_eps: float = key("norm_epsilon", 1e-5)
    use_bias: bool = key("use_bias", True)
    tie_word_embeddings: bool = key("tie_word_embeddings", True)
    expected = {"norm_type": "layer_norm", "mlp_type": "default"}
    ignored = {
        "activation_function": "hidden_act once more",
        "layer_norm_epsilon": "norm_epsilon once more",
        "embedding_dropout": "training",
        "residual_dropout": "training",
    }


class Starcoder2Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias, window = config.use_bias, config.windows[layer_id]
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, window=window)
        super().__init__(config, attention, MLP(config, bias), biased_layer_norm)


class Starcoder2ForCausalLM(CausalLM):
    config_class = Starcoder2Config
    layer_class = Starcoder2Layer
    norm = staticmethod(biased_layer_norm)
    tensor_names = {"mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"}

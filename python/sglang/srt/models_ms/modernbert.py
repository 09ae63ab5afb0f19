"""ModernBERT: an encoder of pre-norm layers, rotary embeddings and gated MLPs, two of three layers with a window.

Reference: transformers/models/modernbert/modeling_modernbert.py.
"""

from mindspore import nn
from mindspore import ops as functions

from sglang.srt.layers_ms import Attention, GatedMLP, LayerNorm
from sglang.srt.layers_ms.linear import concatenated
from sglang.srt.layers_ms.mlp import ACTIVATIONS
from sglang.srt.layers_ms.score import ScoreLinear
from sglang.srt.models_ms.config import RopeOfEachKindConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, Decoder, PreNormLayer
from sglang.srt.models_ms.pooled import Pooled, classes
from sglang.srt.models_ms.windows import sliding_windows


class ModernBertConfig(RopeOfEachKindConfig):
    hidden_act: str = key("hidden_activation", "gelu", accepted=ACTIVATIONS)
    rms_norm_eps: float = key("norm_eps", 1e-5)
    norm_bias: bool = key("norm_bias", False)
    attention_bias: bool = key("attention_bias", False)
    mlp_bias: bool = key("mlp_bias", False)
    sliding_window: int = key("local_attention", 128, convert=lambda width: width // 2 + 1)  # of one side
    classifier_bias: bool = key("classifier_bias", False)
    classifier_pooling: str = key("classifier_pooling", "cls", accepted=("cls", "mean"))
    expected = {"classifier_activation": "gelu", "position_embedding_type": ("absolute", "sans_pos")}
    ignored = {
        "decoder_bias": "of the head of words, which no embedding is made by",
        "deterministic_flash_attn": "how transformers computes",
        "embedding_dropout": "training",
        "global_attn_every_n_layers": "transformers makes layer_types of it",
        "global_rope_theta": "transformers makes rope_parameters of it",
        "initializer_cutoff_factor": "training",
        "layer_norm_eps": "norm_eps once more",
        "local_rope_theta": "transformers makes rope_parameters of it",
        "mlp_dropout": "training",
        "reference_compile": "how transformers computes",
        "repad_logits_with_grad": "training",
        "sliding_window": "half of local_attention",
        "sparse_pred_ignore_index": "training",
        "sparse_prediction": "training",
    }

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: layer % 3)


def modernbert_norm(config):
    return LayerNorm(config.hidden_size, config.rms_norm_eps, config.dtype, bias=config.norm_bias)


class ModernBertLayer(PreNormLayer):
    """The first one gets what is normalized already."""

    def __init__(self, config, layer_id):
        window, bias = config.windows[layer_id], config.attention_bias
        attention = Attention(
            config,
            layer_id,
            qkv_bias=bias,
            out_bias=bias,
            rope=config.local_rope if window else config.rope,
            window=window,
            bidirectional=True,
            fused_qkv=concatenated,
        )
        super().__init__(config, attention, GatedMLP(config, config.mlp_bias, fused_gate_up=True), modernbert_norm)
        if layer_id == 0:
            self.input_layernorm = None

    def construct(self, x, residual, step):
        if self.input_layernorm is None:
            residual = x
        else:
            x, residual = self.input_layernorm(x, residual)
        x, residual = self.post_attention_layernorm(self.self_attn(x, step), residual)
        return self.mlp(x, step), residual


class ModernBertEncoder(Decoder):
    """It normalizes embedded tokens too."""

    def __init__(self, config, layer_class, norm):
        super().__init__(config, layer_class, norm)
        self.embedding_norm = norm(config)

    def hidden_states(self, x, step):
        x, residual = self.embedding_norm.plain(self.embed_tokens(x, step)), None
        for layer in self.layers:
            x, residual = layer(x, residual, step)
        return (self.norm(x, residual)[0],)


class ModernBertModel(Pooled, CausalLM):
    config_class = ModernBertConfig
    decoder_class = ModernBertEncoder
    layer_class = ModernBertLayer
    norm = staticmethod(modernbert_norm)
    pooling = "cls"
    whole_prompts = True
    tensor_names = {
        "model.embed_tokens": "model.embeddings.tok_embeddings",
        "model.embedding_norm": "model.embeddings.norm",
        "model.norm": "model.final_norm",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "mlp_norm",
        "self_attn.qkv_proj": "attn.Wqkv",
        "self_attn.o_proj": "attn.Wo",
        "mlp.gate_up_proj": "mlp.Wi",
        "mlp.down_proj": "mlp.Wo",
    }
    ignored_tensors = (r"^(head|decoder)\.",)  # of words


class PredictionHead(nn.Cell):
    """x float32 [B, hidden_size] -> norm(gelu(dense(x)))."""

    def __init__(self, config):
        super().__init__()
        size = config.hidden_size
        self.dense, self.norm = ScoreLinear(size, size, bias=config.classifier_bias), modernbert_norm(config)
        self.eps = config.rms_norm_eps

    def construct(self, x):
        x = functions.gelu(self.dense(x), approximate="none")
        x = x - x.mean(-1, keep_dims=True)
        x = x * functions.rsqrt((x * x).mean(-1, keep_dims=True) + self.eps) * self.norm.weight.astype(x.dtype)
        return x if self.norm.bias is None else x + self.norm.bias.astype(x.dtype)


class ModernBertForSequenceClassification(ModernBertModel):
    tensor_names = {**ModernBertModel.tensor_names, "prediction": "head"}
    ignored_tensors = ()

    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        self.pooling = self.config.classifier_pooling
        self.prediction = PredictionHead(self.config)
        self.classifier = ScoreLinear(self.config.hidden_size, classes(self.config), bias=True)

    def scores(self, x):
        """Pooled hidden states, float32 [B, hidden_size] -> float32 [B, classes]."""
        return self.classifier(self.prediction(x))

"""The frame of BERT and its kin: embeddings of words, places and kinds of tokens, and layers that end with their norms.

Tokens see each other in both directions, so a prompt is computed in one step. References:
transformers/models/bert/modeling_bert.py, xlm_roberta/modeling_xlm_roberta.py.
"""

from mindspore import nn
from mindspore import ops as functions

from sglang.srt.layers_ms import MLP, Attention, LayerNorm, ReplicatedEmbedding, ops
from sglang.srt.layers_ms.mlp import UNGATED
from sglang.srt.layers_ms.ops.metadata import INPUT_IDS, TOKEN_TYPE_IDS
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM
from sglang.srt.models_ms.pooled import Pooled
from sglang.srt.models_ms.positions import LearnedPositionsConfig, PositionedDecoder


def bert_norm(config):
    return LayerNorm(config.hidden_size, config.rms_norm_eps, config.dtype)


class EncoderConfig(LearnedPositionsConfig):
    hidden_act: str = key("hidden_act", "gelu", accepted=UNGATED)
    rms_norm_eps: float = key("layer_norm_eps", 1e-12)
    type_vocab_size: int = key("type_vocab_size", 2)
    expected = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
    ignored = {
        "directionality": "of BERT's first code; tokens see each other in both directions",
        "output_past": "of decoders",
        "pooler_fc_size": "of BERT's first code",
        "pooler_num_attention_heads": "of BERT's first code",
        "pooler_num_fc_layers": "of BERT's first code",
        "pooler_size_per_head": "of BERT's first code",
        "pooler_type": "of BERT's first code",
    }


class EncoderLayer(nn.Cell):
    """x -> norm(x + attention(x)) -> norm(x + mlp(x))."""

    def __init__(self, config, layer_id):
        super().__init__()
        self.self_attn = Attention(config, layer_id, qkv_bias=True, out_bias=True, bidirectional=True)
        self.mlp = MLP(config, bias=True)
        self.attention_norm, self.output_norm = bert_norm(config), bert_norm(config)

    def construct(self, x, step):
        x, _ = self.attention_norm(self.self_attn(x, step), x)
        x, _ = self.output_norm(self.mlp(x, step), x)
        return x


class Encoder(PositionedDecoder):
    """Its norm is that of the embeddings."""

    def __init__(self, config, layer_class, norm):
        super().__init__(config, layer_class, norm)
        self.token_types = ReplicatedEmbedding(config.type_vocab_size, config.hidden_size, config.dtype)

    def hidden_states(self, x, step):
        types = self.token_types(ops.with_valid_rows(step[TOKEN_TYPE_IDS.name], step))
        x = self.norm.plain(ops.add(self.embed(x, step), types, 1.0))
        for layer in self.layers:
            x = layer(x, step)
        return (x,)


class EncoderModel(Pooled, CausalLM):
    """Embeds texts by their first token, unless the checkpoint's sentence-transformers files say otherwise."""

    config_class = EncoderConfig
    decoder_class = Encoder
    layer_class = EncoderLayer
    norm = staticmethod(bert_norm)
    pooling = "cls"
    whole_prompts = True
    ignored_tensors = (r"position_ids$", r"pooler\.dense\.(weight|bias)$")

    def model_inputs(self):
        return (INPUT_IDS, TOKEN_TYPE_IDS)


def tanh(x):
    """MindSpore 2.10's own has errors of 1e-4."""
    return 2.0 * functions.sigmoid(2.0 * x) - 1.0


def tensor_names(prefix: str) -> dict[str, str]:
    """Our names -> those of a checkpoint whose encoder is `prefix`."""
    return {
        "model.embed_tokens": f"{prefix}.embeddings.word_embeddings",
        "model.positions": f"{prefix}.embeddings.position_embeddings",
        "model.token_types": f"{prefix}.embeddings.token_type_embeddings",
        "model.norm": f"{prefix}.embeddings.LayerNorm",
        "model.layers": f"{prefix}.encoder.layer",
        "self_attn.q_proj": "attention.self.query",
        "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value",
        "self_attn.o_proj": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "mlp.up_proj": "intermediate.dense",
        "mlp.down_proj": "output.dense",
        "output_norm": "output.LayerNorm",
    }


def older_names(prefix: str) -> dict[str, str]:
    """The same of checkpoints that were converted from TensorFlow: norms have a gamma and a beta."""
    of_norms = {}
    for norm in ("model.norm", "attention_norm", "output_norm"):
        name = tensor_names(prefix)[norm]
        of_norms |= {f"{norm}.weight": f"{name}.gamma", f"{norm}.bias": f"{name}.beta"}
    return of_norms | tensor_names(prefix)

"""RoBERTa and XLM-RoBERTa: BERT whose positions are counted from behind that of padding, and another head.

Reference: transformers/models/xlm_roberta/modeling_xlm_roberta.py, which gives a token of padding within a text the
position of padding; here it has the one of its place.
"""

from mindspore import nn

from sglang.srt.layers_ms.score import ScoreLinear
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.encoder import EncoderConfig, EncoderModel, tanh, tensor_names
from sglang.srt.models_ms.pooled import classes


class XLMRobertaConfig(EncoderConfig):
    rms_norm_eps: float = key("layer_norm_eps", 1e-5)
    pad_token_id: int = key("pad_token_id", 1)

    @property
    def first_position(self):
        return self.pad_token_id + 1


class XLMRobertaModel(EncoderModel):
    config_class = XLMRobertaConfig
    tensor_names = tensor_names("roberta")
    optional_prefix = "roberta."

    @classmethod
    def longest_context(cls, hf_config):
        return hf_config.max_position_embeddings - hf_config.pad_token_id - 1


class RobertaModel(XLMRobertaModel):
    """The same with another vocabulary."""


class ClassificationHead(nn.Cell):
    def __init__(self, size: int, count: int):
        super().__init__()
        self.dense, self.out_proj = ScoreLinear(size, size, bias=True), ScoreLinear(size, count, bias=True)

    def construct(self, x):
        return self.out_proj(tanh(self.dense(x)))


class XLMRobertaForSequenceClassification(XLMRobertaModel):
    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        self.classifier = ClassificationHead(self.config.hidden_size, classes(self.config))

    def scores(self, x):
        """Hidden states of first tokens, float32 [B, hidden_size] -> float32 [B, classes]."""
        return self.classifier(x)


class RobertaForSequenceClassification(XLMRobertaForSequenceClassification):
    """The same with another vocabulary."""

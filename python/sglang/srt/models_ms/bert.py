"""BERT: embeddings, and scores of a text or of a pair of texts by a head on the first token.

Reference: transformers/models/bert/modeling_bert.py.
"""

from sglang.srt.layers_ms.score import ScoreLinear
from sglang.srt.models_ms.encoder import EncoderModel, older_names, tanh, tensor_names
from sglang.srt.models_ms.pooled import classes


class BertModel(EncoderModel):
    tensor_names = tensor_names("bert")
    other_tensor_names = (older_names("bert"),)
    optional_prefix = "bert."


class Contriever(BertModel):
    """Trained to be read as the mean of its tokens, which its checkpoints do not say."""

    pooling = "mean"


class BertForSequenceClassification(BertModel):
    tensor_names = tensor_names("bert") | {"pooler": "bert.pooler.dense"}
    other_tensor_names = (older_names("bert") | {"pooler": "bert.pooler.dense"},)
    ignored_tensors = (r"position_ids$",)

    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        size = self.config.hidden_size
        self.pooler = ScoreLinear(size, size, bias=True)
        self.classifier = ScoreLinear(size, classes(self.config), bias=True)

    def scores(self, x):
        """Hidden states of first tokens, float32 [B, hidden_size] -> float32 [B, classes]."""
        return self.classifier(tanh(self.pooler(x)))

"""Decoders that do not generate: embeddings, and scores of a whole text by a small head (classes, rewards).

The graph computes hidden states as it does for generation. SGLang picks each request's last token of them, and
`scores`, outside the graph, is the head. References: transformers' *ForSequenceClassification; for reward models the
code that their checkpoints bring along.
"""

from mindspore import nn, ops

from sglang.srt.layers_ms.score import ScoreLinear
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.gemma2 import Gemma2ForCausalLM
from sglang.srt.models_ms.gemma3 import Gemma3Config, Gemma3ForCausalLM
from sglang.srt.models_ms.internlm2 import InternLM2Config, InternLM2ForCausalLM
from sglang.srt.models_ms.llama import LlamaConfig, LlamaForCausalLM
from sglang.srt.models_ms.mistral import MistralForCausalLM
from sglang.srt.models_ms.qwen2 import Qwen2ForCausalLM
from sglang.srt.models_ms.qwen3 import Qwen3ForCausalLM


class Pooled:
    """Before a decoder's class: the decoder without the head of its vocabulary."""

    scores_vocabulary = False


def embedding_class(decoder: type) -> type:
    """The class for embeddings of a decoder, which may be one already."""
    return decoder if issubclass(decoder, Pooled) else type(decoder.__name__, (Pooled, decoder), {})


class Classifier(Pooled):
    """A score for each class."""

    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        self.score = ScoreLinear(self.config.hidden_size, classes(self.config))

    def scores(self, x):
        """Hidden states float32 [B, hidden_size] -> float32 [B, classes]."""
        return self.score(x)


def classes(config) -> int:
    return len(config.id2label) or config.num_labels


class Reward(Pooled):
    """One score, by a perceptron of one hidden layer."""

    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        size = self.config.hidden_size
        self.score = nn.SequentialCell(ScoreLinear(size, size, bias=True), nn.ReLU(), ScoreLinear(size, 1, bias=True))

    def scores(self, x):
        return self.score(x)


class LlamaModel(Pooled, LlamaForCausalLM):
    pass


class LlamaEmbeddingModel(Pooled, LlamaForCausalLM):
    pass


class MistralModel(Pooled, MistralForCausalLM):
    pass


class Qwen2Model(Pooled, Qwen2ForCausalLM):
    pass


class Qwen3Model(Pooled, Qwen3ForCausalLM):
    pass


class Gemma3TextConfig(Gemma3Config):
    bidirectional: bool = key("use_bidirectional_attention", False)

    @computed
    def windows(self):
        """Of both directions together where there are two: what is published is the width to both sides."""
        causal = super().windows
        return tuple(window // 2 + 1 if window else 0 for window in causal) if self.bidirectional else causal


class Gemma3TextModel(Pooled, Gemma3ForCausalLM):
    """EmbeddingGemma, whose tokens see each other in both directions; or the decoder of Gemma 3 as it is."""

    config_class = Gemma3TextConfig

    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        self.whole_prompts = self.config.bidirectional
        self.pooling = "mean" if self.config.bidirectional else Gemma3ForCausalLM.pooling


class LlamaForSequenceClassification(Classifier, LlamaForCausalLM):
    pass


class LlamaForClassificationConfig(LlamaConfig):
    classification_out_size: int = key("classification_out_size")


class LlamaForClassification(Pooled, LlamaForCausalLM):
    """A score for each class, by names of SGLang's own. Reference: sglang/srt/models/llama_classification.py."""

    config_class = LlamaForClassificationConfig

    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        self.classification_head = ScoreLinear(self.config.hidden_size, self.config.classification_out_size)

    def scores(self, x):
        return self.classification_head(x)


class Qwen2ForSequenceClassification(Classifier, Qwen2ForCausalLM):
    pass


class Qwen3ForSequenceClassification(Classifier, Qwen3ForCausalLM):
    pass


class Gemma2ForSequenceClassification(Classifier, Gemma2ForCausalLM):
    pass


class InternLM2ForRewardModelConfig(InternLM2Config):
    ignored = {"reward_token_id": "SGLang scores the last token; a text that is to be scored ends with this one"}


class InternLM2ForRewardModel(Pooled, InternLM2ForCausalLM):
    """One score, without a perceptron."""

    config_class = InternLM2ForRewardModelConfig

    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        self.v_head = ScoreLinear(self.config.hidden_size, 1)

    def scores(self, x):
        return self.v_head(x)


class Qwen2ForRewardModel(Reward, Qwen2ForCausalLM):
    pass


class Qwen3ForRewardModel(Reward, Qwen3ForCausalLM):
    pass


class GatedScores(nn.Cell):
    """What each attribute counts for this text: x [B, hidden_size] -> [B, attributes]."""

    def __init__(self, size: int, attributes: int):
        super().__init__()
        layers = [ScoreLinear(size, size, bias=True), nn.SeLU(), ScoreLinear(size, size, bias=True), nn.SeLU()]
        self.fc = nn.SequentialCell(*layers, ScoreLinear(size, attributes, bias=True))

    def construct(self, x):
        return self.fc(x)


class LlamaForSequenceClassificationWithNormal_Weights(Classifier, LlamaForCausalLM):
    """Classes come in pairs, mean and variance of an attribute's score; the reward is a weighted sum of the means."""

    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        self.weights = GatedScores(self.config.hidden_size, classes(self.config) // 2)

    def scores(self, x):
        means = self.score(x)[:, ::2]
        return ops.sum(means * self.weights(x), 1, keepdim=True)

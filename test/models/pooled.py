"""Small random checkpoints of models that do not generate, and what they should answer."""

import copy
import functools
from pathlib import Path

import torch
from models import reference_models
from models.tiny import TINY, randomize
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

CLASSES = 6
OF_SIZES = ("num_labels", "hidden_size")  # what tensors depend on


class Reward(nn.Module):
    """Qwen2.5-Math-RM, as the code beside its checkpoint says: a perceptron on the last token's hidden state."""

    def __init__(self, config):
        super().__init__()
        self.model, size = AutoModel.from_config(config), config.hidden_size
        self.score = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 1))

    def forward(self, ids):
        return self.score(self.model(ids).last_hidden_state[:, -1])


class NormalWeights(nn.Module):
    """URM-LLaMa, as the code beside its checkpoint says: the weighted sum of attributes' mean scores."""

    def __init__(self, config):
        super().__init__()
        self.model, size = AutoModel.from_config(config), config.hidden_size
        self.score = nn.Linear(size, CLASSES, bias=False)
        self.weights = nn.ModuleDict()
        self.weights["fc"] = nn.Sequential(
            nn.Linear(size, size), nn.SELU(), nn.Linear(size, size), nn.SELU(), nn.Linear(size, CLASSES // 2)
        )

    def forward(self, ids):
        last = self.model(ids).last_hidden_state[:, -1]
        mean, _variance = self.score(last).unflatten(-1, (-1, 2)).unbind(-1)
        return (mean * self.weights["fc"](last)).sum(-1, keepdim=True)


class Classes(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.classifier = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
        padded = self.classifier.config.pad_token_id is not None and not isinstance(self, CrossEncoder)
        assert not padded, "transformers reads the last token where there is none"

    def forward(self, ids):
        return self.classifier(ids).logits


class ClassificationHead(nn.Module):
    """As SGLang's llama_classification.py says."""

    def __init__(self, config):
        super().__init__()
        config.classification_out_size = CLASSES
        self.model = AutoModel.from_config(config)
        self.classification_head = nn.Linear(config.hidden_size, CLASSES, bias=False)

    def forward(self, ids):
        return self.classification_head(self.model(ids).last_hidden_state[:, -1])


class Scalar(nn.Module):
    """InternLM2-Reward: v_head on the last token's hidden state, where a causal model has its head."""

    def __init__(self, config):
        super().__init__()
        self.config = config

    def tensors(self):
        found = reference_models.tensors(self.config)
        return found | {"v_head.weight": found.pop("output.weight")[:1]}

    def forward(self, ids):
        weights = {name: tensor.double().numpy() for name, tensor in self.tensors().items()}
        weights["output.weight"] = weights["v_head.weight"]
        found = reference_models.module(self.config).logits(self.config, weights, ids[0].numpy())
        return torch.from_numpy(found[-1:].astype("float32"))


class Embedding(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.decoder = AutoModel.from_config(config)

    def forward(self, ids):
        return nn.functional.normalize(self.decoder(ids).last_hidden_state[:, -1])


class Encoder(nn.Module):
    """An encoder's embedding of a text, normalized: its first token's, or the mean of all."""

    def __init__(self, config, pooling):
        super().__init__()
        self.encoder, self.pooling = AutoModel.from_config(config, attn_implementation="eager"), pooling

    def forward(self, ids):
        states = self.encoder(ids).last_hidden_state
        return nn.functional.normalize(states[:, 0] if self.pooling == "cls" else states.mean(1))


class CrossEncoder(Classes):
    """Scores of a text or a pair, as they are; of one class without its axis, as SGLang gives them."""

    def forward(self, ids, types=None):
        types = torch.zeros_like(ids) if types is None else types
        return self.classifier(ids, token_type_ids=types).logits.squeeze(-1)


class ModernCrossEncoder(CrossEncoder):
    """One that takes no types of tokens."""

    def forward(self, ids):
        return self.classifier(ids).logits.squeeze(-1)


ENCODERS = {  # variants of models that are no decoders; no size divides another
    "bert": dict(
        model_type="bert",
        vocab_size=131,
        hidden_size=60,
        intermediate_size=76,
        num_hidden_layers=2,
        num_attention_heads=6,
        max_position_embeddings=256,
        type_vocab_size=3,
        layer_norm_eps=3e-3,
        hidden_act="gelu",
    ),
    "embeddinggemma": dict(TINY["gemma3"], use_bidirectional_attention=True, model_type="gemma3_text"),
}
ENCODERS["xlm-roberta"] = dict(ENCODERS["bert"], model_type="xlm-roberta", type_vocab_size=1, pad_token_id=4)
ENCODERS["roberta"] = dict(ENCODERS["xlm-roberta"], model_type="roberta")
ENCODERS["modernbert"] = dict(
    model_type="modernbert",
    vocab_size=131,
    hidden_size=60,
    intermediate_size=76,
    num_hidden_layers=4,
    num_attention_heads=6,
    max_position_embeddings=256,
    norm_eps=3e-3,
    local_attention=14,
    rope_parameters={
        kind: dict(rope_type="default", rope_theta=theta)
        for kind, theta in (("full_attention", 700.0), ("sliding_attention", 90.0))
    },
)
VARIANTS = TINY | ENCODERS
KINDS = {  # architecture -> variant of its decoder, and what it does with that
    "LlamaModel": ("llama-bias", Embedding),
    "LlamaEmbeddingModel": ("llama", Embedding),
    "MistralModel": ("mistral", Embedding),
    "Qwen2Model": ("qwen2", Embedding),
    "Qwen3Model": ("qwen3", Embedding),
    "LlamaForSequenceClassification": ("llama", Classes),
    "LlamaForSequenceClassificationWithNormal_Weights": ("llama", NormalWeights),
    "Qwen2ForSequenceClassification": ("qwen2-tied", Classes),
    "Qwen3ForSequenceClassification": ("qwen3", Classes),
    "LlamaForClassification": ("llama-head-dim", ClassificationHead),
    "Gemma2ForSequenceClassification": ("gemma2", Classes),
    "InternLM2ForRewardModel": ("internlm2", Scalar),
    "Qwen2ForRewardModel": ("qwen2", Reward),
    "Qwen3ForRewardModel": ("qwen3-tied", Reward),
    "BertModel": ("bert", functools.partial(Encoder, pooling="cls")),
    "Contriever": ("bert", functools.partial(Encoder, pooling="mean")),
    "BertForSequenceClassification": ("bert", CrossEncoder),
    "XLMRobertaModel": ("xlm-roberta", functools.partial(Encoder, pooling="cls")),
    "XLMRobertaForSequenceClassification": ("xlm-roberta", CrossEncoder),
    "RobertaModel": ("roberta", functools.partial(Encoder, pooling="cls")),
    "RobertaForSequenceClassification": ("roberta", CrossEncoder),
    "ModernBertModel": ("modernbert", functools.partial(Encoder, pooling="cls")),
    "ModernBertForSequenceClassification": ("modernbert", ModernCrossEncoder),
    "Gemma3TextModel": ("embeddinggemma", functools.partial(Encoder, pooling="mean")),
}
WHOLE = [name for name, (variant, _) in KINDS.items() if variant in ENCODERS]  # each prompt is one step


def against(architecture: str) -> str:
    _, kind = KINDS[architecture]
    return (
        "a reference model, from its code"
        if kind in (Reward, NormalWeights, ClassificationHead, Scalar)
        else "transformers"
    )


@functools.cache
def model(architecture: str, **config) -> nn.Module:
    """float32; ids [1, T] -> what the model says of them [1, values]."""
    variant, kind = KINDS[architecture]
    if kind is Scalar:
        return kind(TINY[variant])
    torch.manual_seed(len(architecture))
    settings = {"num_labels": CLASSES, "pad_token_id": None, **VARIANTS[variant], **config}
    made = kind(AutoConfig.for_model(**settings)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            randomize(name, parameter)
    return made


def save(architecture: str, folder: Path, **config) -> Path:
    """Write a checkpoint with the names that published ones use; returns the folder. config: more values of it."""
    made = model(architecture, **{key: value for key, value in config.items() if key in OF_SIZES})
    if isinstance(made, Scalar):
        reference_models.save({**made.config, "architectures": [architecture]}, folder)
        save_file(made.tensors(), folder / "model.safetensors")
        return folder
    inner = next(iter(made.children())) if isinstance(made, (Classes, Embedding, Encoder)) else made
    settings = copy.deepcopy(inner.config if hasattr(inner, "config") else made.model.config)
    settings.update({"architectures": [architecture], **config})
    settings.save_pretrained(folder)
    save_file({name: tensor.contiguous() for name, tensor in inner.state_dict().items()}, folder / "model.safetensors")
    return folder


@torch.no_grad()
def answer(architecture: str, ids, *types, **config) -> torch.Tensor:
    """[values] of a text; types: for cross-encoders, which of a pair each token is of. config: as `save`'s."""
    return model(architecture, **config)(torch.as_tensor(ids)[None], *(torch.as_tensor(one)[None] for one in types))[0]

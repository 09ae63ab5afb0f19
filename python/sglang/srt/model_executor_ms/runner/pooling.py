"""Pools the hidden states of embedding, classification and reward models."""

import torch

from sglang.srt.layers.activation import get_cross_encoder_activation_function
from sglang.srt.layers.pooler import EmbeddingPoolerOutput, Pooler, PoolingType, pool_hidden_states, score_and_pool
from sglang.srt.model_executor_ms.runner import bridge, sentence_transformers
from sglang.srt.model_executor_ms.runner.sentence_transformers import Recipe
from sglang.srt.model_loader_ms.files import CheckpointError


def mean_of_each(hidden_states: torch.Tensor, forward_batch) -> torch.Tensor:
    """hidden_states [T, n] of whole requests -> [B, n].

    SGLang's sums over all rows of a step before it takes differences, which loses digits of long steps.
    """
    return torch.stack([rows.mean(0) for rows in hidden_states.split(forward_batch.extend_seq_lens.tolist())])


def _by_sglang(pooling_type):
    return lambda hidden_states, forward_batch: pool_hidden_states(pooling_type, hidden_states, forward_batch)


POOLINGS = {"lasttoken": _by_sglang(PoolingType.LAST), "cls": _by_sglang(PoolingType.CLS), "mean": mean_of_each}
OF_SCORES = {"lasttoken": PoolingType.LAST, "cls": PoolingType.CLS, "mean": PoolingType.MEAN}


class Projection:
    """The products behind the pooling, in float32, with weights of their own files."""

    def __init__(self, dense: tuple[sentence_transformers.Dense, ...]):
        self.dense, self.weights, self.checked = dense, [], []

    def check(self, model_path: str, revision: str | None = None) -> None:
        """Read them, for `load`; CheckpointError where one lacks, or has other sizes than the model's."""
        self.checked = [self._read(model_path, revision, one) for one in self.dense]

    def load(self) -> None:
        """Take what the last `check` read."""
        self.weights, self.checked = self.checked or self.weights, []

    def fill(self) -> None:
        """With small random numbers, of a model without files."""
        random = torch.Generator().manual_seed(0)
        shapes = ((one.out_features, one.in_features, one.bias) for one in self.dense)
        self.weights = [
            (torch.randn(rows, columns, generator=random), torch.zeros(rows) if bias else None)
            for rows, columns, bias in shapes
        ]

    @staticmethod
    def _read(model_path, revision, dense):
        try:
            file = sentence_transformers.weights(model_path, revision, dense)
        except FileNotFoundError as error:
            raise CheckpointError(str(error)) from error
        if file.suffix == ".bin":
            held = torch.load(file, map_location="cpu", weights_only=True)
        else:
            from safetensors.torch import load_file

            held = load_file(file)
        wanted = {"linear.weight": (dense.out_features, dense.in_features)}
        wanted |= {"linear.bias": (dense.out_features,)} if dense.bias else {}
        found = {name: tuple(tensor.shape) for name, tensor in held.items()}
        if found != wanted:
            raise CheckpointError(f"{file} has {found}, its config.json wants {wanted}")
        return held["linear.weight"].float(), held["linear.bias"].float() if dense.bias else None

    def __call__(self, pooled: torch.Tensor) -> torch.Tensor:
        for dense, (weight, bias) in zip(self.dense, self.weights, strict=True):
            pooled = torch.nn.functional.linear(pooled, weight.to(pooled.device), bias)
            pooled = getattr(torch, dense.activation)(pooled) if dense.activation else pooled
        return pooled


class Pooling(torch.nn.Module):
    """Hidden states of a step -> for each request a normalized embedding, or the scores of the model's head.

    Embeddings are what the recipe says; scores are of the token that the network's `pooling` names.
    """

    def __init__(self, network, recipe: Recipe, config=None):
        """config: SGLang's of a model with scores, which may name what is done with those of a cross-encoder."""
        super().__init__()
        self.scores = getattr(network, "scores", None)
        self.pool, self.projection = POOLINGS[recipe.pooling], Projection(recipe.dense)
        self.score_pooler = Pooler(OF_SCORES[network.pooling], normalize=False)
        # As SGLang's CrossEncodingPooler has it.
        encodes = network.pooling != "lasttoken"
        self.activation = get_cross_encoder_activation_function(config) if encodes else None

    def forward(self, hidden_states: torch.Tensor, forward_batch, input_ids: torch.Tensor) -> EmbeddingPoolerOutput:
        """hidden_states [T, hidden_size] -> embeddings [B, n or fewer], or scores [B, classes]."""
        hidden_states = hidden_states.float()
        if self.scores is not None:
            return score_and_pool(self._score, self.score_pooler, hidden_states, forward_batch, input_ids)
        pooled = self.projection(self.pool(hidden_states, forward_batch))
        return EmbeddingPoolerOutput(embeddings=_normalized(pooled, forward_batch.dimensions))

    def _score(self, pooled: torch.Tensor) -> torch.Tensor:
        scores = bridge.to_torch(self.scores(bridge.to_mindspore(pooled.contiguous())))
        return scores if self.activation is None else self.activation(scores).squeeze(-1)


def _normalized(pooled, dimensions):
    """pooled [B, n], cut to so many dimensions of each where requests ask for it."""
    normalize = torch.nn.functional.normalize
    if dimensions is None:
        return normalize(pooled, dim=-1)
    if len(set(dimensions)) == 1:
        return normalize(pooled[:, : dimensions[0]], dim=-1)
    return [normalize(row[:size], dim=-1) for row, size in zip(pooled, dimensions, strict=True)]

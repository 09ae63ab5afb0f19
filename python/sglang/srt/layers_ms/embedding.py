"""The embedding of token ids, and the head that computes logits."""

import mindspore as ms
import numpy as np
from mindspore import Type

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.quantization.base import EMBEDDING, HEAD, LOOKUP, Matrix, MethodLayer
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, loaded_values, parameter, put_values

ALL = slice(None)


def _matrix(vocab_size: int, hidden_size: int, shard: Shard, dtype: Type, sources: tuple) -> tuple[Matrix, int]:
    """This rank's rows of a [vocab_size, hidden_size] matrix, and its first one.

    Zeros pad it to equally many rows on all ranks. sources: names that it may have in the checkpoint, relative to its
    cell.
    """
    rows = shard.padded_vocab(vocab_size) // shard.size
    first = rows * shard.rank
    read = slice(min(first, vocab_size), min(first + rows, vocab_size))
    own, *others = (
        (WeightSlice(source, (read, ALL), slice(0, read.stop - read.start), (vocab_size, hidden_size)),)
        for source in sources
    )
    return Matrix((rows, hidden_size), dtype, own, others), first


class Vocabulary(MethodLayer):
    """A matrix with a row for each token: `matrix`, of which this rank has the rows from `first` on."""

    matrix: Matrix

    def matrices(self):
        return {"weight": self.matrix}

    def logits(self, x):
        """x [T, hidden_size] -> float32 [T, rows], without a bias. Called outside graphs."""
        return self.method.logits(self, x)

    def host_logits(self):
        """What computes `logits` of rows in the host's memory, as ops.host_logits; None: tensors are wanted."""
        return self.method.host_logits(self)


class VocabParallelEmbedding(Vocabulary):
    """ids [T] -> rows [T, hidden_size], times `factor`."""

    kind = LOOKUP

    def __init__(self, vocab_size, hidden_size, shard, dtype, factor=1.0, *sources):
        """sources: names that the matrix may have in the checkpoint, relative to this cell; none: weight."""
        super().__init__()
        self.matrix, self.first = _matrix(vocab_size, hidden_size, shard, dtype, sources or ("weight",))
        self.factor = factor
        self.lora = None  # what adapters add, lora.EmbeddingLoRA, where there are any
        self.group = shard.group if shard.size > 1 else None

    def construct(self, ids, step=None):
        rows = self.method.embed(self, ids)
        return self._of_all_ranks(rows if self.lora is None else self.lora(rows, ids, step))

    def plain(self, ids):
        """Without adapters: what a draft begins with."""
        return self._of_all_ranks(self.method.embed(self, ids))

    def _of_all_ranks(self, rows):
        rows = rows if self.group is None else ops.all_reduce(rows, self.group)
        return rows if self.factor == 1.0 else ops.scale(rows, self.factor)


class ReplicatedEmbedding(VocabParallelEmbedding):
    """A table that every rank has, of positions or of kinds of tokens: id i is its row i - first."""

    def __init__(self, count, hidden_size, dtype, first=0):
        super().__init__(count, hidden_size, Shard(), dtype)
        self.first = first


class LMHead(Vocabulary):
    """The head that scores hidden states. SGLang's LogitsProcessor asks for the logits.

    sources: names that the matrix may have in the checkpoint, relative to this cell; none: weight. Another one than its
    own is never held as codes. bias: whether there is one, float32 [rows], which whoever asks for logits adds.
    """

    def __init__(self, vocab_size: int, hidden_size: int, shard: Shard, dtype: Type, *sources: str, bias: bool = False):
        super().__init__()
        self.unit_rows = False  # whether loaded rows are given the length one
        self.kind = EMBEDDING if sources else HEAD
        self.matrix, self.first = _matrix(vocab_size, hidden_size, shard, dtype, sources or ("weight",))
        self.bias = None
        if bias:
            of_rows = self.matrix.slices[0]
            slices = WeightSlice("bias", of_rows.read[:1], of_rows.rows, (vocab_size,))
            self.bias = parameter(self.matrix.shape[:1], ms.float32, slices)

    def process_weights_after_loading(self):
        if self.unit_rows:
            self.scale_rows_to_one()
        super().process_weights_after_loading()

    @property
    def can_unpack(self):
        return super().can_unpack and not self.unit_rows

    def scale_rows_to_one(self):
        """Give the loaded rows the length one. Before they are packed. Yang et al., 2023 (Baichuan 2's NormHead)."""
        for start in range(0, len(self.weight.host), 4096):  # rows: bounds the memory that float32 copies take
            some = slice(start, start + 4096)
            rows = loaded_values(self.weight, some)
            length = np.maximum(np.sqrt((rows * rows).sum(-1, keepdims=True)), 1e-12)
            put_values(self.weight, rows / length, some)
        ops.renew(self.weight)

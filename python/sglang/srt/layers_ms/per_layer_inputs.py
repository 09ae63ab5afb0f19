"""Per-layer embeddings: each layer adds what it makes of a token's row in a table of its own. Gemma 3n and 4.

Checkpoints have the tables of all layers side by side in one matrix, and so the products beside them.
Reference: transformers/models/gemma4/modeling_gemma4.py.
"""

from mindspore import float32, nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.embedding import VocabParallelEmbedding
from sglang.srt.layers_ms.linear import Linear, ReplicatedLinear
from sglang.srt.layers_ms.norm import RMSNorm
from sglang.srt.layers_ms.ops.metadata import INPUT_IDS
from sglang.srt.layers_ms.quantization.base import DENSE, Matrix
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

ALL = slice(None)
DECODER = "../../../../"  # from a cell of PerLayerInputs to the decoder


class PerLayerTable(VocabParallelEmbedding):
    """A layer's columns of the matrix of all layers' tables: ids [T] -> rows [T, size]."""

    def __init__(self, config, layer_id):
        size, layers = config.hidden_size_per_layer_input, config.num_hidden_layers
        vocabulary, factor = config.vocab_size_per_layer_input, config.runtime.cast_like_activations(size**0.5)
        super().__init__(vocabulary, size, config.shard.attention, config.dtype, factor)
        (own,) = self.matrix.slices
        columns = slice(layer_id * size, (layer_id + 1) * size)
        source = f"{DECODER}embed_tokens_per_layer.weight"
        own = own._replace(source=source, read=(own.read[0], columns), whole=(vocabulary, layers * size))
        self.matrix = Matrix(self.matrix.shape, config.dtype, (own,))


class PerLayerInputs(nn.Cell):
    """What a layer is given of its tokens: rows of its table, and a product of their embeddings, normalized."""

    def __init__(self, config, layer_id):
        super().__init__()
        hidden, size, dtype = config.hidden_size, config.hidden_size_per_layer_input, config.dtype
        self.table = PerLayerTable(config, layer_id)
        rows, whole = slice(layer_id * size, (layer_id + 1) * size), (config.num_hidden_layers * size, hidden)
        source = f"{DECODER}per_layer_model_projection.weight"
        self.projection = Linear((size, hidden), dtype, [WeightSlice(source, (rows, ALL), whole=whole)])
        self.projection.kind = DENSE
        source = f"{DECODER.removeprefix('../')}per_layer_projection_norm.weight"
        self.norm = parameter((size,), dtype, WeightSlice(source, (ALL,)))
        self.eps, self.factor = config.rms_norm_eps, hidden**-0.5

    def construct(self, embedded, step):
        """embedded [T, hidden_size] -> [T, size]."""
        rows = self.table(ops.with_valid_rows(step[INPUT_IDS.name], step), step)
        projected = ops.scale(self.projection(embedded, step), self.factor)
        projected = ops.rms_norm(projected, self.norm, self.eps, 0.0)
        return ops.scale(ops.add(projected, rows, 1.0), 2.0**-0.5)


class LayerScalar(nn.Cell):
    """x [T, n] -> x times the number that the checkpoint has for this layer."""

    def __init__(self):
        super().__init__()
        self.factor = parameter((1,), float32, WeightSlice("../layer_scalar", (ALL,)))

    def construct(self, x):
        return ops.scale_by(x, self.factor)


class PerLayerGate(nn.Cell):
    """x -> norm(projection(gelu(gate(x)) * inputs)), which is added to x."""

    def __init__(self, config):
        super().__init__()
        hidden, size, dtype = config.hidden_size, config.hidden_size_per_layer_input, config.dtype
        self.gate = ReplicatedLinear(hidden, size, dtype)
        self.projection = ReplicatedLinear(size, hidden, dtype)
        self.norm = RMSNorm(hidden, config.rms_norm_eps, dtype)

    def construct(self, x, inputs, step):
        gated = ops.gelu_tanh_and_mul(ops.concat_columns(self.gate(x, step), inputs))
        return self.norm.plain(self.projection(gated, step))

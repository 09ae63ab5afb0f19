"""Streams beside the one that a decoder's layers compute: each layer predicts all, and corrects them. Gemma 3n.

A token's streams lie side by side in a row, [T, streams * hidden_size]. Reference: Baykal et al., 2023 (AltUp), and
transformers/models/gemma3n/modeling_gemma3n.py, which has LAuReL (Menghani et al., 2024) too.
"""

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.linear import ReplicatedLinear
from sglang.srt.layers_ms.norm import RMSNorm
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

LEAST = 1e-5  # mean square of a stream whose magnitude is matched


def projections(config) -> nn.CellList:
    """A matrix for each stream but the first."""
    size, dtype = config.hidden_size, config.dtype
    return nn.CellList(
        [ReplicatedLinear(size, size, dtype, quantizable=False) for _ in range(1, config.altup_num_inputs)]
    )


def split_streams(x, matrices, step):
    """x [T, hidden_size] -> streams: x, and what `projections` make of it, as long as x."""
    streams = x
    for matrix in matrices:
        streams = ops.concat_columns(streams, ops.match_magnitude(matrix(x, step), x, LEAST))
    return streams


class StreamsNorm(RMSNorm):
    """Streams -> norm of their mean [T, hidden_size], all made as long as the first, behind RMSNorm's interface."""

    def __init__(self, config):
        super().__init__(config.hidden_size, config.rms_norm_eps, config.dtype)
        self.size, self.factor = config.hidden_size, 1.0 / config.altup_num_inputs
        self.projections = projections(config)

    def construct(self, x, residual=None):
        first = total = ops.take_stream(x, self.size, 0)
        for index, matrix in enumerate(self.projections):
            stream = matrix(ops.take_stream(x, self.size, index + 1))
            total = ops.add(total, ops.match_magnitude(stream, first, LEAST), 1.0)
        return self.plain(ops.scale(total, self.factor)), x


class AltUp(nn.Cell):
    """Of a layer: what its streams are predicted to be, and what they are once one of them is computed."""

    def __init__(self, config):
        super().__init__()
        size, streams, dtype = config.hidden_size, config.altup_num_inputs, config.dtype
        self.size, self.streams, self.active_index = size, streams, config.altup_active_idx
        self.modality_router = ReplicatedLinear(size, streams, dtype, quantizable=False)
        self.router_norm = RMSNorm(size, config.rms_norm_eps, dtype)
        self.prediction_coefs = ReplicatedLinear(streams, streams * streams, dtype, quantizable=False)
        self.correction_coefs = ReplicatedLinear(streams, streams, dtype, quantizable=False)
        self.correct_output_scale = parameter((size,), dtype, WeightSlice("correct_output_scale", (slice(None),)))

    def active(self, streams):
        return ops.take_stream(streams, self.size, self.active_index)

    def modalities(self, x):
        routed = self.modality_router(self.router_norm.plain(x))
        return ops.activate(ops.scale(routed, 1.0 / self.size), "tanh")

    def predict(self, streams):
        coefficients = self.prediction_coefs(self.modalities(self.active(streams)))
        return ops.mix_streams(streams, coefficients, self.streams)

    def correct(self, predictions, computed):
        """predictions [T, streams * hidden_size], computed [T, hidden_size] in the place of the active one."""
        innovation = ops.add(computed, self.active(predictions), -1.0)
        coefficients = self.correction_coefs(self.modalities(computed))
        return ops.add_to_streams(predictions, innovation, coefficients, 0, 1.0)

    def scaled(self, x):
        return ops.scale_columns(x, self.correct_output_scale)


class Laurel(nn.Cell):
    """x -> x + norm(right(left(x))), of a low rank."""

    def __init__(self, config):
        super().__init__()
        size, rank, dtype = config.hidden_size, config.laurel_rank, config.dtype
        self.linear_left, self.linear_right = ReplicatedLinear(size, rank, dtype), ReplicatedLinear(rank, size, dtype)
        self.post_laurel_norm = RMSNorm(size, config.rms_norm_eps, dtype)

    def construct(self, x, step):
        return ops.add(x, self.post_laurel_norm.plain(self.linear_right(self.linear_left(x, step), step)), 1.0)

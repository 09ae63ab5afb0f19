"""RMSNorm, alone or fused with the residual addition before it."""

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.model_loader_ms.pieces import Piece, parameter

ALL = slice(None)


class RMSNorm(nn.Cell):
    """Root mean square norm over rows of `size` values, or over every group of `size` values of longer rows."""

    def __init__(self, size, eps, dtype):
        super().__init__()
        self.eps = eps
        self.weight = parameter((size,), dtype, Piece("weight", (ALL,)))

    def construct(self, x, residual=None):
        """Without residual -> (norm of x, x); with it -> (norm of the sum, the sum)."""
        if residual is None:
            return ops.rms_norm(x, self.weight, self.eps), x
        return ops.add_rms_norm(x, residual, self.weight, self.eps)

    def plain(self, x):
        return ops.rms_norm(x, self.weight, self.eps)

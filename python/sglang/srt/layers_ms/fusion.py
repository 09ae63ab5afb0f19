"""Cells that compute a block together with the norm behind it."""

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.norm import RMSNorm


class BlockNorm(nn.Cell):
    """A block whose result is added to the residual stream, and the norm behind that.

    x [T, hidden_size], residual [T, hidden_size] -> (norm of residual + block(x), residual + block(x)).
    """

    def __init__(self, block: nn.Cell, norm: nn.Cell):
        super().__init__()
        self.block, self.norm = block, norm

    def construct(self, x, residual, step):
        return self.norm(self.block(x, step), residual)


class AllReduceRMSNorm(nn.Cell):
    """As BlockNorm, where the block's last product, its sum over the ranks, and the norm are one operator."""

    def __init__(self, block: nn.Cell, norm: RMSNorm):
        super().__init__()
        self.block, self.norm, self.linear = block, norm, block.output_proj()
        self.linear.method = self.linear.method.fused_with_norm()

    def construct(self, x, residual, step):
        x = self.block.before_output(x, step)
        return self.linear.method.apply_norm(self.linear, x, residual, self.norm, step["forward_mode"])


def fuses(block: nn.Cell, norm: nn.Cell) -> bool:
    """Whether AllReduceRMSNorm computes this block and this norm."""
    linear = block.output_proj()
    if linear is None or linear.group is None or linear.method.fused_with_norm() is None:
        return False
    return isinstance(norm, RMSNorm) and norm.offset == 0.0


class PreNormBlocks(nn.Cell):
    """A column of layers x -> x + block(norm(x)), computed as one norm, and then each block with the norm behind it.

    norms, blocks: in the order in which they are computed; last: the norm behind the last block, None where another
    stage has it. They stay in the layers that own them, and in the checkpoint under those layers' names.
    """

    def __init__(self, norms: list, blocks: list, last: nn.Cell | None):
        super().__init__()
        self.first, behind = norms[0], [*norms[1:], last]
        self.last_block = blocks[-1] if last is None else None
        pairs = [(block, norm) for block, norm in zip(blocks, behind, strict=True) if norm is not None]
        cells = [(AllReduceRMSNorm if fuses(*pair) else BlockNorm)(*pair) for pair in pairs]
        self.count = sum(isinstance(cell, AllReduceRMSNorm) for cell in cells)  # of fused ones
        self.blocks = nn.CellList(cells, auto_prefix=False)

    def construct(self, x, residual, step):
        """x [T, hidden_size], residual as of the stage before, or None -> [T, hidden_size] of all layers and `last`."""
        x, residual = self.first(x, residual)
        for block in self.blocks:
            x, residual = block(x, residual, step)
        if self.last_block is not None:
            return ops.add(self.last_block(x, step), residual, 1.0)
        return x

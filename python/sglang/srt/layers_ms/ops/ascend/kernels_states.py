"""Kernels of layers with a state. Call them through kernels.py."""

from mindspore import mint
from mindspore.ops import auto_generate as generated


def append_rows(x, y):
    """The rows of y [m, n] behind those of x [T, n]."""
    return mint.cat((x, y), 0)


def put_rows(table, rows, new):
    """Values `new` [m, n] into rows [m], int32, of a table [N, n], in place; a row that comes twice has either's.

    A negative row would count from the end. What it returns only orders others after it, by `depend`.
    """
    return generated.InplaceIndexPut()(table, (rows,), new, False)

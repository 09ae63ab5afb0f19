"""What operators pass on: the pair of a tensor with room for the largest step, and its valid rows.

Valid rows are int32: how many leading rows of tokens and of requests count, and the tokens of each replica of
attention. They come with the step (`table.build_metadata`). What receives rows of other ranks makes others for them.
A tensor without them, as callers outside of graphs give it, is one all of whose rows count.
"""

from sglang.srt.layers_ms.ops.cpu.library import nothing

FIELD = "valid_rows"  # of the step


def with_valid_rows(x, step):
    return x, step[FIELD]


def without_valid_rows(x):
    tensor, _valid_rows = x
    return tensor


def values(x):
    """The tensor of a pair, or of a tensor."""
    return x[0] if isinstance(x, tuple) else x


def valid_rows(x):
    """What an operator is given first."""
    return x[1] if isinstance(x, tuple) else nothing()


def paired(y, rows, x):
    """y in the form in which x came, with these valid rows."""
    return (y, rows) if isinstance(x, tuple) else y

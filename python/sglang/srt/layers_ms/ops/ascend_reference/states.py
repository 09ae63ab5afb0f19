"""Kernels of layers with a state; parameters as in ascend/kernels_states.py."""

import numpy as np
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend_reference.memory import FLOATS, bits, check, require, stored, tensor, values


def append_rows(x, y):
    check("Concat", "x", x, FLOATS, 2, contiguous=False)
    check("Concat", "y", y, (x.dtype,), 2, contiguous=False)
    require(x.shape[1] == y.shape[1], "Concat", f"rows of {x.shape[1]} and {y.shape[1]} values")
    return tensor(np.concatenate([values(x), values(y)]), x.dtype)


def put_rows(table, rows, new):
    kernel = "InplaceIndexPut"
    check(kernel, "table", table, FLOATS, 2)
    check(kernel, "rows", rows, (mstype.int32,), 1)
    check(kernel, "new", new, (table.dtype,), 2)
    require(new.shape == (len(rows), table.shape[1]), kernel, f"{new.shape} for {len(rows)} rows of {table.shape}")
    places = stored(rows)
    inside = (places >= 0) & (places < table.shape[0])
    require(inside.all(), kernel, f"rows {places[~inside].tolist()} of a table of {table.shape[0]}")
    # Backwards: nobody may rely on the last of those that come twice.
    stored(table)[places[::-1]] = bits(values(new), table.dtype)[::-1]
    return table

"""This backend on two tensor-parallel ranks, each with half of the cores."""

import functools

import measure
import sglang_mindspore

if __name__ == "__main__":
    measure.main(functools.partial(sglang_mindspore.start, tp_size=2))

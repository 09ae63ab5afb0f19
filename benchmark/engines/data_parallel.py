"""This backend as two replicas, each with half of the cores, behind SGLang's controller."""

import functools

import measure
import sglang_mindspore

if __name__ == "__main__":
    measure.main(functools.partial(sglang_mindspore.start, dp_size=2))

"""This backend with keys and values in float8."""

import functools

import measure
import sglang_mindspore

if __name__ == "__main__":
    measure.main(functools.partial(sglang_mindspore.start, kv_cache_dtype="fp8_e4m3"))

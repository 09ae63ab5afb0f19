"""What a sliding window, a soft cap, sinks and slopes do to the time of attention, on the native operator table.

python benchmark/attention_windows.py

One layer of Gemma 2's heads (8 of queries, 4 of keys and values, head size 256) in bfloat16: a batch that decodes, and
a chunk of prefill behind a long context. A window of 4096 in a context of 16384 should take a quarter of the time.
"""

import argparse
import time

import mindspore as ms
import numpy as np

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.environment import read_environment
from sglang.srt.model_executor_ms.parallel.cpu_affinity import processors
from sglang.srt.model_executor_ms.runner import bridge, device

HEADS, KV_HEADS, HEAD_DIM, PAGE = 8, 4, 256, 16


class Layer(ms.nn.Cell):
    def __init__(self, features):
        super().__init__()
        self.features = features

    @ms.jit(fullgraph=True)
    def construct(self, q, k_cache, v_cache, query_lens, seq_lens, block_tables, page_size):
        step = {"query_lens": query_lens, "seq_lens": seq_lens, "block_tables": block_tables, "page_size": page_size}
        return ops.paged_attention(q, k_cache, v_cache, step, KV_HEADS, HEAD_DIM, HEAD_DIM**-0.5, *self.features)


def milliseconds(requests: int, queries: int, context: int, features: tuple, repetitions: int = 15) -> float:
    """The median time of attention of `requests` with so many queries at the end of so many cached tokens."""
    rng = np.random.default_rng(0)
    blocks = -(-context // PAGE)
    tables = 1 + rng.permutation(requests * blocks).reshape(requests, blocks).astype(np.int32)
    caches = [_bfloat16(rng, (requests * blocks + 1) * PAGE, KV_HEADS, HEAD_DIM) for _ in range(2)]
    q = _bfloat16(rng, requests * queries, HEADS * HEAD_DIM)
    lens = [ms.Tensor(np.full(requests, length, np.int32)) for length in (queries, context)]
    page_size = ms.Tensor(np.array([PAGE], np.int32))
    layer, found = Layer(features), []
    for _ in range(repetitions):
        began = time.perf_counter()
        bridge.to_torch(layer(q, *caches, *lens, ms.Tensor(tables), page_size))
        found.append(time.perf_counter() - began)
    return float(np.median(found)) * 1e3


def _bfloat16(rng, *shape) -> ms.Tensor:
    return ms.Tensor(rng.standard_normal(shape, np.float32)).astype(ms.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=16384)
    parser.add_argument("--window", type=int, default=4096)
    arguments = parser.parse_args()
    device.start("cpu", "cpu", processors(read_environment()))
    heads = ms.Tensor(np.linspace(0.01, 0.1, HEADS, dtype=np.float32))
    kinds = {
        "all keys": (0, 0.0),
        "window": (arguments.window, 0.0),
        "soft cap": (0, 50.0),
        "sinks": (0, 0.0, heads),
        "slopes": (0, 0.0, None, heads),
    }
    for name, requests, queries in (("decode, 4 requests", 4, 1), ("prefill of 512 tokens", 1, 512)):
        times = {kind: milliseconds(requests, queries, arguments.context, given) for kind, given in kinds.items()}
        print(f"{name}, context {arguments.context}:", ", ".join(f"{kind} {ms_:.2f} ms" for kind, ms_ in times.items()))


if __name__ == "__main__":
    main()

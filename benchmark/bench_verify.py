"""How long a step that verifies drafts takes beside one with a token of each request: what drafts must gain at least.

python benchmark/bench_verify.py --cases 1:4000:4,8 4:1024:4

Runs Qwen3-0.6B's shape with random bfloat16 weights, without a server. A case has requests, the tokens of each before
the step, and tokens to verify; its steps take turns, and the least time of each counts.
"""

import argparse
import time

import mindspore as ms
import numpy as np
import torch
from random_checkpoint import SHAPES

from sglang.srt.layers_ms.cache_spec import cache_specs
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.model_executor_ms.environment import read_environment
from sglang.srt.model_executor_ms.parallel.cpu_affinity import processors
from sglang.srt.model_executor_ms.runner import device
from sglang.srt.model_executor_ms.runner.graphs import Limits, forward_graph
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches
from sglang.srt.model_executor_ms.runner.lm_head import LMHead
from sglang.srt.model_executor_ms.runner.step import step_layout
from sglang.srt.model_executor_ms.runner.step_inputs import first_pages, step_inputs
from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.registry import model_class

SHAPE = SHAPES["qwen3-0.6b"].to_dict()
del SHAPE["layer_types"]  # one for each of all its layers, and --layers may want fewer


class Model:
    """A network of random weights, on a pool of random keys and values."""

    def __init__(self, layers: int, slots: int, tokens: int, requests: int):
        config = SHAPE | {"architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": layers}
        network = model_class(config["architectures"])(config, Runtime(dtype=ms.bfloat16, max_positions=slots))
        load_weights(network, check_weights(network, "", "dummy"), progress=False)
        heads = dict(head_num=SHAPE["num_key_value_heads"], head_dim=SHAPE["head_dim"])
        sizes = dict(layer_num=layers, page_size=1, size=slots, dtype=torch.bfloat16, **heads)
        pool = MHATokenToKVPool(**sizes, device="cpu", enable_memory_saver=False)
        for layer in range(layers):
            pool.get_key_buffer(layer).normal_(), pool.get_value_buffer(layer).normal_()
        caches = KVCaches(pool, cache_specs(network))
        layout = step_layout(network.model_inputs(), optional=(*network.optional_fields, *caches.optional_fields))
        limits = Limits(tokens, requests, slots)
        self.graph = forward_graph(network, caches.k_caches, caches.v_caches, limits, layout)
        self.graph.capture([self.step(1, 1, 7)])
        self.head = LMHead(network, network.config.logit_scale, network.config.final_logit_softcapping)

    def step(self, requests: int, tokens: int, context: int):
        """The last tokens of requests with so many cached before them."""
        lengths = [context + tokens] * requests
        table, slots = first_pages([tokens] * requests, lengths, 1)
        ids = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], len(slots), np.int32)
        return {"input_ids": ids}, step_inputs([tokens] * requests, lengths, slots, table, 1)

    def seconds(self, step) -> float:
        began = time.perf_counter()
        self.head.apply(self.head, self.graph.run(*step).hidden_states)
        return time.perf_counter() - began


def case(text: str) -> tuple[int, int, list[int]]:
    requests, context, tokens = text.split(":")
    return int(requests), int(context), [1, *map(int, tokens.split(","))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", type=case, default=[case("1:4000:4,8"), case("4:1024:4")])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    device.start("cpu", "cpu", processors(read_environment()))
    slots = 1 + max(requests * (context + max(tokens)) for requests, context, tokens in arguments.cases)
    rows = max(requests * max(tokens) for requests, _, tokens in arguments.cases)
    model = Model(arguments.layers, slots, rows, max(requests for requests, _, _ in arguments.cases))
    for requests, context, counts in arguments.cases:
        steps = {count: model.step(requests, count, context) for count in counts}
        turns = [[model.seconds(step) for step in steps.values()] for _ in range(arguments.turns + 1)][1:]
        least = np.min(turns, 0)
        print(f"{requests} requests of {context} tokens, {least[0] * 1e3:.1f} ms a step of one token each:", end=" ")
        print(", ".join(f"{n} tokens {one / least[0]:.2f}x" for n, one in zip(counts[1:], least[1:], strict=True)))


if __name__ == "__main__":
    main()

"""Tokens sent only to the rank that has experts for them, beside all tokens on both ranks; two ranks with a core each.

python benchmark/bench_dispatch.py --rounds 9

Runs one mixture of experts (router, experts, and what ranks exchange for them) of random bfloat16 weights, as
--tp-size 2 --ep-size 2 has it with --moe-a2a-backend none and deepep: on plain ranks, which have the same tokens, and
on attention replicas, which have half of them each. The four take turns at each batch; prints medians, and the median
of how many times as fast the dispatch was in a turn.
"""

import argparse
import statistics
import time
from types import SimpleNamespace

from peers import machine
from two_ranks import GROUP, RANKS, on_both

WIDTH, SIZE, EXPERTS, TOP_K = 2048, 768, 128, 8  # Qwen3-30B-A3B
REPLAYS = {1: 24, 8: 12, 64: 4, 512: 1}  # tokens of a batch -> runs of the layer in a turn
KINDS = {  # what a shard differs in
    "all tokens": {},
    "dispatch": dict(dispatch=True),
    "replicas, all tokens": dict(attn_dp_size=RANKS),
    "replicas, dispatch": dict(attn_dp_size=RANKS, dispatch=True),
}
PAIRS = [("all tokens", "dispatch"), ("replicas, all tokens", "replicas, dispatch")]
LIMIT = 2e-2  # of the largest value: by how much rounding to bfloat16 may differ


def measured(rounds: int) -> dict[tuple[str, int], list[float]]:
    """(kind, tokens) -> seconds of the layer in each turn, on the slower rank."""
    first, second = on_both(_times, rounds)
    return {case: [max(pair) for pair in zip(times, second[case], strict=True)] for case, times in first.items()}


def _times(rank: int, rounds: int) -> dict[tuple[str, int], list[float]]:
    layers = _layers(rank)
    _compare(layers, rank)
    times = {(kind, tokens): [] for tokens in REPLAYS for kind in KINDS}
    for _ in range(rounds):
        for kind, tokens in times:
            times[kind, tokens].append(layers[kind].seconds(tokens, REPLAYS[tokens]))
    return times


def _layers(rank: int) -> dict:
    """A captured layer of each kind, on one set of weights."""
    import mindspore as ms
    import numpy as np
    import torch
    from bench_experts import random_bfloat16
    from mindspore import nn

    from sglang.srt.distributed_ms.shard import Shard
    from sglang.srt.layers_ms import Experts, Router, Routing, SparseMoeBlock, ops
    from sglang.srt.layers_ms.quantization import create_parameters
    from sglang.srt.model_executor_ms.runner import bridge

    torch.manual_seed(0)
    most = max(REPLAYS)
    tokens = torch.randn(most, WIDTH).bfloat16()
    router = Router(SimpleNamespace(hidden_size=WIDTH, dtype=ms.bfloat16), EXPERTS, Routing(TOP_K, renormalize=True))
    create_parameters(router)
    router.weight.host[...] = torch.randn(EXPERTS, WIDTH).bfloat16().view(torch.int16).numpy()
    router.process_weights_after_loading()
    held = EXPERTS // RANKS
    torch.manual_seed(1 + rank)
    gate_up, down = random_bfloat16(held, 2, SIZE, WIDTH), random_bfloat16(held, WIDTH, SIZE)
    for stack in (gate_up, down):
        ops.prepack_experts(stack)

    class Layer(nn.Cell):
        def __init__(self, **options):
            super().__init__()
            shard = Shard(rank, RANKS, GROUP, RANKS, **options)
            experts = Experts(WIDTH, SIZE, EXPERTS, shard, ms.bfloat16)
            create_parameters(experts)
            experts.gate_up, experts.down = gate_up, down
            self.moe, self.replicas = SparseMoeBlock(router, experts, shard), shard.attn_dp_size
            self.host = torch.zeros(most, WIDTH, dtype=torch.bfloat16)
            self.x = bridge.to_mindspore(self.host)
            self.valid_rows = np.zeros(2 + (self.replicas if self.replicas > 1 else 0), np.int32)
            inputs = (self.x, bridge.int32(self.valid_rows))
            self.begin(most)
            self(*inputs)
            self.replay = ops.capture(lambda: (self(*inputs),), [*inputs, router.weight, gate_up, down])

        @ms.jit(fullgraph=True)
        def construct(self, x, valid_rows):
            step = {"valid_rows": valid_rows}
            return ops.without_valid_rows(self.moe(ops.with_valid_rows(x, step), step))

        def own(self, count: int) -> slice:
            """Which of `count` tokens this rank has: all, or those of its replica."""
            first = -(-count // RANKS)
            return slice(count) if self.replicas == 1 else (slice(first), slice(first, count))[rank]

        def begin(self, count: int) -> int:
            """Set the layer's next tokens -> how many of them are this rank's."""
            own = tokens[self.own(count)]
            self.host[: len(own)] = own
            shares = (-(-count // RANKS), count // RANKS) if self.replicas > 1 else ()
            self.valid_rows[:] = (len(own), len(own), *shares)
            return len(own)

        def result(self, count: int):
            own = self.begin(count)
            return bridge.to_torch(self.replay()[0])[:own].float()

        def seconds(self, count: int, replays: int) -> float:
            """Of one run; ranks wait for each other in each of them."""
            self.begin(count)
            self.replay()
            began = time.perf_counter()
            for _ in range(replays):
                self.replay()
            return (time.perf_counter() - began) / replays

    return {kind: Layer(**options) for kind, options in KINDS.items()}


def _compare(layers: dict, rank: int) -> None:
    """AssertionError if they do not compute the same."""
    for count in REPLAYS:
        wanted = layers["all tokens"].result(count).clone()
        for kind, layer in layers.items():
            found = layer.result(count)
            off = (found - wanted[layer.own(count)]).abs().max().item() if len(found) else 0.0
            assert off <= LIMIT * wanted.abs().max(), f"rank {rank}, {kind}, {count} tokens: off by {off}"


def table(times: dict[tuple[str, int], list[float]]) -> str:
    """Medians in milliseconds, and medians of ratios, as Markdown."""
    lines = [["tokens", *(column for every, sent in PAIRS for column in (f"{every} (ms)", f"{sent} (ms)", "ratio"))]]
    lines.append(["---:"] * len(lines[0]))
    for tokens in REPLAYS:
        cells = [str(tokens)]
        for pair in PAIRS:
            every, sent = (times[kind, tokens] for kind in pair)
            cells += [f"{1e3 * statistics.median(one):.2f}" for one in (every, sent)]
            cells.append(f"{statistics.median(x / y for x, y in zip(every, sent, strict=True)):.2f}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each layer at each batch")
    arguments = parser.parse_args()
    times = measured(arguments.rounds)
    print(f"{machine()}\n{table(times)}")


if __name__ == "__main__":
    main()

"""How near layers of experts come to the speed of memory, and of matrix products.

python benchmark/bench_experts.py --shape qwen3-30b-a3b --layers 4

Runs the router and the experts of some layers, on random bfloat16 weights, one layer after the other. Few tokens have
to read the matrices of the experts that they hit once: the bytes of these a second are printed as a share of what all
processors together read. Many tokens are printed as a share of the fastest matrix product.
"""

import argparse
from typing import NamedTuple

import mindspore as ms
import torch
from mindspore import nn
from roofline import bandwidth_reader, best, matrix_peak

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.environment import read_environment
from sglang.srt.model_executor_ms.parallel.cpu_affinity import processors
from sglang.srt.model_executor_ms.runner import bridge, device
from sglang.srt.model_loader_ms.weight_slice import parameter


class Shape(NamedTuple):
    width: int
    size: int
    experts: int
    top_k: int


SHAPES = {
    "qwen3-30b-a3b": Shape(2048, 768, 128, 8),
    "deepseek-v2-lite": Shape(2048, 1408, 64, 6),
    "olmoe-7b": Shape(2048, 1024, 64, 8),
    "mixtral-8x7b": Shape(4096, 14336, 8, 2),
}


def random_bfloat16(*shape) -> ms.Parameter:
    """Small numbers in memory as weights have it, the same ones again and again: drawing billions takes minutes."""
    found, drawn = parameter(shape, ms.bfloat16), (torch.randn(1 << 20) * 0.02).bfloat16().view(torch.int16).numpy()
    values = found.host.reshape(-1)
    for start in range(0, len(values), len(drawn)):
        part = values[start : start + len(drawn)]
        part[:] = drawn[: len(part)]
    return found


class Layers(nn.Cell):
    def __init__(self, shape: Shape, layers: int):
        super().__init__()
        self.top_k = shape.top_k
        torch.manual_seed(0)
        gates = [bridge.to_mindspore(torch.randn(shape.experts, shape.width).bfloat16()) for _ in range(layers)]
        gate_up = [random_bfloat16(shape.experts, 2, shape.size, shape.width) for _ in range(layers)]
        down = [random_bfloat16(shape.experts, shape.width, shape.size) for _ in range(layers)]
        for weight in (*gates, *gate_up, *down):
            ops.prepack_experts(weight)
        self.weights = list(zip(gates, gate_up, down, strict=True))

    @ms.jit(fullgraph=True)
    def construct(self, x, weights):
        for gate, gate_up, down in weights:
            logits = ops.linear_fp32(x, gate, None)
            scores, chosen = ops.route(logits, None, self.top_k, "softmax", 1, 1, 1, True, 1.0, 0.0)
            found = ops.fused_experts(x, gate_up, None, down, None, scores, chosen, "silu", 1.0, 1.0)
            x = ops.add(x, found, 1.0)
        return x


def seconds(layers: Layers, shape: Shape, tokens: int) -> float:
    x = bridge.to_mindspore(torch.randn(tokens, shape.width).bfloat16())
    weights = ms.mutable(tuple(ms.mutable(tuple(layer)) for layer in layers.weights))
    layers(x, weights)
    lasting = [x, *(weight for layer in layers.weights for weight in layer)]
    replay = ops.capture(lambda: (layers(x, weights),), lasting)
    return best(replay or (lambda: bridge.to_torch(layers(x, weights))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-30b-a3b")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 8, 32, 1024])
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    device.start("cpu", processors=processors(read_environment()))
    layers = Layers(shape, arguments.layers)
    reads, peak = bandwidth_reader(), matrix_peak()
    print(f"multiplies {peak / 1e12:.2f} TFLOP/s in bfloat16")
    one = 3 * shape.width * shape.size * 2  # bytes of an expert
    for tokens in arguments.tokens:
        before, taken = reads(), seconds(layers, shape, tokens) / arguments.layers
        bandwidth = (before + reads()) / 2
        hit = shape.experts * (1 - (1 - shape.top_k / shape.experts) ** tokens)  # of random tokens
        read, operations = hit * one / bandwidth, tokens * shape.top_k * one / peak
        share = 100 * max(read, operations) / taken
        what = "memory" if read > operations else "products"
        speed = f"{bandwidth / 1e9:.1f} GB/s" if read > operations else f"{peak / 1e12:.2f} TFLOP/s"
        print(f"{tokens} tokens: {1e3 * taken:.2f} ms a layer, {share:.0f}% of the speed of {what}, {speed}")


if __name__ == "__main__":
    main()

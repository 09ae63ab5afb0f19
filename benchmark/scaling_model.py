"""What decoding on several NPUs could reach at most, computed and never measured: a roofline with collectives.

python benchmark/scaling_model.py --plot scaling.png

Llama 3 70B on TP 2 to 16, and DeepSeek V3 on EP 8 to 64, in two ways: as this package divides experts (every rank sees
every token, results are added up), and with attention data parallelism, where tokens are sent to the ranks of their
experts. A step reads each weight that it uses once and each request's cache once, and multiplies at the same time; then
it waits for the collectives. No operator reaches these limits, and none of this ran on an NPU. The default figures are
those reported for an Ascend 910C package (techpowerup.com/335749: 780 TFLOP/s in bfloat16, 3.2 TB/s; 784 GB/s between
packages in both directions together); the latency of a collective's hop is an assumption. Give your own.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

TENSOR_PARALLEL, EXPERT_PARALLEL = (2, 4, 8, 16), (8, 16, 32, 64)


@dataclass(frozen=True)
class Npu:
    """A device's figures: operations, bytes and bytes a second, and seconds of one hop."""

    operations: float
    memory: float
    link: float  # out of a device, in one direction
    hop: float

    def step(self, weights: float, cache: float, operations: float) -> float:
        """Seconds to read so many bytes, and to compute meanwhile."""
        return max((weights + cache) / self.memory, operations / self.operations)

    def all_reduce(self, size: float, ranks: int) -> float:
        """Seconds to add up `size` bytes: every rank sums one part and hands it to the others."""
        return 0.0 if ranks == 1 else 2 * (self.hop + size * (ranks - 1) / ranks / self.link)

    def send(self, size: float) -> float:
        """Seconds until `size` bytes of every rank are where they belong."""
        return self.hop + size / self.link


@dataclass(frozen=True)
class Llama:
    """Llama 3 70B in bfloat16."""

    layers: int = 80
    width: int = 8192
    inner: int = 28672
    heads: int = 64
    kv_heads: int = 8
    head_dim: int = 128
    vocab: int = 128256

    def decode(self, npu: Npu, ranks: int, batch: int, context: int) -> float:
        """Seconds of a step of `batch` requests."""
        qkv = (2 * self.heads + 2 * self.kv_heads) * self.head_dim * self.width
        matrices = self.layers * (qkv + 3 * self.width * self.inner) + self.vocab * self.width
        kv_heads = max(self.kv_heads / ranks, 1)  # replicated where ranks outnumber them
        cached = self.layers * batch * context * 2 * kv_heads * self.head_dim
        pairs = 4 * self.layers * batch * context * self.heads / ranks * self.head_dim
        computed = npu.step(2 * matrices / ranks, 2 * cached, 2 * batch * matrices / ranks + pairs)
        sums = (2 * self.layers + 1) * npu.all_reduce(2 * batch * self.width, ranks)
        return computed + sums + (npu.send(4 * batch * self.vocab / ranks) if ranks > 1 else 0.0)


@dataclass(frozen=True)
class DeepSeek:
    """DeepSeek V3 with weights of one byte, computed in bfloat16."""

    layers: int = 61
    dense: int = 3
    width: int = 7168
    inner: int = 18432
    expert: int = 2048
    experts: int = 256
    top_k: int = 8
    heads: int = 128
    query_rank: int = 1536
    rank: int = 512
    rope: int = 64
    nope: int = 128
    vocab: int = 129280

    @property
    def heads_matrices(self) -> int:
        """Elements of a layer that belong to heads."""
        return self.heads * (
            self.query_rank * (self.nope + self.rope) + 2 * self.rank * self.nope + self.nope * self.width
        )

    @property
    def shared_matrices(self) -> int:
        """Elements of a layer's attention that belong to no head."""
        return self.width * (self.query_rank + self.rank + self.rope)

    def _experts(self, ranks: int, batch: int) -> tuple[float, float]:
        """Bytes and operations of a rank's experts in a step of `batch` tokens on all ranks."""
        one, layers = 3 * self.width * self.expert, self.layers - self.dense
        hit = 1 - (1 - self.top_k / self.experts) ** batch
        return layers * self.experts / ranks * hit * one, 2 * layers * batch * self.top_k / ranks * one

    def _rest(self, share: float) -> float:
        """Elements of all but the routed experts and attention, of which a rank has `share`."""
        plain = self.dense * self.inner + (self.layers - self.dense) * self.expert
        return (3 * self.width * plain + self.vocab * self.width) * share

    def decode(self, npu: Npu, ranks: int, batch: int, context: int, sent: bool) -> float:
        """Seconds of a step of `batch` requests. sent: tokens go to their experts; else every rank has all tokens."""
        own, share = (batch / ranks, 1.0) if sent else (batch, 1 / ranks)
        matrices = self.layers * (self.heads_matrices * share + self.shared_matrices) + self._rest(share)
        weights, operations = self._experts(ranks, batch)
        row = self.rank + self.rope
        cached = 2 * self.layers * own * context * row
        pairs = 2 * self.layers * own * context * self.heads * share * (row + self.rank)
        computed = npu.step(matrices + weights, cached, 2 * own * matrices + operations + pairs)
        if not sent:
            return computed + (2 * self.layers + 1) * npu.all_reduce(2 * batch * self.width, ranks)
        away = own * self.top_k * (ranks - 1) / ranks * self.width
        return computed + (self.layers - self.dense) * (npu.send(away) + npu.send(2 * away))  # int8 there, bf16 back


def curves(npu: Npu, batch: int, context: int) -> dict[str, dict[int, float]]:
    """Of each way the milliseconds of a step, by the number of NPUs; `batch` requests for each NPU with experts."""
    llama, deepseek = Llama(), DeepSeek()

    def experts(sent):
        return {n: 1000 * deepseek.decode(npu, n, batch * n, context, sent) for n in EXPERT_PARALLEL}

    return {
        f"Llama 70B, TP, {batch} requests": {n: 1000 * llama.decode(npu, n, batch, context) for n in TENSOR_PARALLEL},
        f"DeepSeek V3, EP, sums, {batch} requests an NPU": experts(False),
        f"DeepSeek V3, EP, tokens sent, {batch} requests an NPU": experts(True),
    }


def plot(found: dict[str, dict[int, float]], note: str, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, times in found.items():
        axes.plot(list(times), list(times.values()), marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("NPUs")
    axes.set_ylabel("ms a decode step, at best")
    axes.set_title(f"COMPUTED, not measured: {note}", fontsize=9)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=780.0, help="of an NPU, in bfloat16")
    parser.add_argument("--memory", type=float, default=3200.0, help="GB/s that an NPU reads")
    parser.add_argument("--link", type=float, default=392.0, help="GB/s out of an NPU")
    parser.add_argument("--hop", type=float, default=5.0, help="microseconds of a collective's hop: an assumption")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--plot", type=Path, help="a PNG file")
    given = parser.parse_args()
    npu = Npu(given.tflops * 1e12, given.memory * 1e9, given.link * 1e9, given.hop * 1e-6)
    note = f"{given.tflops:g} TFLOP/s, {given.memory:g} GB/s, links of {given.link:g} GB/s, {given.hop:g} us a hop"
    found = curves(npu, given.batch, given.context)
    print(f"Computed, not measured: {note}; context {given.context}. Milliseconds a decode step, at best:")
    for name, times in found.items():
        print(f"  {name}: " + ", ".join(f"{n} NPUs {time:.2f}" for n, time in times.items()))
    if given.plot:
        plot(found, note, given.plot)


if __name__ == "__main__":
    main()

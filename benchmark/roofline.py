"""How near prefill and decode come to what the machine can do: memory reads, and matrix products.

python benchmark/roofline.py --model FOLDER

Measures how fast all processors together read memory and multiply bfloat16 matrices, and this backend on the checkpoint
(default: a random one of --shape); memory before and after each case, because shared machines read it faster or slower
from one minute to the next. A decode step has to read every weight and every cached key and value once, and to read
and write each request's states; a prefill has to multiply each token with every weight, and with the keys and values
before it. Of experts only those count that tokens go to, of several tokens as many as random ones would hit.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import mindspore
import torch
from gguf import GGUFReader
from peers import CACHE, OURS, Reads, Session, interpreter, machine, measure
from random_checkpoint import SHAPES, write_checkpoint
from transformers import AutoConfig

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.environment import read_environment
from sglang.srt.model_executor_ms.parallel.cpu_affinity import processors
from sglang.srt.model_executor_ms.runner import bridge, device
from sglang.srt.model_loader_ms.weight_slice import parameter

CASES = ["1:128:32", "4:128:32", "8:128:32", "1:4096:64", "1:1024:0", "8:128:0"]
EMBEDDING = re.compile("embed_tokens|token_embd")
BUFFER = 1 << 30  # bytes to read: far more than caches hold
SIZES = ((1024, 1024, 4096), (1024, 2048, 8192), (2048, 4096, 4096))  # rows, columns of x, columns of the product


def best(run, repetitions: int = 7) -> float:
    """Seconds of the fastest run."""
    found = []
    for _ in range(repetitions):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found)


def bandwidth_reader() -> Callable[[], float]:
    """-> what measures bytes a second, by torch's largest of many numbers, and by a product with one row.

    The memory is as weights have it, in huge pages, and written to: before that all pages are one page of zeros.
    """
    weight = parameter((BUFFER // 8192, 4096), mindspore.bfloat16)
    weight.host.fill(1)
    buffer, x = torch.from_numpy(weight.host).view(torch.int64), torch.zeros(1, 4096, dtype=torch.bfloat16)
    product = _product(x, bridge.to_torch(weight))
    return lambda: BUFFER / min(best(lambda: buffer.max()), best(product))


def reads(model: Path) -> Reads:
    """What peers.measure wants of this machine and a checkpoint, to tell decode as a share of the speed of memory."""
    device.start("cpu", processors=processors(read_environment()))
    return Reads(bandwidth_reader(), Work(model).decode_bytes)


def matrix_peak() -> float:
    """Operations a second of bfloat16 products: torch's or ours, whichever is faster."""
    found = []
    for rows, inner, columns in SIZES:
        x, weight = torch.randn(rows, inner).bfloat16(), torch.randn(columns, inner).bfloat16()
        seconds = min(best(lambda x=x, weight=weight: torch.mm(x, weight.t())), best(_product(x, weight)))
        found.append(2 * rows * inner * columns / seconds)
    return max(found)


def _product(x: torch.Tensor, weight: torch.Tensor):
    """Our product of x with packed `weight`, as a replayed graph; packs the weight in place."""

    @mindspore.jit
    def linear(x, weight):
        return ops.linear(x, weight, None)

    x, weight = bridge.to_mindspore(x), bridge.to_mindspore(weight)
    ops.prepack_linear(weight)
    linear(x, weight)  # compiles
    replay = ops.capture(lambda: (linear(x, weight),), [x, weight])

    def run():
        return replay()[0] if replay else bridge.to_torch(linear(x, weight))

    return run


class Work:
    """Bytes and operations of a decoder."""

    def __init__(self, model: Path):
        """model: a folder, or a GGUF file."""
        gguf = {"gguf_file": model.name} if model.is_file() else {}
        config = AutoConfig.from_pretrained(model.parent if gguf else model, **gguf)
        sizes = _tensor_sizes(model)
        untied = any(name.endswith("lm_head.weight") or name == "output.weight" for name in sizes)
        experts = {name: size for name, size in sizes.items() if ".experts." in name}
        self.experts = sum(experts.values())  # bytes of those that a router chooses from
        dense = {name: size for name, size in sizes.items() if name not in experts}
        self.weights = sum(size for name, size in dense.items() if not (untied and EMBEDDING.search(name)))
        count = getattr(config, "num_experts", None) or getattr(config, "n_routed_experts", 1)
        self.chosen = config.num_experts_per_tok / count if experts else 0.0
        self.head = config.vocab_size * config.hidden_size * 2
        kinds = getattr(config, "layer_types", None) or ["attention"] * config.num_hidden_layers
        self.states = sum(STATES[kind](config) for kind in kinds if kind in STATES)  # of a request
        layers, (cached, multiplied) = sum(kind not in STATES for kind in kinds), _attention(config)
        self.cached = 2 * layers * cached
        self.pair = 2 * layers * config.num_attention_heads * multiplied

    def decode_bytes(self, batch: int, context: int) -> int:
        hit = 1 - (1 - self.chosen) ** batch
        return self.weights + hit * self.experts + batch * (context * self.cached + 2 * self.states)

    def prefill_operations(self, batch: int, length: int) -> int:
        """Two a weight (of which bfloat16 has two bytes) and token; the head sees one token of each request."""
        pairs = length * (length + 1) // 2
        each = self.weights - self.head + self.chosen * self.experts
        return batch * (length * each + self.head + pairs * self.pair)


def _conv_state(config) -> int:
    """Bytes that a layer of LFM2 keeps of a request."""
    return 2 * (config.conv_L_cache - 1) * config.hidden_size


def _delta_state(config) -> int:
    """Bytes that a gated delta net keeps of a request: a matrix for each head, and earlier values of a convolution."""
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    return 4 * values * config.linear_key_head_dim + 2 * (config.linear_conv_kernel_dim - 1) * (2 * keys + values)


STATES = {"conv": _conv_state, "linear_attention": _delta_state}  # by the kind of a layer


def _attention(config) -> tuple[int, int]:
    """Numbers that a layer caches of a token, and columns of a query, key and value head that meet."""
    if rank := getattr(config, "kv_lora_rank", None):
        key = config.qk_nope_head_dim + config.qk_rope_head_dim
        return rank + config.qk_rope_head_dim, key + config.v_head_dim
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_key_value_heads * head_dim, 2 * head_dim


def _tensor_sizes(model: Path) -> dict[str, int]:
    if model.is_file():
        return {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(model).tensors}
    sizes = {}
    for file in model.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                first, last = tensor["data_offsets"]
                sizes[name] = last - first
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder with a bfloat16 checkpoint in safetensors")
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--cases", nargs="+", default=CASES, help="batch:input:output, output 0: no decode")
    arguments = parser.parse_args()
    model = arguments.model or write_checkpoint(arguments.shape, CACHE / arguments.shape)
    device.start("cpu", processors=processors(read_environment()))
    read, peak, work = bandwidth_reader(), matrix_peak(), Work(model)
    print(f"{machine()}: reads {read() / 1e9:.1f} GB/s, multiplies {peak / 1e12:.2f} TFLOP/s in bfloat16")
    session = Session(OURS, interpreter(OURS, CACHE), model)
    for case in arguments.cases:
        before = read()
        ((name, found),) = measure([session], case, 3)[0].items()
        bandwidth = (before + read()) / 2
        batch, length, new = map(int, case.split(":"))
        if new:
            limit = batch * bandwidth / work.decode_bytes(batch, length + new // 2)
            beside = f"{bandwidth / 1e9:.1f} GB/s"
        else:
            limit = batch * length * peak / work.prefill_operations(batch, length)
            beside = f"{peak / 1e12:.2f} TFLOP/s"
        print(f"{name}: {found:.1f} of {limit:.1f} at {beside}, {100 * found / limit:.0f}%", flush=True)
    print(json.dumps(session.close()))


if __name__ == "__main__":
    main()

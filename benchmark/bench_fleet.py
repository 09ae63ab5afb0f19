"""What a server among others does in a fleet: pages, prefixes, weights of a trainer, sleep, prefill on another server.

python benchmark/bench_fleet.py
python benchmark/bench_fleet.py --shape tiny --parts copies weights --rounds 2

Each part prints what it measured and the goal that it stands beside. Figures are medians of the rounds. A part starts
its own servers, and ends them.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import psutil
import requests
import torch
from peers import machine
from random_checkpoint import SHAPES, write_checkpoint
from soak import Server, free_port, room

COPIED = 64 * 2**20
PROMPT, PAGE = 1000, 16
CACHE_TOKENS = 2 * 1024  # what is left of the first prompt when two others have followed: nothing
POOL_BYTES = 2 * 2**30
WATCHED = 5  # seconds for which a server is watched that has nothing to do
SERVED = dict(framework="mindspore", device="cpu", dtype="bfloat16", skip_tokenizer_init=True, log_level="warning")


def timed(call: Callable) -> tuple[float, object]:
    """-> seconds, and what the call returns"""
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def median(call: Callable, rounds: int) -> float:
    return statistics.median(timed(call)[0] for _ in range(rounds))


def prompt(length: int = PROMPT) -> list[int]:
    """One that nothing else has begun like."""
    return [random.randrange(5, 4000) for _ in range(length)]


def body(ids: list[int]) -> dict:
    return {"input_ids": ids, "sampling_params": {"temperature": 0, "max_new_tokens": 1, "ignore_eos": True}}


def engine(folder: Path, **more):
    import sglang

    return sglang.Engine(model_path=str(folder), **SERVED, **more)


def copies(shape: str, _folder: Path, rounds: int) -> dict:
    """Pages of 64 MB between a pool and its pool of the host, beside copies of as much memory."""
    from sglang.srt.model_executor_ms.runner import device, host_pools

    device.start("cpu", "cpu")
    config = SHAPES[shape]
    layers, row = config.num_hidden_layers, (config.num_key_value_heads, config.head_dim)
    pages = max(1, COPIED // (2 * layers * PAGE * row[0] * row[1] * 2))
    slots = 2 * pages * PAGE
    pool = [torch.zeros(slots, *row, dtype=torch.bfloat16) for _ in range(2 * layers)]
    kept = [torch.zeros(2 * pages, layers, PAGE, *row, dtype=torch.bfloat16) for _ in range(2)]
    origin, target = (places(pages) for _ in range(2))

    def backed_up():
        host_pools.transfer_kv_all_layer_direct_lf_pf(pool, kept, origin, target, PAGE)

    def loaded():
        for layer in range(layers):
            sides = [pool[layer], pool[layers + layer]]
            host_pools.transfer_kv_per_layer_direct_pf_lf(kept, sides, target, origin, layer, PAGE)

    size = pages * PAGE * 2 * layers * row[0] * row[1] * 2
    whole, other = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8)
    calls = {"backup": backed_up, "load": loaded, "copy": lambda: other.copy_(whole)}
    taken = {name: [] for name in calls}
    for _ in range(rounds + 1):  # in turn: the machine is not the same from one second to the next
        for name, call in calls.items():
            taken[name].append(timed(call)[0])
    speed = {name: size / statistics.median(seconds[1:]) / 1e9 for name, seconds in taken.items()}
    found = {f"{name} of {size / 2**20:.0f} MiB (GB/s)": value for name, value in speed.items()}
    return found | {"of the copy, at least (goal: >= 0.6)": min(speed["backup"], speed["load"]) / speed["copy"]}


def places(pages: int) -> torch.Tensor:
    """Slots of so many pages, half of those that there are, in any order."""
    chosen = torch.randperm(2 * pages)[:pages]
    return (chosen[:, None] * PAGE + torch.arange(PAGE)).flatten()


def prefixes(_shape: str, folder: Path, rounds: int) -> dict:
    """A prompt whose pages come from memory of the host, beside one that is computed."""
    sizes = dict(max_total_tokens=CACHE_TOKENS, page_size=PAGE, enable_hierarchical_cache=True, hicache_ratio=4.0)
    computed, found = [], []
    with engine(folder, **sizes) as server:
        server.generate(**body(prompt(64)))
        for _ in range(rounds):
            asked = prompt()
            computed.append(timed(lambda asked=asked: server.generate(**body(asked)))[0])
            for _ in range(2):
                server.generate(**body(prompt()))
            seconds, answer = timed(lambda asked=asked: server.generate(**body(asked)))
            details = answer["meta_info"].get("cached_tokens_details") or {}
            if details.get("host", 0) < PROMPT - 2 * PAGE:
                raise RuntimeError(f"the prefix did not come from memory of the host: {details}")
            found.append(seconds)
    computed, found = statistics.median(computed), statistics.median(found)
    times = {f"{PROMPT} tokens computed (ms)": computed * 1000, f"{PROMPT} tokens from the host (ms)": found * 1000}
    return times | {"of the time (goal: <= 0.15)": found / computed}


def weights(_shape: str, folder: Path, rounds: int) -> dict:
    """All tensors of a trainer on this machine, in one call between begin and end; then the next answer."""
    from safetensors.torch import load_file

    tensors = [pair for file in sorted(folder.glob("*.safetensors")) for pair in load_file(file).items()]
    for _, tensor in tensors:
        tensor.share_memory_()  # as torch does at the first sending
    with engine(folder, max_total_tokens=4096) as server:
        asked = prompt(64)

        def updated():
            for success, message in (
                server.begin_weight_update(),
                server.update_weights_from_tensor(tensors),
                server.end_weight_update(),
            ):
                if not success:
                    raise RuntimeError(message)

        def answered():
            server.flush_cache()
            return timed(lambda: server.generate(**body(asked)))[0]

        answered()
        before = statistics.median(answered() for _ in range(rounds))
        seconds, after = [], []
        for _ in range(rounds):
            seconds.append(timed(updated)[0])
            after.append(answered())
    size = sum(tensor.nbytes for _, tensor in tensors) / 1e9
    return {
        f"{len(tensors)} tensors, {size:.2f} GB (s; goal: <= 1.5)": statistics.median(seconds),
        "an answer before (ms)": before * 1000,
        "the first answers after, at most (ms; no step is compiled anew)": max(after) * 1000,
    }


def sleep(shape: str, folder: Path, _rounds: int) -> dict:
    """Memory of the scheduler before and after it was released: the pool has been written as far as a prompt goes."""
    config = SHAPES[shape]
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2
    tokens = POOL_BYTES // token // PAGE * PAGE
    with engine(folder, max_total_tokens=tokens, page_size=PAGE, enable_memory_saver=True) as server:
        server.generate(**body(prompt()))
        rank = max(psutil.Process().children(recursive=True), key=lambda one: one.memory_info().rss)
        awake = rank.memory_info().rss
        seconds, _ = timed(server.release_memory_occupation)
        asleep = rank.memory_info().rss
        server.resume_memory_occupation()
        held = sum(file.stat().st_size for file in folder.glob("*.safetensors")) + PROMPT * token
    return {
        "memory awake (GB)": awake / 1e9,
        "memory asleep (GB)": asleep / 1e9,
        "time to release (s)": seconds,
        f"of {held / 1e9:.2f} GB of weights and written pages left (goal: <= 0.05)": 1 - (awake - asleep) / held,
    }


class Pair:
    """A prefill server and a decode server, which are asked as a router does it."""

    def __init__(self, folder: Path):
        self.port = free_port()
        flags = ("--dtype", "bfloat16", "--max-total-tokens", "8192", "--page-size", str(PAGE), "--skip-tokenizer-init")
        flags += ("--disaggregation-transfer-backend", "nixl", "--disaggregation-bootstrap-port", str(self.port))
        os.environ.setdefault("UCX_TLS", "tcp,self,sm")
        os.environ.setdefault("SGLANG_HOST_IP", "127.0.0.1")
        self.started: dict[str, Server] = {}
        self.starting = ThreadPoolExecutor(2)  # a server ends with the thread that started it

        def start(mode: str) -> None:
            log = Path(tempfile.mkstemp(suffix=".log", prefix=mode)[1])
            self.started[mode] = Server(str(folder), (*flags, "--disaggregation-mode", mode), log)

        try:
            list(self.starting.map(start, ("prefill", "decode")))
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_error) -> None:
        self.stop()

    def stop(self) -> None:
        for server in self.started.values():
            server.stop()
        self.starting.shutdown()

    def request(self, ids: list[int]) -> dict:
        return body(ids) | room(self.port)

    def ask(self, ids: list[int]) -> None:
        asked = self.request(ids)
        with ThreadPoolExecutor(2) as clients:
            list(clients.map(lambda mode: self.send(mode, asked), self.started))

    def send(self, mode: str, asked: dict) -> None:
        requests.post(f"{self.started[mode].url}/generate", json=asked).raise_for_status()


def transfer(_shape: str, folder: Path, rounds: int) -> dict:
    """A prompt that the prefill server computes and sends, beside one that it has cached, and sends.

    What a request takes beside its tokens is known from a short one, and is part of neither.
    """
    cold, cached, short = [], [], []
    with Pair(folder) as servers:
        for _ in range(rounds + 1):  # the first one warms up
            few, many = prompt(PAGE), prompt()
            servers.ask(few)
            for taken, asked in ((short, few), (cold, many), (cached, many)):
                taken.append(timed(lambda asked=asked: servers.ask(asked))[0])
    rest, all_of_it, sent = (statistics.median(taken[1:]) for taken in (short, cold, cached))
    return {
        f"{PROMPT} tokens computed and sent (ms)": all_of_it * 1000,
        f"{PROMPT} tokens cached and sent (ms)": sent * 1000,
        f"{PAGE} tokens cached and sent (ms)": rest * 1000,
        "sending of computing (goal: <= 0.2)": (sent - rest) / (all_of_it - sent),
    }


def waiting(_shape: str, folder: Path, _rounds: int) -> dict:
    """What servers take of a core that are paused, or wait for each other."""
    with Pair(folder) as servers:
        servers.ask(prompt(64))
        found = {"idle, of a core": max(share(server) for server in servers.started.values())}
        prefill = servers.started["prefill"]
        prefill.post("/pause_generation", {"mode": "in_place"}).raise_for_status()
        found["paused, of a core (goal: < 0.05)"] = share(prefill)
        prefill.post("/continue_generation", {}).raise_for_status()
        for first, then in (("decode", "prefill"), ("prefill", "decode")):
            asked = servers.request(prompt(64))
            with ThreadPoolExecutor(1) as client:
                answer = client.submit(servers.send, first, asked)
                found[f"{first} server that waits for the other, of a core (goal: < 0.2)"] = share(
                    servers.started[first]
                )
                servers.send(then, asked)
                answer.result()
    return found


def share(server: Server) -> float:
    """Of a core, of all processes of a server together."""
    processes = [server.process, *server.process.children(recursive=True)]

    def used() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    time.sleep(1)  # what was asked of it is in its queues now
    before, started = used(), time.monotonic()
    time.sleep(WATCHED)
    return (used() - before) / (time.monotonic() - started)


PARTS = {one.__name__: one for one in (copies, prefixes, weights, sleep, transfer, waiting)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[name for name in SHAPES if "cut" not in name], default="qwen3-0.6b")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, help="folder of the random checkpoint, which is written if need be")
    parser.add_argument("--output", type=Path, help="JSON file")
    chosen = parser.parse_args()
    folder = chosen.checkpoint or Path(tempfile.gettempdir()) / f"random-{chosen.shape}"
    write_checkpoint(chosen.shape, folder)
    results = {}
    for name in chosen.parts:
        # In a process of its own: an Engine ends all children of its process, and wants one without MindSpore.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            results[name] = process.submit(PARTS[name], chosen.shape, folder, chosen.rounds).result()
        for what, value in results[name].items():
            print(f"{name}: {what}: {value:.3g}", flush=True)
    if chosen.output:
        chosen.output.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""A server under a mixed load for a given time: at the end memory, slots, threads and files are where they were.

python benchmark/soak.py --minutes 10
python benchmark/soak.py --minutes 0.5 --model ms_example/demo_model --output soak.json
python benchmark/soak.py --flags --enable-hierarchical-cache --hicache-ratio 1.5
python benchmark/soak.py --disaggregated --flags --enable-hierarchical-cache --hicache-ratio 1.5

Clients generate, stream and hang up, abort, ask for grammars, logprobs and hidden states, send what is refused, flush
the cache and update the weights from the same folder. Before and after, a set of prompts is answered: every bit of
the answers is the same. Exits with 1 if anything is left behind, and prints what.

With --disaggregated a prefill server and a decode server are asked as a router does it, what is served of the above.
The flags behind --flags are the prefill server's then.
"""

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
import requests

DEMO = Path(__file__).parents[1] / "ms_example/demo_model"
START = 300  # seconds for a server to become ready
GREEDY = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
WARM = 0.3  # of the time passes before the first count: allocators and caches have grown by then
GROWTH = {"memory (MiB)": 24, "threads": 2, "files": 4}  # of all processes of a server together
FLAGS = ("--max-total-tokens", "4096", "--max-running-requests", "8", "--chunked-prefill-size", "64")
FLAGS += ("--page-size", "16", "--constrained-json-disable-any-whitespace")
ALONE = ("--enable-return-hidden-states",)  # of a server that answers what it has computed
SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})

# Becomes a command that ends with the thread that started it, whatever ends that: prctl(2).
TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def room(port: int) -> dict[str, str | int]:
    """What a router adds to a request: where the prefill server on this machine listens, and a number of its own."""
    return dict(bootstrap_host="127.0.0.1", bootstrap_port=port, bootstrap_room=random.getrandbits(60))


class Server:
    """A launch_server process of this backend on the CPU."""

    def __init__(self, model: str, flags: tuple[str, ...], log: Path):
        port = free_port()
        self.url, self.model, self.logs = f"http://127.0.0.1:{port}", model, [log]
        command = [sys.executable, "-c", TIED, sys.executable, "-m", "sglang.launch_server"]
        command += ["--model-path", model, "--framework", "mindspore"]
        command += ["--device", "cpu", "--port", str(port), *flags]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        self.process = psutil.Process(process.pid)
        end = time.monotonic() + START
        while not self._ready():
            if time.monotonic() > end or self.process.status() == psutil.STATUS_ZOMBIE:
                self.stop()
                raise RuntimeError(f"the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.5)

    def _ready(self) -> bool:
        with suppress(requests.RequestException):
            return requests.get(f"{self.url}/health", timeout=5).ok
        return False

    def stop(self) -> None:
        left = self._load_files()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for file in left:
            file.unlink(missing_ok=True)

    def _load_files(self) -> set[Path]:
        """What its processes tell each other their load by: files in memory, which killed processes leave."""
        mapped = ""
        with suppress(psutil.NoSuchProcess, OSError):
            for process in (self.process, *self.process.children(recursive=True)):
                mapped += Path(f"/proc/{process.pid}/maps").read_text()
        return {Path(found) for found in re.findall(r"/dev/shm/sglang_loads_\S+", mapped)}

    def post(self, path: str, body=None, **options) -> requests.Response:
        return requests.post(f"{self.url}{path}", json=body, timeout=120, **options)

    def counts(self) -> dict[str, float]:
        """What all processes of the server hold, and the free slots of an idle scheduler."""
        processes = [self.process, *self.process.children(recursive=True)]
        memory = sum(process.memory_full_info().uss for process in processes) / 2**20
        threads = sum(process.num_threads() for process in processes)
        return {"memory (MiB)": memory, "threads": threads, "files": sum(one.num_fds() for one in processes)}

    def settle(self) -> None:
        """Wait until no request is left, and empty the cache: refused while anything runs or waits."""
        end = time.monotonic() + 60
        while not self.post("/flush_cache").ok:
            if time.monotonic() > end:
                raise RuntimeError("a request is left: /flush_cache is refused after a minute without load")
            time.sleep(0.2)

    def used_tokens(self) -> int:
        """Of the pool, after settle()."""
        loads = requests.get(f"{self.url}/v1/loads", timeout=30).json()["loads"]
        return sum(load["num_used_tokens"] for load in loads)


class Pair:
    """A prefill server and a decode server: each gets a request of a model, and the second one answers."""

    ASKED = ("/generate", "/v1/chat/completions")
    updates = threading.Lock()  # two at once end in a circle: each waits for requests that the other holds back

    def __init__(self, model: str, flags: tuple[str, ...], more: tuple[str, ...], log: Path):
        """more: flags of the prefill server alone"""
        os.environ.setdefault("UCX_TLS", "tcp,self,sm")
        os.environ.setdefault("SGLANG_HOST_IP", "127.0.0.1")
        self.model, self.port, self.sides = model, free_port(), []
        flags += ("--disaggregation-transfer-backend", "nixl", "--disaggregation-bootstrap-port", str(self.port))
        self.logs = [log.with_suffix(f".{mode}.log") for mode in ("prefill", "decode")]
        try:
            for mode, own, log in zip(("prefill", "decode"), (more, ()), self.logs, strict=True):
                self.sides.append(Server(model, (*flags, "--disaggregation-mode", mode, *own), log))
        except BaseException:
            self.stop()
            raise
        self.clients = ThreadPoolExecutor(64)

    def stop(self) -> None:
        for side in self.sides:
            side.stop()

    def post(self, path: str, body=None, **options) -> requests.Response:
        """The decode server's answer; of a call that is none of a model's, the first that is no success."""
        prefill, decode = self.sides
        if path not in self.ASKED:
            with self.updates if path.startswith("/update_weights") else nullcontext():
                answers = [side.post(path, body) for side in self.sides]
            return next((one for one in answers if not one.ok), answers[-1])
        asked = body | room(self.port)
        first = self.clients.submit(prefill.post, path, asked)
        answer = decode.post(path, asked, **options)
        if not options:
            first.result()
        return answer

    def counts(self) -> dict[str, float]:
        each = [side.counts() for side in self.sides]
        return {name: sum(one[name] for one in each) for name in GROWTH}

    def settle(self) -> None:
        for side in self.sides:
            side.settle()

    def used_tokens(self) -> int:
        return sum(side.used_tokens() for side in self.sides)


def prompt(dice: random.Random, most: int = 200) -> list[int]:
    return [dice.randrange(5, 400) for _ in range(dice.randrange(1, most))]


def generate(server: Server, dice: random.Random) -> None:
    body = {"input_ids": prompt(dice), "sampling_params": GREEDY | {"max_new_tokens": dice.randrange(1, 40)}}
    assert server.post("/generate", body).status_code == 200


def sample(server: Server, dice: random.Random) -> None:
    chosen = dict(temperature=1.0, top_p=0.9, top_k=20, frequency_penalty=0.5, min_new_tokens=2, n=dice.randrange(1, 4))
    body = {"input_ids": prompt(dice, 60), "sampling_params": GREEDY | chosen}
    assert server.post("/generate", body).status_code == 200


def with_logprobs(server: Server, dice: random.Random) -> None:
    asked = dict(return_logprob=True, logprob_start_len=0, top_logprobs_num=3, return_hidden_states=dice.random() < 0.5)
    ids = prompt(dice)
    answer = server.post("/generate", {"input_ids": ids, "sampling_params": GREEDY} | asked).json()
    assert len(answer["meta_info"]["input_token_logprobs"]) == len(ids)


def with_grammar(server: Server, dice: random.Random) -> None:
    grammar = dice.choice([{"regex": "[ab]{3,9}"}, {"json_schema": SCHEMA}, {"ebnf": 'root ::= "x" | "yy"'}])
    body = {"input_ids": prompt(dice, 60), "sampling_params": {"temperature": 0, "max_new_tokens": 24} | grammar}
    assert server.post("/generate", body).status_code == 200


def hang_up(server: Server, dice: random.Random) -> None:
    long = GREEDY | {"max_new_tokens": 500}
    body = {"input_ids": prompt(dice), "sampling_params": long, "stream": True}
    with server.post("/generate", body, stream=True) as answer:
        lines = answer.iter_lines()
        for _ in range(dice.randrange(1, 4)):
            next(lines, None)


def abort(server: Server, dice: random.Random) -> None:
    name = f"soak-{dice.getrandbits(60)}"
    body = {"input_ids": prompt(dice), "rid": name, "sampling_params": GREEDY | {"max_new_tokens": 1000}}
    asked = threading.Thread(target=lambda: server.post("/generate", body))
    asked.start()
    while asked.is_alive():
        time.sleep(0.05 + dice.random() / 5)
        server.post("/abort_request", {"rid": name})
    asked.join()


def refused(server: Server, dice: random.Random) -> None:
    path, body = dice.choice(
        [
            ("/generate", {"input_ids": [10**9], "sampling_params": GREEDY}),
            ("/generate", {"input_ids": [7] * 10_000, "sampling_params": GREEDY}),
            ("/generate", {"text": "a", "sampling_params": {"regex": "(["}}),
            ("/start_expert_distribution_record", None),
            ("/update_weights_from_disk", {"model_path": "/proc/none"}),
        ]
    )
    assert 400 <= server.post(path, body).status_code < 500


def chat(server: Server, dice: random.Random) -> None:
    messages = [{"role": "user", "content": "What does this do? " * dice.randrange(1, 9)}]
    body = {"model": "m", "messages": messages, "max_tokens": 16, "stream": dice.random() < 0.5, "logprobs": True}
    assert server.post("/v1/chat/completions", body).status_code == 200


def flush(server: Server, _dice: random.Random) -> None:
    server.post("/flush_cache?timeout=1")


def update_weights(server: Server, _dice: random.Random) -> None:
    answer = server.post("/update_weights_from_disk", {"model_path": server.model, "flush_cache": True})
    assert answer.json()["success"] or "flush" in answer.json()["message"], answer.text


LOAD: dict[Callable, int] = {generate: 8, sample: 4, with_logprobs: 4, with_grammar: 3, hang_up: 3, abort: 3}
LOAD |= {refused: 2, chat: 3, flush: 1, update_weights: 1}
# The rest is the prefill server's to answer, or several answers to one request, which want a room each.
SENT = {kind: share for kind, share in LOAD.items() if kind not in (sample, with_logprobs)}


def probe(server: Server) -> str:
    """Answers to a set of prompts, asked for one by one: ids and logprobs, every digit."""
    dice, found = random.Random(1), []
    for _ in range(8):
        body = {"input_ids": prompt(dice), "sampling_params": GREEDY, "return_logprob": True, "logprob_start_len": 0}
        answer = server.post("/generate", body).json()
        meta = answer["meta_info"]
        found.append([answer["output_ids"], meta.get("input_token_logprobs"), meta["output_token_logprobs"]])
        server.settle()
    return json.dumps(found)


def load(server: Server | Pair, seconds: float, clients: int, pause: float) -> tuple[Counter, list[str]]:
    """Each client asks again and again, and rests so many seconds in between. -> what was asked, what went wrong"""
    asked, wrong, end = Counter(), [], time.monotonic() + seconds
    kinds = LOAD if isinstance(server, Server) else SENT

    def client(number: int) -> None:
        dice = random.Random(number + time.monotonic_ns())
        while time.monotonic() < end:
            kind = dice.choices(list(kinds), list(kinds.values()))[0]
            try:
                kind(server, dice)
            except Exception as error:
                wrong.append(f"{kind.__name__}: {type(error).__name__}: {error}")
            asked[kind.__name__] += 1
            time.sleep(pause * 2 * dice.random())

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return asked, wrong


def soak(start: Callable[[Path], Server | Pair], minutes: float, clients: int, pause: float) -> dict:
    """start: what starts a server, or two, given a file for the log -> {"asked", "before", "after", "problems"}"""
    server = start(Path(tempfile.mkstemp(suffix=".log", prefix="soak")[1]))
    try:
        wanted = probe(server)
        first, wrong = load(server, minutes * 60 * WARM, clients, pause)
        server.settle()
        before = server.counts()
        second, more = load(server, minutes * 60 * (1 - WARM), clients, pause)
        server.settle()
        problems = wrong + more
        after, used = server.counts(), server.used_tokens()
        grown = {name: after[name] - before[name] for name in GROWTH}
        grown = {name: value for name, value in grown.items() if value > GROWTH[name] * len(server.logs)}
        problems += [f"{name} has grown by {value:.0f}" for name, value in grown.items()]
        problems += [f"{used} tokens of the pool are held by nobody"] if used else []
        problems += ["an answer to the probe set has changed"] if probe(server) != wanted else []
        problems += [f"SGLang's log tells of a leak: {log}" for log in server.logs if "memory leak" in log.read_text()]
    finally:
        server.stop()
    return {"asked": dict(first + second), "before": before, "after": after, "problems": problems}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.2, help="mean seconds that a client rests between requests")
    parser.add_argument("--disaggregated", action="store_true", help="a prefill server and a decode server, over nixl")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="more flags of the server; last")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    flags = tuple(chosen.flags)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which stops what was started

    def start(log: Path) -> Server | Pair:
        if chosen.disaggregated:
            return Pair(chosen.model, FLAGS, flags, log)
        return Server(chosen.model, (*FLAGS, *ALONE, *flags), log)

    found = soak(start, chosen.minutes, chosen.clients, chosen.pause)
    print(json.dumps(found, indent=1))
    if chosen.output:
        chosen.output.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""Answers prompts by two servers: one computes prompts, the other one goes on from their keys and values.

    pip install --no-deps nixl nixl-cu12
    python ms_example/disaggregation.py [MODEL] [--prompt TEXT ...]

Both run on this machine. What a router does is the function `ask`: it sends a request to both, and the second answers.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

DEMO_MODEL = Path(__file__).parent / "demo_model"
PROMPTS = ("Return True if", "If the optional argument", 'A "for" loop', 'The "with" statement')
PORTS, BOOTSTRAP = {"prefill": 31000, "decode": 31001}, 8998
SECONDS = 300  # for the servers to start


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(DEMO_MODEL), help="a Hugging Face model; default: %(default)s")
    parser.add_argument("--prompt", nargs="+", default=PROMPTS, help="what to complete, one after the other")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    return parser.parse_args()


def start(model: str, mode: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", model, "--framework", "mindspore"]
    command += ["--device", "cpu", "--max-total-tokens", "16384", "--log-level", "warning"]
    command += ["--disaggregation-mode", mode, "--disaggregation-transfer-backend", "nixl"]
    command += ["--disaggregation-bootstrap-port", str(BOOTSTRAP), "--port", str(PORTS[mode])]
    return subprocess.Popen(command, env={"UCX_TLS": "tcp,self,sm", "SGLANG_HOST_IP": "127.0.0.1", **os.environ})


def await_ready(servers: dict[str, subprocess.Popen]) -> None:
    end = time.monotonic() + SECONDS
    for mode, server in servers.items():
        while True:
            if server.poll() is not None or time.monotonic() > end:
                sys.exit(f"the {mode} server did not start")
            try:
                requests.get(f"http://127.0.0.1:{PORTS[mode]}/health", timeout=5).raise_for_status()
                break
            except requests.RequestException:
                time.sleep(0.5)


def ask(body: dict) -> dict:
    """The answer to a request of /generate."""
    room = {"bootstrap_host": "127.0.0.1", "bootstrap_port": BOOTSTRAP, "bootstrap_room": random.getrandbits(60)}
    urls = [f"http://127.0.0.1:{PORTS[mode]}/generate" for mode in ("prefill", "decode")]
    with ThreadPoolExecutor(2) as clients:
        _, answer = clients.map(lambda url: requests.post(url, json=body | room, timeout=SECONDS), urls)
    answer.raise_for_status()
    return answer.json()


def main() -> None:
    arguments = parse_arguments()
    servers = {mode: start(arguments.model, mode) for mode in PORTS}
    try:
        await_ready(servers)
        for prompt in arguments.prompt:
            started = time.perf_counter()
            sampling = {"max_new_tokens": arguments.max_new_tokens, "temperature": 0}
            text = ask({"text": prompt, "sampling_params": sampling})["text"]
            print(f"{prompt!r} -> {text!r} in {(time.perf_counter() - started) * 1000:.0f} ms", flush=True)
    finally:
        for server in servers.values():
            server.terminate()
        for server in servers.values():
            server.wait(30)


if __name__ == "__main__":
    main()

"""What a server tells of itself beside its answers: operators in profiles, what steps cost, and traces of requests."""

import gzip
import json
import os
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from unittest import mock

import pytest
import requests
import zmq
from serving.conftest import MODEL

from sglang.srt.observability.forward_pass_metrics import decode

SECONDS = 3, 25


def ask(server):
    body = {"input_ids": list(range(5, 45)), "sampling_params": {"max_new_tokens": 4, "ignore_eos": True}}
    answer = server.post("/generate", body)
    assert answer.ok, answer.text


def test_a_profile_has_the_operators_among_what_torch_says(server, tmp_path):
    wanted = {"output_dir": str(tmp_path), "activities": ["CPU"], "with_stack": False}
    assert server.post("/start_profile", wanted).ok
    ask(server)
    assert server.post("/stop_profile", {}).ok
    (file,) = tmp_path.iterdir()
    with gzip.open(file, "rt") as trace:
        events = json.load(trace)["traceEvents"]
    own = [event for event in events if event.get("cat") == "mindspore_op" and event["ph"] == "X"]
    assert {"qkv_to_cache", "paged_attention", "linear"} <= {event["name"] for event in own}
    others = [event for event in events if event.get("cat") == "cpu_op"]
    first, last = min(event["ts"] for event in others), max(event["ts"] + event["dur"] for event in others)
    assert first < min(event["ts"] for event in own) and max(event["ts"] + event["dur"] for event in own) < last
    assert len({event["tid"] for event in own} & {event["tid"] for event in others}) == 0


@contextmanager
def told_of_passes(endpoint: str):
    """Function that waits for what a scheduler tells of its next pass that had requests."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.setsockopt(zmq.RCVTIMEO, 30_000)
        socket.connect(endpoint)
        socket.recv_multipart()  # of an idle server, each second: it knows of us now

        def told():
            while not (found := decode(socket.recv_multipart()[2])).wall_time:
                pass
            return found

        yield told


class Receiver(BaseHTTPRequestHandler):
    """Of traces, as OTLP/HTTP has them."""

    bodies = []

    def do_POST(self):
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_flops_passes_and_traces_are_told(serve, tmp_path):
    pytest.importorskip("opentelemetry.sdk", reason="pip install opentelemetry-sdk opentelemetry-exporter-otlp")
    receiver = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    variables = {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "SGLANG_OTLP_EXPORTER_SCHEDULE_DELAY_MILLIS": "50",
    }
    traced = ("--enable-trace", "--otlp-traces-endpoint", f"http://127.0.0.1:{receiver.server_port}/v1/traces")
    with mock.patch.dict(os.environ, variables):
        passes = ("--enable-forward-pass-metrics", "--forward-pass-metrics-worker-id", "w")
        passes += ("--forward-pass-metrics-ipc-name", f"ipc://{tmp_path}/passes")
        server = serve(MODEL, "--enable-metrics", "--enable-mfu-metrics", *traced, *passes)
    with told_of_passes(f"ipc://{tmp_path}/passes.0") as told:  # .0: of the first replica
        began = time.perf_counter()
        ask(server)
        took = time.perf_counter() - began
        passes = [told() for _ in range(4)]
    assert [one.scheduled_requests.num_decode_requests for one in passes] == [0, 1, 1, 1]
    assert (passes[0].scheduled_requests.sum_prefill_tokens, passes[0].worker_id) == (40, "w")
    assert min(one.wall_time for one in passes) > 0 and sum(one.wall_time for one in passes) < took
    metrics = requests.get(f"{server.url}/metrics", timeout=30).text
    flops = [
        float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if line.startswith("sglang:estimated_flops")
    ]
    assert flops and max(flops) > 0
    for _ in range(20):
        if any(b"prefill" in body for body in Receiver.bodies):
            return
        threading.Event().wait(0.5)
    raise AssertionError(f"{len(Receiver.bodies)} messages, and no prefill in them")

"""What a server tells of itself beside its answers: operators in profiles, what steps cost, and traces of requests."""

import gzip
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from unittest import mock

import pytest
import requests
from serving.conftest import MODEL

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
def test_flops_and_traces_are_told(serve):
    pytest.importorskip("opentelemetry.sdk", reason="pip install opentelemetry-sdk opentelemetry-exporter-otlp")
    receiver = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    variables = {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "SGLANG_OTLP_EXPORTER_SCHEDULE_DELAY_MILLIS": "50",
    }
    traced = ("--enable-trace", "--otlp-traces-endpoint", f"http://127.0.0.1:{receiver.server_port}/v1/traces")
    with mock.patch.dict(os.environ, variables):
        server = serve(MODEL, "--enable-metrics", "--enable-mfu-metrics", *traced)
    ask(server)
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

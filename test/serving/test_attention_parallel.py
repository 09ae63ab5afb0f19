"""--enable-dp-attention: replicas of attention with requests of their own, experts for all their tokens.

On a CPU, and on the path of an NPU: kernels that check what they are given, here in float32.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from models.tiny import TINY, divisible, save
from serving.answers import check_answers, choices, computed, request
from serving.conftest import free_port
from serving.warm import BEFORE, WarmServer
from tiers import mostly_slow

SECONDS = 30, 160
SIZES = dict(dp_size=2, enable_dp_attention=True, skip_tokenizer_init=True)
SIZES |= dict(max_running_requests=8, chunked_prefill_size=16)
KINDS = {  # variant, whether a server or an engine, arguments
    # Two key/value heads, of which the two ranks of a replica have one each.
    "experts on four ranks, to which rows are sent": ("qwen3_moe", True, dict(tp_size=4, moe_a2a_backend="deepep")),
    "experts and parts of them": ("deepseek_v3", False, dict(tp_size=4, ep_size=2, enable_dp_lm_head=True)),
    "windows with a pool of their own": ("gpt_oss", False, dict(tp_size=2, page_size=4)),
    "stages": ("qwen3_moe", False, dict(tp_size=2, pp_size=2)),
}
# Pages and chunks of an NPU; decode graphs for two requests, and for four: more run in a graph of any size.
PAGED = dict(page_size=16, chunked_prefill_size=64)
COUNTED = "expert_distribution_recorder_mode"
AS_ON_NPU = {
    "an NPU's path, experts of which some have two places": (
        "qwen3_moe@16",
        False,
        dict(tp_size=2, ep_size=2, ep_num_redundant_experts=2, cuda_graph_bs_decode=[2], **{COUNTED: "stat"}, **PAGED),
    ),
    "an NPU's path, replicas of two ranks": (
        "deepseek_v3@16",
        False,
        dict(tp_size=4, ep_size=2, enable_dp_lm_head=True, cuda_graph_bs_decode=[2, 4], **PAGED),
    ),
}
KINDS |= AS_ON_NPU
QUICK = (next(iter(AS_ON_NPU)),)
UNEVEN = [list(range(5 + i, 5 + i + length)) for i, length in enumerate((2, 70, 9, 1, 41))]  # in chunks of 8 tokens


class Replicas(NamedTuple):
    ask: Callable  # two replicas
    name: str  # of their model's variant
    ranks: int
    counts: Callable | None = None  # the tokens of each layer's experts since this was last called [layers, experts]


def counts_of(engine, folder: Path) -> Callable:
    """From now on, of an engine that writes what it records to a folder."""

    def counts():
        engine.dump_expert_distribution_record()
        (file,) = folder.glob("*.pt")
        found = torch.load(file, weights_only=True)["logical_count"].sum(0).numpy()
        file.unlink()
        return found

    engine.start_expert_distribution_record()
    return counts


@pytest.fixture(scope="module", params=mostly_slow(KINDS, lambda kind: kind in QUICK))
def replicas(request, start_engine, tmp_path_factory):
    variant, through_http, arguments = KINDS[request.param]
    name, _, unit = variant.partition("@")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY, f"{name}-even", divisible(TINY[name]))
        even = f"{name}-even@{unit}" if unit else f"{name}-even"
        folder = save(even, tmp_path_factory.mktemp(name))
        recorded = tmp_path_factory.mktemp("recorded")
        patch.setenv("SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR", str(recorded))
        if request.param in AS_ON_NPU:
            patch.setenv("SGLANG_MS_OPS", "ascend_reference")
            patch.setenv(BEFORE, "ascend.exact")
        if through_http:
            server = WarmServer(folder / "log", *flags(max_total_tokens=2048, **SIZES, **arguments), model=folder)
            try:
                server.await_ready()
                yield Replicas(lambda **body: server.post("/generate", body).json(), even, arguments["tp_size"])
            finally:
                server.stop()
        else:
            # SGLang takes ports of its controller and schedulers from this one's neighborhood.
            engine = start_engine(folder, port=free_port(), **SIZES | arguments)
            counts = counts_of(engine, recorded) if COUNTED in arguments else None
            yield Replicas(engine.generate, even, arguments["tp_size"], counts)


def flags(**arguments) -> list[str]:
    given = [(f"--{name.replace('_', '-')}", value) for name, value in arguments.items()]
    return [part for name, value in given for part in ([name] if value is True else [name, str(value)])]


def check(replicas, prompts, **where):
    if replicas.counts is not None:
        replicas.counts()  # what came before
    answers = replicas.ask(**request(10, prompts), **where)
    check_answers(answers, replicas.name, 1e-4, prompts)
    if replicas.counts is not None:
        found, chosen = replicas.counts(), choices(replicas.name, computed(answers, prompts))
        for layer, experts in chosen.items():  # every rank counts the tokens of all replicas, and no row of padding
            np.testing.assert_array_equal(found[layer], replicas.ranks * experts)
        assert found.sum() == replicas.ranks * sum(experts.sum() for experts in chosen.values())


def test_a_replica_answers_while_the_other_is_idle(replicas):
    for replica in (0, 1):
        check(replicas, [[5, 90, 17, 3 + replica]], routed_dp_rank=replica)


def test_replicas_with_prompts_of_other_lengths_answer_at_once(replicas):
    check(replicas, UNEVEN)


def test_a_replica_that_sleeps_keeps_no_other_waiting(replicas):
    waited = 0
    for number in range(6):
        time.sleep(0.1)  # by now all of them sleep
        begun = time.monotonic()
        replicas.ask(**request(1, [[7, number]]), routed_dp_rank=number % 2)
        waited += time.monotonic() - begun
    assert waited < 3, "SGLang lets each of them sleep for a second"

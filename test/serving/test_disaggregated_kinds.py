"""Prefill on one server and decode on another, for models of each kind: what one server answers, to the last bit."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import requests
from models.tiny import save
from serving.pairs import Pair, settle
from serving.warm import WarmServer
from tiers import SLOW

SECONDS = 1, 300
LENGTHS = (3, 5, 40, 130, 400)  # of prompts, of which the longer ones come in chunks
AT_ONCE = 32
CONTEXT = 512  # positions of each model
REPLICAS = ("--tp-size", "2", "--dp-size", "2", "--enable-dp-attention")


class Kind(NamedTuple):
    variant: str
    flags: tuple[str, ...] = ("--page-size", "4")  # of all servers
    decode: tuple[str, ...] = ()  # of the decode server alone


KINDS = {
    "full attention": Kind("qwen3"),
    "windows": Kind("gemma2"),
    "latent": Kind("deepseek_v2"),
    "experts": Kind("qwen3_moe"),
    "ranks": Kind("qwen3_moe@ranks", ("--page-size", "4", "--tp-size", "2")),
    "replicas of attention": Kind("qwen3_moe@ranks", ("--page-size", "4", *REPLICAS)),
    "replicas that get pages of one rank": Kind("deepseek_v3@ranks", ("--page-size", "4"), REPLICAS),
    "windows, of which two ranks get heads": Kind("gemma2", decode=("--tp-size", "2")),
}


class Servers(NamedTuple):
    pair: Pair
    alone: WarmServer
    kind: Kind


@pytest.fixture(scope="module", params=[pytest.param(name, marks=SLOW) for name in KINDS])
def servers(request, tmp_path_factory):
    kind = KINDS[request.param]
    folder = save(kind.variant, tmp_path_factory.mktemp("model"))
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | dict(max_position_embeddings=CONTEXT)))
    sizes = ("--max-total-tokens", "4096", "--max-running-requests", "8", "--skip-tokenizer-init", *kind.flags)
    pair = Pair(tmp_path_factory, model=folder)
    alone = WarmServer(tmp_path_factory.mktemp("alone") / "log", *sizes, "--chunked-prefill-size", "128", model=folder)
    try:
        pair.start("prefill", *sizes)
        pair.start("decode", *sizes, *kind.decode)
        yield Servers(pair, alone.await_ready(), kind)
    finally:
        alone.stop()
        pair.stop()


def body(length: int) -> dict:
    chosen = random.Random(length)
    greedy = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
    ids = [chosen.randrange(5, 95) for _ in range(length)]
    return dict(input_ids=ids, sampling_params=greedy, return_logprob=True)


def read(answer: requests.Response) -> list[tuple[int, float]]:
    """The tokens of an answer, and their logprobs."""
    assert answer.ok, answer.text
    return [(token, logprob) for logprob, token, *_ in answer.json()["meta_info"]["output_token_logprobs"]]


@pytest.mark.parametrize("turn", ["computed", "cached"])
def test_answers_are_those_of_one_server(servers, turn):
    for length in LENGTHS:
        found, wanted = read(servers.pair.ask(body(length))), read(servers.alone.post("/generate", body(length)))
        assert [token for token, _ in found] == [token for token, _ in wanted], length
        apart = max(abs(one - other) for (_, one), (_, other) in zip(found, wanted, strict=True))
        # Other ranks add up in another order, and so do the few tokens behind a prefix.
        assert apart <= (1e-5 if servers.kind.decode or turn == "cached" else 0.0), (length, apart)


def test_many_requests_at_once(servers):
    alone = {length: read(servers.alone.post("/generate", body(length))) for length in LENGTHS}
    lengths = [LENGTHS[place % len(LENGTHS)] for place in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as clients:
        found = list(clients.map(lambda length: read(servers.pair.ask(body(length))), lengths))
    for length, answer in zip(lengths, found, strict=True):
        assert [token for token, _ in answer] == [token for token, _ in alone[length]], length
    for mode, side in servers.pair.sides.items():
        settle(side)
        loads = requests.get(f"{side.url}/v1/loads", timeout=30).json()["loads"]
        assert [load["num_used_tokens"] for load in loads] == [0] * len(loads), mode

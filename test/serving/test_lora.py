"""A server with adapters, over HTTP: each request's tokens are PEFT's, whatever comes and goes meanwhile."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
import safetensors.torch
import torch
from models import drafts
from models.adapters import ALL, adapted, adapter_of, logits_of
from models.tiny import hugging_face, save
from serving.conftest import MODEL, Reference, free_port
from serving.test_eagle import SIZES
from tiers import SLOW

from sglang.srt.utils import MultiprocessingSerializer

SECONDS = 15, 300
RANK, SLOTS, TOKENS = 8, 2, 12
CONFIGS = {
    "a": dict(r=4, lora_alpha=8, target_modules=ALL),
    "b": dict(r=8, lora_alpha=8, target_modules=["q_proj", "v_proj"], use_rslora=True),
    "c": dict(r=4, lora_alpha=8, target_modules=["down_proj", "up_proj"], rank_pattern={"up_proj": 6}),
    "d": dict(r=2, lora_alpha=4, target_modules=["o_proj", "k_proj"]),
    "ends": dict(r=3, lora_alpha=4, target_modules=["embed_tokens", "lm_head", "v_proj"]),
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Folders of the adapters, by name, and PEFT's models."""
    folder, model = tmp_path_factory.mktemp("adapters"), Reference().model
    found = {
        name: adapted(model, folder / name, seed, scale=1.0, **config)
        for seed, (name, config) in enumerate(CONFIGS.items())
    }
    return folder, found


@pytest.fixture(scope="module")
def server(serve, adapters):
    folder, _ = adapters
    paths = [f"{name}={folder / name}" for name in "ab"]
    sizes = ["--max-loras-per-batch", str(SLOTS), "--max-lora-rank", str(RANK), "--lora-target-modules", "all"]
    return serve(MODEL, "--lora-paths", *paths, *sizes, "--enable-cache-report", "--max-running-requests", "8")


@pytest.fixture(scope="module")
def wanted(adapters):
    """Function of ids and an adapter's name, or None -> the greedy tokens of PEFT's model, or of the model."""
    _, models = adapters
    plain, known = Reference().model, {}

    @torch.no_grad()
    def tokens(ids, name):
        key = (tuple(ids), name)
        if key not in known:
            model = plain if name is None else models[name]
            found = model.generate(
                input_ids=torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False, eos_token_id=None
            )
            known[key] = found[0][len(ids) :].tolist()
        return known[key]

    return tokens


def generate(server, ids, names):
    """Tokens of a batch, each with an adapter's name or None; and how many tokens of each were cached."""
    greedy = {"temperature": 0, "max_new_tokens": TOKENS, "ignore_eos": True}
    answer = server.post("/generate", {"input_ids": ids, "lora_path": names, "sampling_params": greedy})
    assert answer.ok, answer.text
    found = answer.json()
    return [one["output_ids"] for one in found], [one["meta_info"]["cached_tokens"] for one in found]


def prompt(seed, length=9):
    return np.random.default_rng(seed).integers(20, 400, length).tolist()


def load(server, adapters, name, **options):
    body = {"lora_name": name, "lora_path": str(adapters[0] / name)} | options
    return server.post("/load_lora_adapter", body)


def test_steps_are_replayed(server):
    assert "steps: captured and replayed" in server.log.read_text()


def test_each_request_of_a_batch_has_its_adapters_tokens(server, wanted):
    ids, names = [prompt(seed) for seed in range(6)], ["a", None, "a", None, "a", None]
    found, _ = generate(server, ids, names)
    assert found == [wanted(*each) for each in zip(ids, names, strict=True)]
    ids, names = [prompt(0)] * 5, ["b", "a", "b", "a", "a"]  # one prompt, of which both adapters make something else
    found, _ = generate(server, ids, names)
    assert found == [wanted(*each) for each in zip(ids, names, strict=True)]
    assert len({tuple(wanted(prompt(0), name)) for name in ("a", "b", None)}) == 3


def test_what_is_cached_of_one_adapter_is_of_no_use_to_another(server, wanted):
    ids = prompt(77, 40)
    for name, cached in (("a", 0), ("a", 39), (None, 0), ("b", 0), (None, 39), ("b", 39), ("a", 39)):
        found, hits = generate(server, [ids], [name])
        assert (found, hits) == ([wanted(ids, name)], [cached]), name


def test_adapters_come_and_go_while_the_server_serves(server, adapters, wanted):
    for name in "cd":
        assert load(server, adapters, name).ok
    ids, names = [prompt(seed) for seed in range(100, 108)], ["a", "b", "c", "d", None, "c", "b", "a"]
    for _ in range(2):  # there are two slots, so all of them are evicted
        found, _ = generate(server, ids, names)
        assert found == [wanted(*each) for each in zip(ids, names, strict=True)]
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    assert {"a", "b", "c", "d"} <= {one.id for one in client.models.list()}
    assert server.post("/unload_lora_adapter", {"lora_name": "d"}).ok
    assert "d" not in {one.id for one in client.models.list()}
    found, _ = generate(server, ids[:2], ["c", "a"])
    assert found == [wanted(ids[0], "c"), wanted(ids[1], "a")]
    assert load(server, adapters, "d").ok
    found, _ = generate(server, ids[:1], ["d"])
    assert found == [wanted(ids[0], "d")]


def test_logprobs_with_tensors_for_the_embedding_and_the_head_are_pefts(server, adapters, wanted):
    answer = load(server, adapters, "ends")
    assert answer.ok, answer.text
    ids, names, starts = [prompt(seed, 30) for seed in range(500, 503)], ["ends", None, "ends"], [0, 0, 20]
    asked = dict(return_logprob=True, logprob_start_len=starts, sampling_params={"temperature": 0, "max_new_tokens": 4})
    found = server.post("/generate", {"input_ids": ids, "lora_path": names} | asked).json()
    for prompt_, name, one in zip(ids, names, found, strict=True):
        model = adapters[1][name] if name else Reference().model
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt_])).logits[0].log_softmax(-1)
        said = [value for value, *_ in one["meta_info"]["input_token_logprobs"]][-8:]
        asked_of = range(len(prompt_) - 9, len(prompt_) - 1)
        np.testing.assert_allclose(said, [float(logprobs[at, prompt_[at + 1]]) for at in asked_of], atol=2e-3)
        first = one["meta_info"]["output_token_logprobs"][0]
        np.testing.assert_allclose(first[0], float(logprobs[-1].max()), atol=2e-3)
    ids, names = [prompt(seed) for seed in range(4)], ["ends", None, "ends", "a"]
    found, _ = generate(server, ids, names)
    assert found == [wanted(*each) for each in zip(ids, names, strict=True)]


def test_an_adapter_comes_as_tensors(server, adapters, wanted, shared_by_name):
    folder = adapters[0] / "c"
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    body = {
        "lora_name": "sent",
        "config_dict": json.loads((folder / "adapter_config.json").read_text()),
        "serialized_named_tensors": [MultiprocessingSerializer.serialize(tensors, output_str=True)],
    }
    answer = server.post("/load_lora_adapter_from_tensors", body)
    assert answer.ok, answer.text
    found, _ = generate(server, [prompt(5)], ["sent"])
    assert found == [wanted(prompt(5), "c")]
    assert server.post("/unload_lora_adapter", {"lora_name": "sent"}).ok


def test_weights_that_come_anew_leave_adapters_as_they_are(server, wanted):
    assert server.post("/update_weights_from_disk", {"model_path": MODEL}).json()["success"]
    ids, names = [prompt(seed) for seed in range(800, 803)], ["a", None, "b"]
    found, _ = generate(server, ids, names)
    assert found == [wanted(*each) for each in zip(ids, names, strict=True)]


def test_openais_client_names_an_adapter_behind_the_model(server, wanted):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    tokenizer = Reference().tokenizer
    text = "def add(a, b):"
    ids = tokenizer(text)["input_ids"]
    for name in ("a", "b"):
        answer = client.completions.create(
            model=f"{MODEL}:{name}", prompt=text, max_tokens=TOKENS, temperature=0, extra_body={"ignore_eos": True}
        )
        assert answer.choices[0].text == tokenizer.decode(wanted(ids, name), skip_special_tokens=True)


def test_an_adapter_that_cannot_be_served_is_refused_and_the_server_serves_on(server, adapters, wanted, tmp_path):
    folder, _ = adapters

    def broken(name, **config):
        shutil.copytree(folder / "a", tmp_path / name)
        file = tmp_path / name / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        return tmp_path / name

    (broken("cut") / "adapter_model.safetensors").write_bytes(b"cut")
    (broken("tokens") / "added_tokens.json").write_text(json.dumps({"<new>": 10**6}))
    refused = {
        broken("dora", use_dora=True): "use_dora True",
        broken("saved", modules_to_save=["lm_head"]): "modules_to_save",
        broken("rank", r=5): "says rank 5",
        tmp_path / "cut": "cannot be read",
        tmp_path / "tokens": "add tokens to the vocabulary",
        tmp_path: "adapter_config.json",
    }
    for path, problem in refused.items():
        answer = server.post("/load_lora_adapter", {"lora_name": f"no-{path.name}", "lora_path": str(path)})
        assert answer.status_code == 400 and problem in answer.text, answer.text
    answer = server.post("/generate", {"input_ids": prompt(1), "lora_path": "nobody"})
    assert answer.status_code == 400 and "nobody" in answer.text
    found, _ = generate(server, [prompt(1)], ["a"])
    assert found == [wanted(prompt(1), "a")]


def check_traffic(server, adapters, wanted, seconds):
    """Adapters come and go beside requests for them, of which none gets a wrong token."""
    for name in "cd":
        load(server, adapters, name)
    cases = [(prompt(seed), name) for seed in range(300, 304) for name in ("a", "b", "c", "d", None)]
    expected = [wanted(*case) for case in cases]
    end, wrong, answered, moved = time.monotonic() + seconds, [], [0] * 3, [0]

    def ask(number):
        rng = np.random.default_rng(number)
        while time.monotonic() < end:
            chosen = rng.permutation(len(cases))[: rng.integers(1, 6)]
            found, _ = generate(server, [cases[one][0] for one in chosen], [cases[one][1] for one in chosen])
            wrong.extend(one for one, tokens in zip(chosen, found, strict=True) if tokens != expected[one])
            answered[number] += len(chosen)

    def move():
        while time.monotonic() < end:
            for name in "cd":  # who asks for it meanwhile has it loaded again
                server.post("/unload_lora_adapter", {"lora_name": name})
                load(server, adapters, name)
                moved[0] += 1

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(move), *(threads.submit(ask, number) for number in range(3))]:
            done.result()
    print(f"{sum(answered)} requests, {moved[0]} times an adapter came and went")
    assert not wrong and min(answered) > 20 and moved[0] > 20


@pytest.mark.slow
def test_no_token_is_wrong_while_adapters_come_and_go_for_two_minutes(server, adapters, wanted):
    check_traffic(server, adapters, wanted, 120)


@pytest.mark.slow
def test_no_token_is_wrong_while_adapters_come_and_go_in_stages(serve, adapters, wanted):
    folder, _ = adapters
    paths = [f"{name}={folder / name}" for name in "ab"]
    sizes = ["--max-loras-per-batch", str(SLOTS), "--max-lora-rank", str(RANK), "--lora-target-modules", "all"]
    check_traffic(serve(MODEL, "--pp-size", "2", "--lora-paths", *paths, *sizes), adapters, wanted, 40)


@pytest.mark.slow
def test_adapters_of_experts_and_of_kv_b_proj_over_a_server(serve, tmp_path):
    """Only layers that the adapters at the start name have room."""
    folder, stacks = save("deepseek_v3", tmp_path / "model"), ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    targets = dict(target_modules=["kv_b_proj", "q_a_proj"], target_parameters=stacks)
    models = {
        name: adapter_of("deepseek_v3", tmp_path / name, seed, scale=2.0, r=3 + seed, lora_alpha=6, **targets)
        for seed, name in enumerate("ab")
    }
    paths = [f"{name}={tmp_path / name}" for name in models]
    server = serve(folder, "--skip-tokenizer-init", "--lora-paths", *paths, "--max-loras-per-batch", "3")
    ids, names = [prompt(seed, 12) for seed in range(4)], ["a", None, "b", "a"]
    ids = [[token % 120 for token in one] for one in ids]
    models[None] = hugging_face("deepseek_v3")
    found, _ = generate(server, ids, names)
    for tokens, asked, name in zip(found, ids, names, strict=True):
        logits = logits_of(models[name], [*asked, *tokens])
        assert tokens == logits.argmax(-1)[len(asked) - 1 : -1].tolist(), name
    assert len({tuple(generate(server, ids[:1], [name])[0][0]) for name in ("a", "b", None)}) > 1
    answer = server.post("/load_lora_adapter", {"lora_name": "no", "lora_path": str(tmp_path / "model")})
    assert answer.status_code == 400


@pytest.mark.slow
def test_two_ranks_have_the_same_tokens(serve, adapters, wanted):
    folder, _ = adapters
    paths = [f"{name}={folder / name}" for name in "abcd"]
    server = serve(MODEL, "--tp-size", "2", "--lora-paths", *paths, "--max-loras-per-batch", "2")
    ids, names = [prompt(seed) for seed in range(400, 406)], ["a", "b", None, "d", "c", "a"]
    found, _ = generate(server, ids, names)
    assert found == [wanted(*each) for each in zip(ids, names, strict=True)]


@pytest.mark.slow
def test_replicas_of_attention_have_the_same_tokens(start_engine, adapters, wanted):
    folder, _ = adapters
    paths = [dict(lora_name=name, lora_path=str(folder / name), pinned=True) for name in ("a", "b", "ends")]
    sizes = dict(tp_size=2, dp_size=2, enable_dp_attention=True, enable_dp_lm_head=True, port=free_port())
    engine = start_engine(MODEL, lora_paths=paths, max_loras_per_batch=4, chunked_prefill_size=16, **sizes)

    def check(ids, names):
        asked = dict(temperature=0, max_new_tokens=TOKENS, ignore_eos=True)
        found = engine.generate(input_ids=ids, lora_path=names, sampling_params=asked)
        assert [one["output_ids"] for one in found] == [wanted(*each) for each in zip(ids, names, strict=True)]

    for number, name in enumerate(("a", None, "ends", "b")):  # while the other replica is idle
        check([prompt(700 + number)], [name])
    lengths, names = (3, 40, 9, 17, 5, 21, 8), ["a", None, "ends", "b", "a", "b", None]
    check([prompt(710 + number, length) for number, length in enumerate(lengths)], names)


@SLOW
@pytest.mark.parametrize("algorithm", ["NGRAM", "EAGLE", "EAGLE3"])
def test_adapters_are_the_targets_where_tokens_are_drafted(start_engine, adapters, wanted, tmp_path, algorithm):
    folder, _ = adapters
    arguments = dict(speculative_algorithm=algorithm, speculative_num_draft_tokens=4, speculative_eagle_topk=1)
    if algorithm != "NGRAM":
        layers = dict(draft_vocab_size=512, eagle_config=dict(eagle_aux_hidden_state_layer_ids=[1, 2, 4]))
        described = drafts.EAGLE3 | layers if algorithm == "EAGLE3" else drafts.EAGLE
        draft = drafts.save(tmp_path / "draft", described | SIZES)
        arguments |= dict(speculative_draft_model_path=str(draft), speculative_num_steps=3)
    names = ["a", None, "ends", "a", "b", "ends"]
    paths = dict(lora_paths=[f"{name}={folder / name}" for name in ("a", "b", "ends")], max_loras_per_batch=4)
    engine = start_engine(MODEL, max_lora_rank=RANK, lora_target_modules=["all"], **paths, **arguments)
    ids = [prompt(seed) for seed in range(600, 606)]
    for _ in range(2):  # cold, then with what the n-grams know
        asked = dict(temperature=0, max_new_tokens=TOKENS, ignore_eos=True)
        found = engine.generate(input_ids=ids, lora_path=names, sampling_params=asked)
        assert [one["output_ids"] for one in found] == [wanted(*each) for each in zip(ids, names, strict=True)]

"""benchmark/peers.py: engines take turns, decode is a difference of medians, and one that fails is named."""

import json
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

SECONDS = 3
BENCHMARK = Path(__file__).parents[2] / "benchmark"


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARK))
    import peers

    return peers


class Recorded:
    """A session that takes 1 s for a prompt, and as much as it is told for each token after the first."""

    def __init__(self, name, each, log):
        self.name, self.each, self.log = name, each, log

    def seconds(self, batch, length, new):
        self.log.append((self.name, batch, length, new))
        return 1.0 + (new - 1) * self.each


def test_engines_take_turns_and_decode_is_what_more_tokens_take(peers):
    log = []
    sessions = [Recorded("slow", 0.5, log), Recorded("fast", 0.25, log)]
    slow, fast = peers.measure(sessions, "4:128:8", 2)
    assert slow == {"decode batch 4, context 128 (tok/s)": 4 * 8 / (8 * 0.5)}
    assert fast == {"decode batch 4, context 128 (tok/s)": 4 * 8 / (8 * 0.25)}
    one_round = [("slow", 4, 128, 1), ("slow", 4, 128, 9), ("fast", 4, 128, 1), ("fast", 4, 128, 9)]
    assert log == [("slow", 4, 128, 1), ("fast", 4, 128, 1), *one_round, *one_round]


def test_decode_is_told_as_a_share_of_what_memory_would_allow(peers):
    reads = peers.Reads(lambda: 1000.0, lambda batch, context: 10.0 * batch + context)  # 40 + 132 bytes a step
    (found,) = peers.measure([Recorded("", 0.5, [])], "4:128:8", 2, reads)
    assert found["decode batch 4, context 128 (% of reads)"] == pytest.approx(100 * (1 / 0.5) / (1000 / 172))


def test_without_output_it_is_the_prompt_that_is_timed(peers):
    assert peers.measure([Recorded("", 0.5, [])], "2:64:0", 3) == [{"prefill 2x64 (tok/s)": 2 * 64 / 1.0}]


def engine(tmp_path, monkeypatch, peers, body):
    """A script that stands for an engine's, with engines/measure.py beside it."""
    script = tmp_path / "engines" / "own.py"
    script.parent.mkdir()
    script.write_text(body)
    (script.parent / "measure.py").write_text((BENCHMARK / "engines/measure.py").read_text())
    monkeypatch.setattr(peers, "HERE", tmp_path)
    monkeypatch.setitem(peers.ENGINES, "own", peers.Engine("own.py"))


def test_an_engine_is_asked_through_a_pipe_and_ends_with_it(peers, tmp_path, monkeypatch):
    engine(
        tmp_path,
        monkeypatch,
        peers,
        "import measure, time\n"
        "def start(model):\n"
        "    assert model == 'a model'\n"
        "    return lambda prompts, new: time.sleep(sum(map(len, prompts)) * new / 10000)\n"
        "measure.main(start)\n",
    )
    found = peers.run_together({"own": sys.executable}, "a model", ["2:100:10", "1:100:0"], 1)["own"]
    assert 0 < found["ready (s)"] < 30 and found["memory (GiB)"] > 0
    assert 20 < found["decode batch 2, context 100 (tok/s)"] <= 110  # 20 tokens take 0.2 s and a little
    assert 100 < found["prefill 1x100 (tok/s)"] <= 10000


def test_an_engine_has_arguments_and_tells_figures_of_its_own(peers, tmp_path, monkeypatch):
    engine(
        tmp_path,
        monkeypatch,
        peers,
        "import measure, sys\n"
        "def start(model):\n"
        "    return lambda prompts, new, given: {'answer': [sys.argv[2], given]}\n"
        "measure.main(start)\n",
    )
    monkeypatch.setitem(peers.ENGINES, "own", peers.Engine("own.py", arguments=("4",)))
    session = peers.Session("own", sys.executable, "a model")
    assert 0 <= session.seconds(1, 8, 1, [5, 6]) < 5
    assert session.told["answer"] == ["4", [5, 6]]
    session.close()


def test_texts_that_are_corrected_differ_and_are_misspelled(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARK))
    import bench_speculation

    found = bench_speculation.texts()
    assert len(found) == len(set(found)) > 7
    assert all(len(text.split()) in bench_speculation.WORDS for text in found)
    assert [bench_speculation.misspelled(place, "Python") for place in (6, 7)] == ["Ptyhon", "Python"]


def test_figures_become_rows_of_a_table(peers):
    ours, theirs = [{"a": 2.0}, {"a": 4.0}, {"a": 3.04}], {"them": [{"a": 1.0}, {"a": 1.0}, {"a": 2.0}]}
    assert peers.speed_table("us", ours, theirs) == {"ours": "us", "peers": ["them"], "rows": [["a", 3.0, [1.0, 2.0]]]}
    assert peers.speed_table("us", ours, theirs, over_peers=False)["rows"] == [["a", 3.0, [1.0, 0.5]]]


def test_results_say_by_which_command_they_come(peers, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["somewhere/bench_x.py", "--cases", "1:8:0", "--output", "x.json", "--shape", "a"])
    peers.write_results(tmp_path / "x.json", {"rows": []}, more=3)
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["command"] == "python benchmark/bench_x.py --cases 1:8:0 --shape a" and found["more"] == 3


def test_codes_are_written_as_llmcompressor_writes_them(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARK))
    import coded_checkpoint
    import random_checkpoint

    sizes = dict(vocab_size=64, hidden_size=128, moe_intermediate_size=256, num_experts=2, num_experts_per_tok=1)
    config = random_checkpoint.qwen3_moe(num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, **sizes)
    monkeypatch.setitem(random_checkpoint.SHAPES, "few", config)
    folder = coded_checkpoint.write_coded("few", tmp_path / "few")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    tensors = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert tensors.keys() == index.keys()
    down = "model.layers.1.mlp.experts.1.down_proj.weight"
    assert tensors[down + "_shape"].tolist() == [128, 256]
    assert (tensors[down + "_packed"].dtype, tensors[down + "_packed"].shape) == (torch.int32, (128, 32))
    assert (tensors[down + "_scale"].dtype, tensors[down + "_scale"].shape) == (torch.bfloat16, (128, 2))
    assert tensors["model.layers.0.mlp.gate.weight"].shape == (2, 128) and "lm_head.weight" in tensors
    assert (tensors["model.norm.weight"] == 1).all() and tensors["lm_head.weight"].float().std() > 0.01


def stops(process):
    """Whether it is stopped, soon: a signal takes a moment."""
    end = time.monotonic() + 5
    while process.status() != psutil.STATUS_STOPPED and time.monotonic() < end:
        time.sleep(0.01)
    return process.status() == psutil.STATUS_STOPPED


def test_an_engine_is_stopped_until_it_has_a_turn(peers, tmp_path, monkeypatch):
    engine(tmp_path, monkeypatch, peers, "import measure\nmeasure.main(lambda model: lambda prompts, new: None)\n")
    session = peers.Session("own", sys.executable, "a model")
    assert stops(psutil.Process(session.process.pid))
    assert session.seconds(1, 8, 1) < 5
    assert stops(psutil.Process(session.process.pid))
    assert session.close()["memory (GiB)"] > 0


def test_an_engine_that_fails_is_named_with_the_command_that_shows_why(peers, tmp_path, monkeypatch):
    engine(tmp_path, monkeypatch, peers, "raise SystemExit(3)")
    with pytest.raises(SystemExit, match=r"own failed; to see why:\n.*own\.py a model"):
        peers.Session("own", sys.executable, "a model")


NAMES = {
    ("qwen3-0.6b", "qwen3"): {"27.post_attention_layernorm": "27.ffn_norm", "0.mlp.up_proj": "0.ffn_up"},
    ("lfm2-1.2b", "lfm2"): {"2.self_attn.out_proj": "2.attn_output", "0.conv.conv": "0.shortconv.conv"},
    ("qwen3.5-0.8b", "qwen35"): {"3.post_attention_layernorm": "3.post_attention_norm", "0.mlp.up_proj": "0.ffn_up"},
}


@pytest.mark.parametrize("case", NAMES, ids=str)
def test_every_tensor_has_a_name_of_its_own_in_gguf(monkeypatch, case):
    monkeypatch.syspath_prepend(str(BENCHMARK))
    monkeypatch.syspath_prepend(str(BENCHMARK / "engines"))
    import to_gguf
    from random_checkpoint import SHAPES

    shape, architecture = case
    with torch.device("meta"):
        tensors = AutoModelForCausalLM.from_config(SHAPES[shape]).state_dict()
    tensors.pop("lm_head.weight")  # it is the embedding
    found = {name: to_gguf.name_of(name, architecture) for name in tensors}
    assert len(set(found.values())) == len(tensors)
    assert found["model.embed_tokens.weight"] == "token_embd.weight"
    for name, wanted in NAMES[case].items():
        assert found[f"model.layers.{name}.weight"] == f"blk.{wanted}.weight"

"""What goes with no speculative decoding, and drafts that cannot draft, are refused before weights load."""

import json
import shutil
from types import SimpleNamespace

import pytest
from models import drafts
from models.tiny import TINY, save
from serving.conftest import MODEL

from sglang.srt.model_executor_ms.environment import Environment
from sglang.srt.model_executor_ms.runner.device import AS_ON_NPU, ON_REQUEST, TABLES
from sglang.srt.model_executor_ms.server import framework, speculation
from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag
from sglang.srt.models.llama import LlamaForCausalLM
from sglang.srt.models_ms.aux_layers import aux_layers
from sglang.srt.server_args import ServerArgs

SECONDS = 5
GOOD = dict(
    speculative_algorithm="NGRAM", device="cpu", is_embedding=False, pp_size=1, attn_dp_size=1,
    speculative_eagle_topk=1, speculative_adaptive=False,
    enable_custom_logit_processor=False, return_hidden_states_mode=None,
    speculative_draft_model_path=None, speculative_draft_model_revision=None, trust_remote_code=False,
    enable_lora=None, lora_paths=None, model_path=MODEL, revision=None,
)  # fmt: skip


@pytest.fixture
def check(monkeypatch):
    def check(target=None, experts=False, **changed):
        view = SimpleNamespace(**GOOD | changed)
        monkeypatch.setattr("sglang.srt.arg_groups.overrides.resolving_view", lambda _: view)
        speculation.check_speculation(ServerArgs(model_path=MODEL), target, experts)

    return check


def test_no_speculation_and_n_grams_pass(check, monkeypatch):
    monkeypatch.setattr(shutil, "which", str)
    check()
    check(speculative_algorithm=None, device="npu", pp_size=2)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (dict(device="npu", speculative_eagle_topk=10), "--speculative-ngram-max-bfs-breadth 10 makes trees of drafts"),
        (
            dict(device="npu", speculative_eagle_topk=4, speculative_algorithm="STANDALONE"),
            "trees of drafts, and attention on an NPU verifies chains.*: give --speculative-eagle-topk 1",
        ),
        (dict(device="npu", speculative_adaptive=True), "--speculative-adaptive: SGLang captures graphs of its own"),
        (dict(is_embedding=True), "--is-embedding"),
        (dict(enable_custom_logit_processor=True), "--enable-custom-logit-processor"),
        (
            dict(return_hidden_states_mode="full", speculative_algorithm="STANDALONE"),
            "--enable-return-hidden-states: SGLang keeps none",
        ),
        (dict(pp_size=2), "--pp-size 2"),
        (dict(attn_dp_size=2), "--attn-dp-size 2"),
        (dict(experts=True), "where experts are placed"),
        (dict(speculative_algorithm="STANDALONE"), "--speculative-draft-model-path"),
        (dict(speculative_algorithm="EAGLE"), "--speculative-draft-model-path"),  # the checkpoint carries no draft
    ],
)
def test_what_goes_with_no_speculation_is_named(check, monkeypatch, changed, named):
    monkeypatch.setattr(shutil, "which", str)
    with pytest.raises(UnsupportedFlag, match=named):
        check(**changed)


def test_beside_images_n_grams_draft_and_models_do_not():
    def refused(algorithm):
        return framework._drafts_of_text(SimpleNamespace(speculative_algorithm=algorithm))

    assert refused(None) == refused("NGRAM") == ""
    assert refused("EAGLE") == "--speculative-algorithm EAGLE"


def test_an_npu_and_its_operators_on_a_cpu_take_chains(check, monkeypatch):
    monkeypatch.setattr(shutil, "which", str)
    check(device="npu")
    check(speculative_eagle_topk=10)
    monkeypatch.setenv("SGLANG_MS_OPS", "ascend_reference")
    check()
    with pytest.raises(UnsupportedFlag, match="--speculative-ngram-max-bfs-breadth 10 makes trees"):
        check(speculative_eagle_topk=10)


def test_steps_are_as_on_an_npu_with_the_tables_that_the_runner_prepares_so():
    for table in (None, *TABLES["cpu"], *ON_REQUEST["cpu"]):
        assert Environment(ops_table=table).as_on_npu("cpu") == (table in AS_ON_NPU)
    assert Environment().as_on_npu("npu") and Environment().as_on_npu("npu:1")


def test_a_missing_compiler_is_named(check, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "ninja" else name)
    with pytest.raises(UnsupportedFlag, match="ninja is not on PATH"):
        check()


def draft(tmp_path, variant, **changed):
    folder = save(variant, tmp_path / f"{variant}{len(list(tmp_path.iterdir()))}")  # SGLang remembers what it has read
    config = json.loads((folder / "config.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps(config))
    return dict(speculative_algorithm="STANDALONE", speculative_draft_model_path=str(folder))


def test_a_draft_of_other_tokens_or_of_an_unknown_kind_is_refused(check, tmp_path):
    target = SimpleNamespace(vocab_size=TINY["qwen3"]["vocab_size"], model_path="target")
    check(target, **draft(tmp_path, "qwen3"))
    with pytest.raises(UnsupportedFlag, match="has 77 tokens, and target"):
        check(target, **draft(tmp_path, "qwen3", vocab_size=77))
    with pytest.raises(UnsupportedFlag, match="NoSuchModel"):
        check(target, **draft(tmp_path, "qwen3", architectures=["NoSuchModel"]))


def test_a_draft_whose_layers_keep_a_state_is_refused(check, tmp_path):
    target = SimpleNamespace(vocab_size=TINY["lfm2"]["vocab_size"], model_path="target")
    with pytest.raises(UnsupportedFlag, match="keeps a state of each request"):
        check(target, **draft(tmp_path, "lfm2"))


def test_a_draft_that_sglang_takes_for_a_layer_of_eagle_is_refused(check, tmp_path):
    found = draft(tmp_path, "qwen3_moe")
    target = SimpleNamespace(vocab_size=TINY["qwen3_moe"]["vocab_size"], model_path="target")
    with pytest.raises(UnsupportedFlag, match="Qwen3MoeForCausalLMMTP"):
        check(target, **found)


@pytest.mark.parametrize("layer_ids", [None, [1, 5, 9]])
def test_hidden_states_are_of_the_layers_that_sglang_reads(layer_ids):
    target = SimpleNamespace(pp_group=SimpleNamespace(is_last_rank=True), model=SimpleNamespace())
    target.config = SimpleNamespace(num_hidden_layers=12)
    LlamaForCausalLM.set_eagle3_layers_to_capture(target, layer_ids)
    assert aux_layers(12, layer_ids) == target.model.layers_to_capture
    assert aux_layers(12, [10, 11, 12]) == [10, 11, 12]


def test_a_draft_of_eagle_is_one_that_is_computed_and_as_wide_as_the_target(check, tmp_path):
    folder = drafts.save(tmp_path / "draft", drafts.EAGLE3)
    asked = dict(speculative_algorithm="EAGLE3", speculative_draft_model_path=str(folder))
    sizes = {name: drafts.EAGLE3[name] for name in ("vocab_size", "hidden_size")} | dict(num_hidden_layers=12)
    check(SimpleNamespace(**sizes, model_path="target"), **asked)
    with pytest.raises(UnsupportedFlag, match=r"enters the layers \[2, 3, 3\] of 6"):
        check(SimpleNamespace(**sizes | dict(num_hidden_layers=6), model_path="target"), **asked)
    with pytest.raises(UnsupportedFlag, match="reads 48 values of a token, and target has 64"):
        check(SimpleNamespace(**sizes | dict(hidden_size=64), model_path="target"), **asked)
    with pytest.raises(UnsupportedFlag, match="is Qwen3ForCausalLM; drafts that are computed: "):
        check(
            SimpleNamespace(**sizes, model_path="target"),
            **asked | draft(tmp_path, "qwen3") | dict(speculative_algorithm="EAGLE3"),
        )


@pytest.mark.parametrize(("variant", "layers"), [("glm4_moe", 1), ("glm4_moe", None), ("qwen3_next", None)])
def test_a_draft_may_be_in_the_checkpoint_of_its_target(check, tmp_path, variant, layers):
    changed = {} if layers is None else dict(num_nextn_predict_layers=layers)
    path = draft(tmp_path, variant, **changed)["speculative_draft_model_path"]
    target = SimpleNamespace(**{name: TINY[variant][name] for name in ("vocab_size", "hidden_size")}, model_path=path)
    check(target, speculative_algorithm="EAGLE", model_path=path)


def test_a_checkpoint_that_says_that_it_has_no_layer_behind_its_last_is_refused(check, tmp_path):
    path = draft(tmp_path, "glm4_moe", num_nextn_predict_layers=0)["speculative_draft_model_path"]
    target = SimpleNamespace(vocab_size=131, hidden_size=60, model_path=path)
    with pytest.raises(UnsupportedFlag, match="num_nextn_predict_layers = 0"):
        check(target, speculative_algorithm="EAGLE", model_path=path)

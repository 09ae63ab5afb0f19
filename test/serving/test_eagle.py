"""EAGLE and EAGLE3: drafts that read hidden states change no greedy token, and are accepted as often as computed."""

import json
import time
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
from models import drafts
from models.test_drafts import with_layer_behind
from models.tiny import COMMON, hugging_face, save
from safetensors.torch import load_file, save_file
from serving.conftest import MODEL
from serving.test_speculation import CHAIN, PROMPTS, TREE, assert_best, greedy, ids_of
from tiers import SLOW

SECONDS = 28, 106
CONFIG = json.loads((Path(MODEL) / "config.json").read_text())
SAME = (
    "hidden_size",
    "vocab_size",
    "head_dim",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
SIZES = {name: CONFIG[name] for name in SAME}


def test_a_tree_of_a_random_draft_of_eagle3_changes_no_token(start_engine, reference, tmp_path):
    layers = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 2, 4]}}
    draft = drafts.save(tmp_path / "draft", drafts.EAGLE3 | SIZES | layers | dict(draft_vocab_size=512))
    arguments = dict(speculative_algorithm="EAGLE3", speculative_draft_model_path=str(draft), **TREE)
    engine = start_engine(MODEL, max_total_tokens=2048, **arguments)
    prompts = [reference.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    answers = engine.generate(input_ids=prompts, sampling_params=greedy(24, ignore_eos=False))
    assert ids_of(answers) == [reference.greedy(ids, 24) for ids in prompts]


@torch.no_grad()
def fitted(reference, folder):
    """A draft of EAGLE that is only its `fc`: the least squares of the next hidden state of a text."""
    drafts.save(folder, drafts.EAGLE | SIZES)
    ids = reference.tokenizer((Path(MODEL) / "heldout.txt").read_text())["input_ids"][:1500]
    hidden, table = reference.hidden_states(ids), reference.model.model.embed_tokens.weight
    rows = torch.cat([table[torch.tensor(ids[1:])], hidden[:-1], torch.ones(len(ids) - 1, 1)], -1)
    fc = torch.linalg.lstsq(rows, hidden[1:]).solution
    tensors = load_file(folder / "model.safetensors")
    for name in ("layers.0.self_attn.o_proj.weight", "layers.0.mlp.down_proj.weight"):
        tensors[name] = torch.zeros_like(tensors[name])
    tensors["fc.weight"], tensors["fc.bias"] = fc[:-1].T.contiguous(), fc[-1].contiguous()
    save_file(tensors, folder / "model.safetensors")
    return tensors


@torch.no_grad()
def histogram(reference, fc, ids, answer):
    """How often 0, 1, 2 and 3 drafts are accepted on the way through the target's own answer."""
    whole, table = ids + answer, reference.model.model.embed_tokens.weight
    hidden, found, place = reference.hidden_states(whole), [0] * 4, len(ids)
    while place + 1 < len(whole):
        token, state, count = whole[place], hidden[place - 1], 0
        for wanted in whole[place + 1 : place + 4]:
            state = fc["fc.weight"] @ torch.cat([table[token], state]) + fc["fc.bias"]
            token = int((reference.model.lm_head.weight @ state).argmax())
            if token != wanted:
                break
            count += 1
        found[count] += 1
        place += count + 1
    return found


def test_drafts_of_eagle_are_accepted_as_computed(start_engine, reference, tmp_path):
    fc = fitted(reference, tmp_path / "draft")
    arguments = dict(speculative_algorithm="EAGLE", speculative_draft_model_path=str(tmp_path / "draft"), **CHAIN)
    engine, accepted = start_engine(MODEL, max_total_tokens=2048, page_size=16, **arguments), 0
    for prompt in PROMPTS[:4]:
        ids = reference.tokenizer(prompt)["input_ids"]
        found = engine.generate(input_ids=ids, sampling_params=greedy(64, ignore_eos=False))
        assert found["output_ids"] == reference.greedy(ids, 64)
        counts = found["meta_info"]["spec_correct_drafts_histogram"]
        wanted = histogram(reference, fc, ids, found["output_ids"])
        # The last step may accept tokens beyond the answer.
        assert sum(abs(one - other) for one, other in zip_longest(counts, wanted, fillvalue=0)) <= 2, (counts, wanted)
        accepted += sum(count * times for count, times in enumerate(counts))
    assert accepted > 8


LAYERS = [1, 3, 4]  # behind which a draft of EAGLE3 reads


@torch.no_grad()
def states_of(reference, ids):
    """What a draft of EAGLE3 reads of each token of a text, and the last hidden state."""
    _, *behind = reference.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return torch.cat([behind[layer][0] for layer in LAYERS], -1), behind[-1][0]


@torch.no_grad()
def interpolated(reference, folder, texts):
    """A draft of EAGLE3 that is only its `fc`: of these texts the next hidden state. It has every second token."""
    kept = torch.tensor(sorted({token for ids in texts for token in ids})[::2])
    layers = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": LAYERS}}
    drafts.save(folder, drafts.EAGLE3 | SIZES | layers | dict(draft_vocab_size=len(kept)))
    read, hidden = zip(*(states_of(reference, ids) for ids in texts), strict=True)
    fc = torch.linalg.lstsq(torch.cat([rows[:-1] for rows in read]), torch.cat([rows[1:] for rows in hidden])).solution
    tensors = load_file(folder / "model.safetensors")
    for name in ("midlayer.self_attn.o_proj.weight", "midlayer.mlp.down_proj.weight"):
        tensors[name] = torch.zeros_like(tensors[name])
    tensors |= {"fc.weight": fc.T.contiguous(), "norm.weight": torch.ones_like(tensors["norm.weight"])}
    tensors |= {"lm_head.weight": reference.model.lm_head.weight[kept].clone(), "d2t": kept - torch.arange(len(kept))}
    tensors["t2d"] = torch.zeros(SIZES["vocab_size"], dtype=torch.bool).scatter(0, kept, True)
    save_file(tensors, folder / "model.safetensors")
    return fc, kept


@torch.no_grad()
def test_drafts_of_eagle3_with_a_vocabulary_of_their_own_are_accepted_as_computed(start_engine, reference, tmp_path):
    prompts = [reference.tokenizer(prompt)["input_ids"] for prompt in PROMPTS[:4]]
    texts = [ids + reference.greedy(ids, 48) for ids in prompts]
    fc, kept = interpolated(reference, tmp_path / "draft", texts)
    arguments = dict(speculative_algorithm="EAGLE3", speculative_draft_model_path=str(tmp_path / "draft"), **CHAIN)
    engine, accepted = start_engine(MODEL, max_total_tokens=2048, **arguments), 0
    for ids, whole in zip(prompts, texts, strict=True):
        found = engine.generate(input_ids=ids, sampling_params=greedy(48, ignore_eos=False))
        assert found["output_ids"] == whole[len(ids) :]
        read, _ = states_of(reference, whole)
        tokens = kept[(read @ fc @ reference.model.lm_head.weight[kept].T).argmax(-1)].tolist()
        wanted, place = [0] * 4, len(ids)
        while place + 1 < len(whole):  # the layer adds nothing: each draft is the first one again
            after = [token == tokens[place - 1] for token in whole[place + 1 : place + 4]]
            count = after.index(False) if False in after else len(after)
            wanted[count] += 1
            place += count + 1
        counts = found["meta_info"]["spec_correct_drafts_histogram"]
        assert sum(abs(one - other) for one, other in zip_longest(counts, wanted, fillvalue=0)) <= 2, (counts, wanted)
        accepted += sum(count * times for count, times in enumerate(counts))
    assert accepted > 20


def with_draft(folder, variant):
    """A checkpoint of a variant that carries its draft."""
    mtp = variant.startswith("qwen")
    with_layer_behind(save(variant, folder), hugging_face(variant).config, mtp)
    if not mtp:
        config = json.loads((folder / "config.json").read_text()) | dict(num_nextn_predict_layers=1)
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def random_prompts(*lengths):
    return [[(7 * place + length) % COMMON["vocab_size"] for place in range(length)] for length in lengths]


@SLOW  # test_drafts.py has the layer itself
@pytest.mark.parametrize("variant", ["deepseek_v3", "glm4_moe", "qwen3_moe", "qwen3_next", "qwen3_5"])
def test_the_layer_behind_the_last_changes_no_token(start_engine, tmp_path, variant):
    folder, sizes = with_draft(tmp_path, variant), dict(max_total_tokens=2000, skip_tokenizer_init=True)
    engine = start_engine(folder, speculative_algorithm="NEXTN", **sizes, **CHAIN)
    prompts = random_prompts(21, 3, 40)
    answers = engine.generate(input_ids=prompts, sampling_params=greedy(128))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_best(variant, prompt, answer["output_ids"])
    time.sleep(0.5)  # the scheduler has to see that the batch is over
    assert engine.update_weights_from_disk(str(folder))[0]
    again = engine.generate(input_ids=prompts, sampling_params=greedy(128))
    assert ids_of(again) == ids_of(answers)


@SLOW
def test_a_draft_for_gpt_oss_reads_what_leaves_its_last_layer_too(start_engine, tmp_path):
    folder = save("gpt_oss", tmp_path / "target")
    config = json.loads((folder / "config.json").read_text())
    layers = config["num_hidden_layers"]
    same = {name: config[name] for name in SAME if name in config} | dict(head_dim=16)
    eagle_config = dict(eagle_aux_hidden_state_layer_ids=list(range(layers - 2, layers + 1)), norm_before_fc=True)
    norms = drafts.EAGLE3_NORMS | same | dict(draft_vocab_size=40, eagle_config=eagle_config)
    draft = drafts.save(tmp_path / "draft", norms)
    arguments = dict(speculative_algorithm="EAGLE3", speculative_draft_model_path=str(draft), page_size=4, **CHAIN)
    engine = start_engine(folder, max_total_tokens=2000, skip_tokenizer_init=True, **arguments)
    prompts = random_prompts(21, 3, 40)
    answers = engine.generate(input_ids=prompts, sampling_params=greedy(128))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_best("gpt_oss", prompt, answer["output_ids"])


@SLOW
def test_how_many_tokens_are_drafted_follows_what_is_accepted_and_how_many_requests_run(
    start_engine, reference, tmp_path
):
    fitted(reference, tmp_path / "draft")
    always_more = dict(candidate_steps=[1, 3], up_hysteresis=-9.0, down_hysteresis=-9.0)
    steps = {"warmup_batches": 0, "update_interval": 1, "1": always_more, "2": dict(candidate_steps=[0])}
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    asked = dict(speculative_draft_model_path=str(tmp_path / "draft"), speculative_num_steps=1)
    adaptive = dict(speculative_adaptive=True, speculative_adaptive_config=str(tmp_path / "steps.json"))
    engine = start_engine(MODEL, max_total_tokens=2048, speculative_algorithm="EAGLE", **asked, **adaptive)
    prompts = [reference.tokenizer(prompt)["input_ids"] for prompt in PROMPTS[:3]]
    wanted = [reference.greedy(ids, 128) for ids in prompts]
    answers = engine.generate(input_ids=prompts, sampling_params=greedy(128))
    assert [ids[: len(greedy_ids)] for ids, greedy_ids in zip(ids_of(answers), wanted, strict=True)] == wanted
    assert not any(sum(answer["meta_info"]["spec_correct_drafts_histogram"][1:]) for answer in answers)
    answers = [engine.generate(input_ids=ids, sampling_params=greedy(128)) for ids in prompts]
    assert [ids[: len(greedy_ids)] for ids, greedy_ids in zip(ids_of(answers), wanted, strict=True)] == wanted
    assert sum(sum(answer["meta_info"]["spec_correct_drafts_histogram"][2:]) for answer in answers) > 0


@SLOW
def test_a_tree_of_drafts_is_accepted_as_often_as_a_chain_or_more(start_engine, reference, tmp_path):
    fitted(reference, tmp_path / "draft")
    prompts, steps = [reference.tokenizer(prompt)["input_ids"] for prompt in PROMPTS], []
    for shape in (CHAIN, TREE):
        arguments = dict(speculative_algorithm="EAGLE", speculative_draft_model_path=str(tmp_path / "draft"), **shape)
        engine = start_engine(MODEL, max_total_tokens=2048, **arguments)
        answers = engine.generate(input_ids=prompts, sampling_params=greedy(128, ignore_eos=False))
        assert ids_of(answers) == [reference.greedy(ids, 128) for ids in prompts]
        steps.append(sum(answer["meta_info"]["spec_verify_ct"] for answer in answers))
    assert steps[1] < steps[0], steps

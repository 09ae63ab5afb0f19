"""The kernels of speculative decoding against SGLang's own, and sampled verification against a plain statement."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from sglang.srt.model_executor_ms.npu import draft_chains
from sglang.srt.model_executor_ms.runner import spec_kernels, spec_sampling, spec_trees

SECONDS = 15
ORACLE = Path(__file__).with_name("speculative_oracle.py")
QLEN_ONLY = 1  # of SGLang's TreeMaskMode


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    file = tmp_path_factory.mktemp("oracle") / "found.pt"
    environment = os.environ | {"TRITON_INTERPRET": "1", "TORCHDYNAMO_DISABLE": "1"}
    ended = subprocess.run([sys.executable, ORACLE, file], env=environment, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return torch.load(file)


def assert_equal(found, wanted):
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=f"{name}: {found[name]}, not {value}")


def blank(outputs):
    """Of what a kernel wrote, buffers as SGLang makes them before."""
    filled = {"tree_mask": 1, "retrieve": -1, "accept_index": -1}
    return {name: torch.full_like(value, filled.get(name, 0)) for name, value in outputs.items()}


def built(given, mode, outputs, build=spec_kernels.build_tree):
    topk, steps, n, _ = given["sizes"]
    build(
        given["parents"], given["chosen"], given["lengths"], outputs["tree_mask"], outputs["positions"],
        *outputs["retrieve"], topk, steps, n, mode,
    )  # fmt: skip
    return outputs


def test_trees_are_those_of_sglangs_kernels(oracle):
    assert len(oracle["trees"]) >= 60
    for case in oracle["trees"]:
        assert_equal(built(case["given"], spec_kernels.FULL_MASK, blank(case["tree"])), case["tree"])
        small = blank(case["tree"]) | {"tree_mask": torch.ones_like(case["given"]["masks"])}
        assert_equal(built(case["given"], QLEN_ONLY, small), case["tree"] | {"tree_mask": case["given"]["masks"]})


def test_what_is_accepted_is_what_sglangs_kernel_accepts(oracle):
    accepted = set()
    for case in oracle["trees"]:
        found, given, links = blank(case["verified"]), case["given"], case["tree"]["retrieve"]
        spec_kernels.verify_tree_greedy(*found.values(), given["candidates"], *links, given["targets"])
        assert_equal(found, case["verified"])
        accepted.update(found["accept_token_num"].tolist())
    assert accepted >= {0, 1, 2}


def test_chains_on_an_npu_are_those_of_sglangs_kernels_and_accepted_as_by_them(oracle):
    chains, accepted = [case for case in oracle["trees"] if case["given"]["sizes"][0] == 1], set()
    for case in chains:
        given, wanted = case["given"], case["tree"] | {"tree_mask": case["given"]["masks"]}
        small = blank(case["tree"]) | {"tree_mask": torch.zeros_like(given["masks"])}
        assert_equal(built(given, QLEN_ONLY, small, draft_chains.build_chain), wanted)
        found, links = blank(case["verified"]), case["tree"]["retrieve"]
        draft_chains.verify_chain_greedy(*found.values(), given["candidates"], *links, given["targets"], topk=1)
        assert_equal(found, case["verified"])
        accepted.update(found["accept_token_num"].tolist())
    assert len(chains) >= 8 and accepted >= {0, 1, 2}
    (tree, *_) = [case for case in oracle["trees"] if case["given"]["sizes"][0] == 2]
    with pytest.raises(NotImplementedError, match="topk 2"):
        built(tree["given"], QLEN_ONLY, blank(tree["tree"]), draft_chains.build_chain)
    with pytest.raises(NotImplementedError, match="mask mode 0"):
        built(chains[0]["given"], spec_kernels.FULL_MASK, blank(chains[0]["tree"]), draft_chains.build_chain)


def test_trees_of_masks_are_those_of_sglangs_kernel(oracle):
    for case in oracle["trees"]:
        found, given = blank(case["again"]), case["given"]
        _, _, n, requests = given["sizes"]
        spec_kernels.reconstruct_tree(
            given["masks"], given["lengths"], found["positions"], *found["retrieve"], requests, n
        )
        assert_equal(found, case["again"])


def test_a_step_has_each_token_of_sglangs_trees_behind_its_ancestors(oracle):
    """Places are SGLang's positions, and the token before is one whose child or child's sibling SGLang says it is."""
    for case in oracle["trees"]:
        given, links = case["given"], case["tree"]["retrieve"].numpy()
        _, _, n, requests = given["sizes"]
        sees, lengths = given["masks"].numpy().reshape(requests, n, n), given["lengths"].numpy()
        table = np.zeros((requests, int(lengths.max()) + n), np.int64)
        slots = 100 + np.arange(requests * n).reshape(requests, n)
        of, queries, ends, rows = spec_trees.requests_of_trees(sees, lengths, slots, table)
        parents = np.full((requests, n), -1)
        for request in range(requests):
            for token in range(n):
                child = links[1, request, token]
                while child >= 0:
                    parents[request, child], child = token, links[2, request, child]
        last = np.cumsum(queries) - 1  # of each request, as a token of the step
        np.testing.assert_array_equal(ends - 1, case["tree"]["positions"].numpy()[last])
        for request, token, end, row in zip(of, last % n, ends, rows, strict=True):
            path = [token]
            while parents[request, path[0]] >= 0:
                path.insert(0, parents[request, path[0]])
            assert row[: lengths[request]].tolist() == [0] * lengths[request]
            assert row[lengths[request] : end].tolist() == slots[request, path].tolist()


def test_slots_are_those_of_sglangs_kernels(oracle):
    given, wanted = oracle["slots"]
    found, rows, starts = blank(wanted), given["rows"], given["starts"]
    spec_kernels.draft_cache_locs(rows, given["table"], starts, found["drafted"], 2, 3, positions=found["positions"])
    found["extended"] = spec_kernels.extend_cache_locs(rows, given["table"], starts, starts + 4, 3, 4, "cpu")
    spec_kernels.front_cache_locs(given["counts"], found["extended"], found["front"])
    found["noted"] = given["table"].clone()
    spec_kernels.write_req_to_token(rows, found["noted"], starts, given["ends"], given["fresh"], 3)
    spec_kernels.bonus_tokens(given["tokens"], given["lengths"], found["bonus"], 4, 3)
    spec_kernels.accept_cache_locs(given["index"], found["extended"], found["accepted"], 9)
    assert_equal(found, wanted)


def test_what_a_step_leaves_for_the_next_is_that_of_its_requests():
    buffers = [torch.arange(24).view(6, 4) * factor for factor in (1, 10, 100, 1000)]
    found = spec_kernels.relayed(torch.tensor([4, 0]), *buffers)
    assert [rows[:, 0].tolist() for rows in found] == [[16 * factor, 0] for factor in (1, 10, 100, 1000)]
    assert spec_kernels.relayed(torch.tensor([4, 0]), *buffers[:3], None)[3] is None


# ---- sampled verification ----

# A root with children 1 and 2, of which the first has the child 3; and a chain. Drafted tokens of each.
TREES = {
    "tree": (torch.tensor([[1, 3, -1, -1]]), torch.tensor([[-1, 2, -1, -1]]), torch.tensor([[0, 4, 1, 2]])),
    "chain": (torch.tensor([[1, 2, 3, -1]]), torch.full((1, 4), -1), torch.tensor([[0, 4, 1, 2]])),
}
DRAWS = 8_000


def distributions(seed, peak):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.dirichlet(np.full(6, peak), (1, 4)).astype(np.float32))


def verified(tree, probs, coins, final, **thresholds):
    children, siblings, tokens = TREES[tree]
    predicts, path = torch.zeros(4, dtype=torch.int32), torch.full((1, 4), -1, dtype=torch.int32)
    count = torch.zeros(1, dtype=torch.int32)
    spec_kernels.verify_tree_sampling(
        predicts=predicts, accept_index=path, accept_token_num=count, candidates=tokens,
        retrive_index=torch.arange(4)[None], retrive_next_token=children, retrive_next_sibling=siblings,
        uniform_samples=coins, uniform_samples_for_final_sampling=final, target_probs=probs,
        draft_probs=torch.zeros_like(probs), **thresholds,
    )  # fmt: skip
    nodes = path[0, : int(count) + 1].tolist()
    return [int(predicts[node]) for node in nodes], nodes


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize(("seed", "peak"), [(0, 1.0), (1, 0.3), (2, 5.0)])
def test_the_first_token_is_distributed_as_without_drafts(tree, seed, peak):
    probs, generator = distributions(seed, peak), torch.Generator().manual_seed(seed)
    coins, final = torch.rand(DRAWS, 1, 4, generator=generator), torch.rand(DRAWS, 1, generator=generator)
    first = np.bincount([verified(tree, probs, *pair)[0][0] for pair in zip(coins, final, strict=True)], minlength=6)
    wanted = probs[0, 0].double().numpy()
    assert stats.chisquare(first, wanted / wanted.sum() * DRAWS).pvalue > 0.01


def test_coins_decide_what_is_accepted_and_drawn():
    probs = torch.tensor([[[0.1, 0.2, 0.3, 0.0, 0.4, 0.0], [0.5, 0.0, 0.25, 0.25, 0, 0], [1.0, 0, 0, 0, 0, 0]]])
    probs = torch.cat([probs, probs[:, :1]], 1)
    coins = torch.tensor([[0.39, 0.24, 0.9, 0.9]])
    # The root's first child, token 4, has 0.4 > 0.39; its child, token 2, 0.25 > 0.24; then nothing is left to verify.
    assert verified("tree", probs, coins, torch.tensor([0.35])) == ([4, 2, 2], [0, 1, 3])
    # 0.4 < 0.41 refuses it, and 0.4 + 0.2 accepts its sibling, token 1, which has no child.
    coins[0, 0] = 0.41
    assert verified("tree", probs, coins, torch.tensor([0.5])) == ([1, 0], [0, 2])
    # Both are refused: what is left of 0.1, 0.3 and nothing for the drafted ones; 0.3 of 0.4 is token 2.
    coins[0, 0] = 0.61
    assert verified("tree", probs, coins, torch.tensor([0.3])) == ([2], [0])
    assert verified("tree", probs, coins, torch.tensor([0.2])) == ([0], [0])
    # Thresholds let them in.
    assert verified("tree", probs, coins, torch.tensor([0.2]), threshold_single=0.4)[1][1] == 1
    assert verified("tree", probs, coins, torch.tensor([0.2]), threshold_acc=0.6)[1][1] == 1


def softmaxed(scale, size=5000):
    values = np.random.default_rng(7).standard_normal((3, size)).astype(np.float32) * scale
    return torch.from_numpy(values).softmax(-1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 6.0])
def test_the_largest_probabilities_are_kept_as_by_a_sort(scale):
    probs = softmaxed(scale)
    ordered, places = probs.sort(-1, descending=True)
    for k in (1, 2, 40, 4999, 5000, 1 << 30):
        found = spec_sampling.top_k_renorm(probs, torch.full((3,), k))
        wanted = torch.zeros_like(probs).scatter(1, places[:, :k], ordered[:, :k])
        torch.testing.assert_close(found, wanted / wanted.sum(-1, keepdim=True))
        assert (found > 0).sum(-1).tolist() == [min(k, 5000)] * 3
    for p in (0.05, 0.5, 0.95, 0.999, 1.0):
        found = spec_sampling.top_p_renorm(probs, torch.full((3,), p))
        before = ordered.double().cumsum(-1) - ordered
        wanted = torch.zeros_like(probs).scatter(1, places, torch.where(before < p, ordered, 0))
        torch.testing.assert_close(found, wanted / wanted.sum(-1, keepdim=True))


def test_equal_probabilities_are_kept_together_and_one_is_the_first():
    probs = torch.tensor([[0.2, 0.3, 0.3, 0.2]])
    assert spec_sampling.top_k_renorm(probs, torch.tensor([1])).tolist() == [[0, 1, 0, 0]]
    assert spec_sampling.top_k_renorm(probs, torch.tensor([3])).gt(0).tolist() == [[True] * 4]
    assert spec_sampling.top_p_renorm(probs, torch.tensor([0.4])).tolist() == [[0, 0.5, 0.5, 0]]


def test_a_coin_beyond_what_rounding_left_draws_a_possible_token():
    assert spec_sampling.draw(np.float32([0, 1, 0]), [], np.nextafter(1, 0)) == 1
    assert spec_sampling.draw(np.float32([0.5, 0.5, 0]), [0], 0.0) == 1


def sampled(verify, probs, tokens, coins, final, **thresholds):
    requests, n = tokens.shape
    found = torch.zeros(requests * n, dtype=torch.int32), torch.full((requests, n), -1, dtype=torch.int32)
    found += (torch.full((requests,), 9, dtype=torch.int32),)
    links = torch.arange(requests * n).view(requests, n), torch.arange(1, n + 1).repeat(requests, 1)
    links[1][:, -1] = -1
    names = ("predicts", "accept_index", "accept_token_num", "retrive_index", "retrive_next_token")
    verify(
        **dict(zip(names, (*found, *links), strict=True)), candidates=tokens, uniform_samples=coins,
        retrive_next_sibling=torch.full((requests, n), -1), uniform_samples_for_final_sampling=final,
        target_probs=probs, draft_probs=torch.zeros_like(probs), **thresholds,
    )  # fmt: skip
    return found


@pytest.mark.parametrize("thresholds", [{}, dict(threshold_single=0.4), dict(threshold_acc=0.5)], ids=str)
def test_the_same_coins_accept_and_draw_the_same_of_chains_on_an_npu(thresholds):
    generator = np.random.default_rng(3)
    for n in (1, 2, 4):
        weights = generator.dirichlet(np.full(6, 0.5), (400, n)) * (generator.random((400, n, 6)) < 0.8)
        weights[..., 0] += 1e-3  # some tokens are impossible, and one is not
        probs = torch.from_numpy(weights / weights.sum(-1, keepdims=True)).float()
        tokens = torch.from_numpy(generator.integers(0, 6, (400, n)))
        coins, final = (torch.from_numpy(generator.random(size)).float() for size in ((400, n), 400))
        wanted = sampled(spec_kernels.verify_tree_sampling, probs, tokens, coins, final, **thresholds)
        found = sampled(draft_chains.verify_chain_sampling, probs, tokens, coins, final, **thresholds)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert set(found[2].tolist()) == set(range(n))


def test_no_more_is_accepted_than_there_is_room_for():
    """A tree may be deeper than the steps of which drafts are accepted."""
    links = torch.arange(4)[None], torch.tensor([[1, 2, 3, -1]]), torch.full((1, 4), -1)
    tokens, predicts = torch.tensor([[9, 1, 2, 3]]), torch.zeros(4, dtype=torch.int32)
    path, count = torch.full((1, 2), -1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    spec_kernels.verify_tree_greedy(predicts, path, count, tokens, *links, torch.tensor([[1, 2, 3, 4]]))
    assert path.tolist() == [[0, 1]] and count.tolist() == [1] and predicts.tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("verify", [spec_kernels.verify_tree_sampling, draft_chains.verify_chain_sampling])
def test_an_impossible_draft_is_never_accepted(verify):
    probs, never = torch.tensor([[[0.5, 0.5, 0.0]] * 2]), torch.zeros(1, 2)
    tokens, final = torch.tensor([[0, 2]]), torch.tensor([0.9])
    predicts, path, count = sampled(verify, probs, tokens, never, final, threshold_single=0.0)
    assert predicts.tolist() == [1, 0] and path.tolist() == [[0, -1]] and count.tolist() == [0]


def test_the_same_probabilities_are_kept_on_an_npu():
    for scale in (0.1, 6.0):
        probs = softmaxed(scale)
        for k in (1, 2, 40, 5000, 1 << 30):
            given = probs, torch.full((3,), k, dtype=torch.int32)
            torch.testing.assert_close(draft_chains.top_k_renorm(*given), spec_sampling.top_k_renorm(*given))
        for p in (0.05, 0.5, 0.95, 1.0):
            given = probs, torch.full((3,), p)
            torch.testing.assert_close(draft_chains.top_p_renorm(*given), spec_sampling.top_p_renorm(*given))
    probs = torch.tensor([[0.2, 0.3, 0.3, 0.2]]).repeat(2, 1)
    assert draft_chains.top_k_renorm(probs, torch.tensor([1, 2])).gt(0).int().tolist() == [[0, 1, 0, 0], [0, 1, 1, 0]]


def test_a_coin_beyond_what_rounding_left_draws_a_possible_token_on_an_npu():
    most = torch.tensor([np.nextafter(np.float32(1), np.float32(0))] * 3)
    weights = torch.tensor([[0, 1, 0], [0.3, 0.3, 0.3], [0, 0, 0]])
    assert draft_chains._drawn(weights.float(), most).tolist() == [1, 2, 2]
    sums = torch.linspace(1e-3, 4, 100_001)[:, None]
    assert not draft_chains._drawn(torch.cat([sums, torch.zeros_like(sums)], 1), most[:1].expand(len(sums))).any()


def test_nothing_of_a_chain_is_read_from_a_device_or_made_beside_it():
    """torch's device `meta` has shapes alone: it has no values to read, and takes no tensor of the host."""

    def on_meta(*shape, dtype=torch.int64):
        return torch.empty(shape, dtype=dtype, device="meta")

    b, n, v = 3, 4, 50
    rows, table, lengths = on_meta(b), on_meta(6, 40, dtype=torch.int32), on_meta(b)
    spec_kernels.draft_cache_locs(rows, table, lengths, on_meta(b * n), 1, n, positions=on_meta(b), mrope=on_meta(3, b))
    assert spec_kernels.extend_cache_locs(rows, table, lengths, lengths + n, b, n, "meta").shape == (b * n,)
    spec_kernels.write_req_to_token(rows, table, lengths, lengths, on_meta(b * n, dtype=torch.int32), b)
    spec_kernels.bonus_tokens(on_meta(b, n), on_meta(b, dtype=torch.int32), on_meta(b, dtype=torch.int32), n, b)
    hidden = on_meta(9, 16, dtype=torch.float16)
    assert spec_kernels.relayed(rows, on_meta(9, 1), on_meta(9, 1), on_meta(9), hidden)[3].shape == (b, 16)
    links, mask = [on_meta(b, n) for _ in range(3)], on_meta(b * n * n, dtype=torch.bool)
    draft_chains.build_chain(
        on_meta(b, n), on_meta(b, n - 1), lengths, mask, on_meta(b * n), *links, 1, 3, n, QLEN_ONLY
    )
    outputs = [on_meta(*shape, dtype=torch.int32) for shape in ((b * n,), (b, n), (b,))]
    draft_chains.verify_chain_greedy(*outputs, on_meta(b, n), *links, on_meta(b, n), topk=1)
    probs, coins = on_meta(b, n, v, dtype=torch.float32), on_meta(b, n, dtype=torch.float32)
    draft_chains.verify_chain_sampling(
        predicts=outputs[0], accept_index=outputs[1], accept_token_num=outputs[2], candidates=on_meta(b, n),
        retrive_index=links[0], retrive_next_token=links[1], retrive_next_sibling=links[2], uniform_samples=coins,
        uniform_samples_for_final_sampling=coins[:, 0], target_probs=probs, draft_probs=probs,
    )  # fmt: skip
    for renorm in (draft_chains.top_k_renorm, draft_chains.top_p_renorm):
        assert renorm(probs.view(b * n, v), on_meta(b * n)).shape == (b * n, v)


def request(length, prompt, unpadded=None):
    """A request, and how many of its tokens have been computed."""
    return length, SimpleNamespace(origin_input_ids=prompt, origin_input_ids_unpadded=unpadded or prompt)


def n_gram_batch(*requests):
    lengths, reqs = zip(*requests, strict=True)
    return SimpleNamespace(reqs=list(reqs), seq_lens_cpu=torch.tensor(lengths))


def test_prompts_are_put_whole_and_once_before_drafts_are_looked_up():
    put, looked_up = [], ("tokens", "masks")
    corpus = SimpleNamespace(batch_put=put.append)
    worker = SimpleNamespace(draft_token_num=5, topk=10, ngram_corpus=corpus)

    def put_for(*requests) -> list:
        put.clear()
        before = []

        def look_up(*_):
            before.extend(put)
            return looked_up

        assert spec_kernels.drafted_by_n_grams(look_up, worker, n_gram_batch(*requests)) == looked_up
        assert put == before
        return put

    prompt, image = list(range(10, 38)), [5, 7, 6]
    assert put_for(request(28, prompt), request(29, prompt), request(2, [5, 6])) == [[prompt, [5, 6]]]
    assert put_for(request(9, [5, *[1 << 40] * 7, 6], unpadded=image)) == [[image]]
    assert put_for(request(29, prompt)) == []


def test_of_a_tree_of_n_grams_the_longest_path_is_the_chain_where_the_breadth_is_1():
    #      0 -> 1 -> 3 -> 4, 0 -> 2, and padding below the root
    parents = [[-1, 0, 0, 1, 3], [-1, 0, 0, 0, 0]]
    masks = np.stack([spec_kernels._ancestors(one) for one in parents])
    tokens = np.array([[9, 5, 6, 7, 8], [3, 4, 0, 0, 0]])
    given = (tokens.reshape(-1), masks.reshape(-1))
    batch = n_gram_batch(request(9, list(range(8))), request(4, [2, 1]))
    worker = SimpleNamespace(draft_token_num=5, topk=1)
    found, causal = spec_kernels.drafted_by_n_grams(lambda *_: given, worker, batch)
    assert found.tolist() == [9, 5, 7, 8, 0, 3, 4, 0, 0, 0]
    assert (causal.reshape(2, 5, 5) == np.tri(5, dtype=bool)).all()
    worker.topk = 10
    assert spec_kernels.drafted_by_n_grams(lambda *_: given, worker, batch) == given

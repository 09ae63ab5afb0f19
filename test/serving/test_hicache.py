"""--enable-hierarchical-cache on a CPU: prefixes come back from memory and from files, and answers stay the same."""

import json
import random

import pytest
import torch
from models.tiny import save
from safetensors.torch import load_file, save_file
from tiers import SLOW

from sglang.srt.model_executor_ms.environment import compile_without_a_wrapper
from sglang.srt.model_executor_ms.runner import device, host_pools

SECONDS = 12, 150
ORDER = (0, 1, 2, 3, 0, 4, 1)  # the pool holds three of them
CACHE = dict(enable_hierarchical_cache=True, hicache_ratio=4.0)
STORED = dict(
    hicache_storage_backend="file",
    hicache_storage_prefetch_policy="wait_complete",
    hicache_storage_backend_extra_config=json.dumps({"prefetch_threshold": 4}),
)
KINDS = [("qwen3", "layer_first"), ("qwen3", "page_first"), ("gemma2", "layer_first"), ("deepseek_v2", "page_first")]
KINDS += [("gemma2", "page_first"), ("deepseek_v2", "layer_first")]


def prompts() -> list:
    chosen = random.Random(0)
    return [[chosen.randrange(5, 95) for _ in range(100)] for _ in range(5)]


def asked(engine) -> tuple[list, list]:
    """-> ids and logprobs of each answer, and where its prefix came from."""
    answers, places = [], []
    for place in ORDER:
        greedy = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
        meta = engine.generate(input_ids=prompts()[place], sampling_params=greedy, return_logprob=True)["meta_info"]
        answers.append([(token, logprob) for logprob, token, _ in meta["output_token_logprobs"]])
        places.append(meta.get("cached_tokens_details") or {})
    return answers, places


def started(start_engine, folder, **more):
    sizes = dict(max_total_tokens=352, page_size=4, chunked_prefill_size=64)
    return start_engine(folder, dtype="float32", skip_tokenizer_init=True, **sizes | more)


def assert_same(found, wanted):
    """But for the last bits: attention of the few tokens behind a prefix adds up in another order than that of many."""
    for answer, other in zip(found, wanted, strict=True):
        assert [token for token, _ in answer] == [token for token, _ in other]
        assert max(abs(one - two) for (_, one), (_, two) in zip(answer, other, strict=True)) <= 1e-5


@SLOW
@pytest.mark.parametrize("variant, layout", KINDS)
def test_prefixes_come_back_from_memory_of_the_host(start_engine, tmp_path, variant, layout):
    folder = save(variant, tmp_path)
    wanted, _ = asked(started(start_engine, folder))
    found, places = asked(started(start_engine, folder, hicache_mem_layout=layout, **CACHE))
    assert_same(found, wanted)
    assert [place.get("host", 0) >= 90 for place in places] == [False] * 4 + [True, False, True], places


@SLOW
@pytest.mark.parametrize(
    "variant, strategy",
    [("lfm2", "no_buffer"), ("qwen3_5", "no_buffer"), ("qwen3_5", "extra_buffer"), ("granitemoehybrid", "no_buffer")],
)
def test_states_come_back_with_pages(start_engine, tmp_path, variant, strategy):
    """A prefix ends where a state was kept: behind a prompt, or within it."""
    folder = save(variant, tmp_path)
    states = dict(max_mamba_cache_size=12, max_running_requests=2, mamba_radix_cache_strategy=strategy)
    states |= dict(max_total_tokens=360, page_size=1 if strategy == "no_buffer" else 4)
    wanted, _ = asked(started(start_engine, folder, **states))
    found, places = asked(started(start_engine, folder, **states, **CACHE))
    assert_same(found, wanted)
    assert any(place.get("host", 0) >= 60 for place in places), places


@SLOW
def test_prefixes_come_back_to_both_ranks(start_engine, tmp_path, monkeypatch):
    """From memory and from files: each rank has pages of its own heads."""
    monkeypatch.setenv("SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR", str(tmp_path / "store"))
    folder = save("qwen3", tmp_path)
    wanted, _ = asked(started(start_engine, folder, tp_size=2))
    found, places = asked(started(start_engine, folder, tp_size=2, **CACHE, **STORED))
    assert places[4].get("host", 0) >= 90, places
    again, places = asked(started(start_engine, folder, tp_size=2, **CACHE, **STORED))
    assert places[0].get("storage", 0) >= 90, places
    assert_same(found, wanted)
    assert_same(again, wanted)


@SLOW
def test_bytes_of_a_float8_cache_come_back(start_engine, tmp_path, monkeypatch):
    monkeypatch.setenv("SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR", str(tmp_path / "store"))
    folder, float8 = save("qwen3", tmp_path), dict(kv_cache_dtype="fp8_e4m3")
    wanted, _ = asked(started(start_engine, folder, **float8))
    first, places = asked(started(start_engine, folder, **float8, **CACHE, **STORED))
    assert places[4].get("host", 0) >= 90, places
    second, again = asked(started(start_engine, folder, **float8, **CACHE, **STORED))
    assert again[0].get("storage", 0) >= 90, again
    assert_same(first, wanted)
    assert_same(second, first)
    plain, places = asked(started(start_engine, folder, **CACHE, **STORED))
    assert places[0].get("storage", 0) == 0 and plain != wanted


@SLOW
def test_pages_of_the_host_go_with_the_weights_that_they_are_of(start_engine, tmp_path):
    """Without a storage new weights are taken, and nothing that the old ones computed comes back."""
    folder, other = save("qwen3", tmp_path / "a"), save("qwen3", tmp_path / "b")
    tensors = load_file(other / "model.safetensors")
    save_file({name: tensor.flip(0) for name, tensor in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    wanted, _ = asked(started(start_engine, other, **CACHE))
    engine = started(start_engine, folder, **CACHE)
    before, _ = asked(engine)
    assert engine.update_weights_from_disk(str(other))[0]
    found, places = asked(engine)
    assert before != wanted
    assert_same(found, wanted)
    assert places[0].get("host", 0) == 0, places


def test_prefixes_come_back_from_files_of_a_server_before(start_engine, tmp_path, monkeypatch):
    """In the first request too; not where pages are of another dtype, nor where weights would change under them."""
    monkeypatch.setenv("SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR", str(tmp_path / "store"))
    folder = save("qwen3", tmp_path)
    first, _ = asked(started(start_engine, folder, **CACHE, **STORED))
    engine = started(start_engine, folder, **CACHE, **STORED)
    second, places = asked(engine)
    assert_same(second, first)
    assert places[0].get("storage", 0) >= 90, places
    refused = engine.update_weights_from_disk(str(folder))
    assert not refused[0] and "stored pages are of the weights" in refused[1]
    names = [file.name for file in (tmp_path / "store").iterdir()]
    assert names and all("mindspore-float32-page_first_direct-4" in name for name in names)


@pytest.mark.parametrize(
    "given, left",
    [
        ("ccache g++", "g++"),
        ("/usr/bin/sccache clang++ -m64", "clang++ -m64"),
        ("g++ -m64", "g++ -m64"),
        ("ccache",) * 2,
    ],
)
def test_the_extension_is_built_without_a_wrapper_of_the_compiler(given, left):
    variables = {"CXX": given}
    compile_without_a_wrapper(variables)
    assert variables == {"CXX": left}


@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("kinds", [1, 2])  # of caches: one of MLA, or keys and values
def test_pages_are_copied_where_they_belong(page_size, kinds):
    """As torch's indices do it."""
    device.start("cpu", "cpu")
    layers, slots, chosen = 3, 6 * page_size, torch.tensor([4, 1, 3])
    device_layers = [torch.randn(slots, 2, 5) for _ in range(layers * kinds)]
    pages = [torch.zeros(9, layers, page_size, 2, 5) for _ in range(kinds)]
    tokens = (chosen[:, None] * page_size + torch.arange(page_size)).flatten()
    kept = torch.tensor([7, 0, 8])
    places = (kept[:, None] * page_size + torch.arange(page_size)).flatten()
    host_pools.transfer_kv_all_layer_direct_lf_pf(device_layers, pages, tokens, places, page_size)
    for kind in range(kinds):
        for layer in range(layers):
            wanted = torch.zeros(9, page_size, 2, 5)
            wanted[kept] = device_layers[kind * layers + layer].unflatten(0, (-1, page_size))[chosen]
            assert torch.equal(pages[kind][:, layer], wanted)
    back = [torch.zeros(slots, 2, 5) for _ in range(kinds)]
    host_pools.transfer_kv_per_layer_direct_pf_lf(pages, back, places, tokens, 1, page_size)
    for kind, layer in enumerate(back):
        assert torch.equal(layer[tokens], device_layers[kind * layers + 1][tokens])
        assert layer.count_nonzero() == len(tokens) * 10
    straight = [torch.zeros(9 * page_size, 2, 5) for _ in device_layers]
    host_pools.transfer_kv_direct(device_layers, straight, tokens, places, page_size)
    assert all(torch.equal(to[places], origin[tokens]) for to, origin in zip(straight, device_layers, strict=True))
    with pytest.raises(ValueError, match="no whole number of pages|are not those"):
        host_pools.transfer_kv_direct(device_layers, [one[:, :1] for one in straight], tokens[:-1], places, page_size)

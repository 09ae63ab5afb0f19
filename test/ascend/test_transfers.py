"""Keys and values of a prefill server's pool reach a decode server by SGLang's way for NPUs, and decode goes on.

The transfer engine is a double. Nothing of this has run on a card.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models.harness import Requests, assert_logits_close
from models.test_logits import LIMITS
from models.tiny import reference_logits, save

from sglang.srt.disaggregation.ascend import conn, transfer_engine
from sglang.srt.disaggregation.base.conn import KVArgs
from sglang.srt.disaggregation.mooncake import conn as mooncake
from sglang.srt.disaggregation.utils import (
    DisaggregationMode,
    MetadataBuffers,
    get_kv_transfer_buf_infos,
)
from sglang.srt.mem_cache.common import kv_to_page_indices
from sglang.srt.model_executor_ms.seams import transfers

from .memfabric import Fabric
from .model import PAGE, NpuModel

SECONDS = 2
TOKENS, MORE = 40, 6


@pytest.fixture
def fabric(monkeypatch):
    made = Fabric()
    monkeypatch.setattr(transfer_engine, "TransferEngine", made.engine_class(), raising=False)
    monkeypatch.setattr(transfer_engine, "import_error", None)
    monkeypatch.setattr(mooncake, "get_memory", lambda: SimpleNamespace(enable_unified_memory=False))
    monkeypatch.setenv("ASCEND_MF_STORE_URL", "tcp://127.0.0.1:9000")
    monkeypatch.setenv("SGLANG_HOST_IP", "127.0.0.1")
    monkeypatch.delenv("ASCEND_MF_TRANSFER_PROTOCOL", raising=False)
    return made


def manager(pool, mode):
    """SGLang's for a pool, as far as it is about memory: without the sockets by which servers agree."""
    made = object.__new__(conn.AscendKVManager)
    made.kv_args = args = KVArgs()
    args.kv_data_ptrs, args.kv_data_lens, args.kv_item_lens = get_kv_transfer_buf_infos(pool)
    made.metadata = MetadataBuffers(4, 8, torch.float16, 0)  # held: its memory is registered
    args.aux_data_ptrs, args.aux_data_lens, args.aux_item_lens = made.metadata.get_buf_infos()
    args.state_data_ptrs = args.state_data_lens = []
    args.gpu_id, args.page_size = 0, pool.page_size
    made.disaggregation_mode, made.pp_size, made.is_hybrid_mla_backend = mode, 1, False
    made.enable_custom_mem_pool = False
    made.init_engine()
    made.register_buffer_to_engine()
    return made


@pytest.fixture
def pair(checked, fabric, tmp_path):
    """Function of a variant -> the requests of a prefill and of a decode server, and their managers."""

    def make(variant):
        folder = save(variant, tmp_path, "float16")
        sides = [Requests(NpuModel(folder, "float16"), PAGE) for _ in range(2)]
        modes = (DisaggregationMode.PREFILL, DisaggregationMode.DECODE)
        return sides, [manager(side.model.pool, mode) for side, mode in zip(sides, modes, strict=True)]

    return make


def pages(side, count=TOKENS):
    return kv_to_page_indices(torch.tensor(side.slots["one"][:count]), PAGE).astype(np.int32)


def decoded(pair, variant, sent=slice(None)):
    """The logits of tokens behind a prompt, which the decode server has never computed; and those of transformers."""
    (prefill, decode), (sender, receiver) = pair(variant)
    ids = np.random.default_rng(5).integers(5, 99, TOKENS + MORE)
    prefill.step({"one": ids[:TOKENS]})
    decode._grow("another", 3 * PAGE + 1)  # so that pages have other places
    decode._grow("one", TOKENS)
    origin, target = pages(prefill)[sent], pages(decode)[sent]
    assert set(origin) != set(target)
    arguments = (receiver.engine.session_id, origin, receiver.kv_args.kv_data_ptrs, target, None)
    assert sender.send_kvcache(*arguments) == 0
    assert sender.engine.engine.written == len(origin) * sum(sender.kv_args.kv_item_lens)
    found = np.concatenate([decode.step({"one": [token]})["one"] for token in ids[TOKENS:]])
    return {"one": found}, {"one": reference_logits(variant, ids, "float16")[TOKENS:]}


@pytest.mark.parametrize("variant", ["qwen3@16", "qwen3-window@16", "deepseek_v2@32"])
def test_decode_goes_on_from_pages_of_another_server(pair, variant):
    assert_logits_close(*decoded(pair, variant), LIMITS["float16"])


def test_a_page_that_was_not_sent_is_missed(pair):
    with pytest.raises(pytest.fail.Exception, match="relative error"):
        assert_logits_close(*decoded(pair, "qwen3@16", slice(1, None)), LIMITS["float16"])


def test_memory_that_nobody_registered_and_peers_that_nobody_knows_are_refused(pair):
    (prefill, decode), (sender, receiver) = pair("qwen3@16")
    prefill._grow("one", PAGE)
    decode._grow("one", PAGE)
    known, there = receiver.engine.session_id, receiver.kv_args.kv_data_ptrs
    beyond = np.array([10**6], np.int32)
    assert sender.send_kvcache(known, pages(prefill, PAGE), there, beyond, None) < 0
    assert sender.send_kvcache(known, beyond, there, pages(decode, PAGE), None) < 0
    assert sender.send_kvcache("127.0.0.1:1", pages(prefill, PAGE), there, pages(decode, PAGE), None) < 0
    assert sender.engine.engine.written == 0
    assert sender.send_kvcache(known, pages(prefill, PAGE), there, pages(decode, PAGE), None) == 0


def test_a_pool_whose_caches_mindspore_has_is_refused_at_the_start(fabric, chip_310p, tmp_path):
    model = NpuModel(save("qwen3@16", tmp_path, "float16"), "float16")
    with pytest.raises(NotImplementedError, match="get_contiguous_buf_infos: MindSpore has caches of this pool"):
        manager(model.pool, DisaggregationMode.DECODE)


def test_without_a_store_an_engine_does_not_start(checked, fabric, monkeypatch):
    monkeypatch.delenv("ASCEND_MF_STORE_URL")
    with pytest.raises(RuntimeError, match="null not valid"):
        transfer_engine.AscendTransferEngine("127.0.0.1", 0, DisaggregationMode.PREFILL)


def test_places_are_sent_as_arrays(monkeypatch):
    """Otherwise SGLang waits for an event on a stream of its own, which MindSpore's does not know."""
    monkeypatch.setattr(mooncake.MooncakeKVSender, "supports_host_tensor_indices", True)
    transfers.send_places_as_arrays()
    assert conn.AscendKVSender.supports_host_tensor_indices is False

"""A 310P's caches: in NZ where a kernel of attention reads them, in SGLang's layout where rounds do; one of each."""

from types import SimpleNamespace
from unittest import mock

import mindspore as ms
import numpy as np
import pytest
import torch
from models.harness import SLOTS, Requests, assert_logits_close
from models.test_logits import LIMITS, WAYS, mixed_batch, prompts
from models.tiny import reference_logits, save

from sglang.srt import runtime_context
from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import FullAttentionSpec, cache_specs
from sglang.srt.layers_ms.ops.ascend import attention as operators
from sglang.srt.layers_ms.ops.ascend import gathered, host, kernels
from sglang.srt.layers_ms.ops.ascend_reference import attention, dense
from sglang.srt.layers_ms.ops.ascend_reference.memory import ContractError, stored
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.model_executor_ms.npu import allocation, mindspore_device, start
from sglang.srt.model_executor_ms.npu.memory import GB, memory_cap
from sglang.srt.model_executor_ms.runner import device_layout_cache, eplb
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches

from .inference import lacking, like, step_of, tensors_of
from .model import PAGE, NpuModel

SECONDS = 5
F16, I32 = ms.float16, ms.int32


def compare(found, variant, ids):
    wanted = {request: reference_logits(variant, ids[request], "float16") for request in found}
    assert_logits_close(found, wanted, LIMITS["float16"])


@pytest.mark.parametrize("way", WAYS)
def test_logits_equal_hugging_face_however_a_prompt_is_served(chip_310p, tmp_path, way):
    ids = prompts()
    model = NpuModel(save("qwen3@16", tmp_path, "float16"), "float16")
    compare(WAYS[way](Requests(model, PAGE), ids), "qwen3@16", ids)


@pytest.mark.parametrize("page_size", [32, 64, 128])
@pytest.mark.parametrize("variant", ["llama-mqa@16", "llama-mha@32"])  # rows of one tile and of twelve
def test_rows_and_pages_of_other_sizes(chip_310p, tmp_path, variant, page_size):
    ids = prompts()
    model = NpuModel(save(variant, tmp_path, "float16"), "float16", page_size)
    compare(WAYS["chunks"](Requests(model, page_size), ids), variant, ids)


def test_layers_in_rounds_and_others_side_by_side(chip_310p, tmp_path, calls):
    """Of a model whose layers have windows in part, for which a 310P has blockwise attention."""
    ids, variant = prompts(), "qwen3-window@16"
    model = NpuModel(save(variant, tmp_path, "float16"), "float16")
    compare(mixed_batch(Requests(model, PAGE), ids), variant, ids)
    rounds = [spec.blockwise for spec in cache_specs(model.network).values()]
    assert {True, False} == set(rounds) and [buffer.is_meta for buffer in model.pool.k_buffer] == [
        not x for x in rounds
    ]
    axes = [len(cache.shape) for cache in (*model.caches.k_caches, *model.caches.v_caches)]
    assert axes == [4 if one else 3 for one in rounds] * 2
    used = [name for name, _ in calls]
    assert used.count("put") * rounds.count(False) == 2 * used.count("reshape_and_cache") * rounds.count(True) > 0


def test_the_memory_of_a_page_is_tiles_of_sixteen_values(chip_310p, tmp_path, calls):
    model = NpuModel(save("llama@32", tmp_path, "float16"), "float16")
    requests = Requests(model, PAGE)
    requests.step({"one": np.arange(40) % 131})
    key, value, k_cache, v_cache, slots = next(made for name, made in calls if name == "reshape_and_cache")
    blocks, width = SLOTS // PAGE, key.shape[1]
    for rows, cache in ((key, k_cache), (value, v_cache)):
        memory = stored(cache).reshape(-1)
        for token in (0, 17, 39):
            block, place = divmod(int(slots.asnumpy()[token]), PAGE)
            tiles = [((block * width // 16 + tile) * PAGE + place) * 16 for tile in range(width // 16)]
            found = np.concatenate([memory[start : start + 16] for start in tiles])
            np.testing.assert_array_equal(found, rows.asnumpy()[token])
        assert cache.shape == (blocks, PAGE, width)


def test_there_is_one_cache_as_large_as_sglang_counts(chip_310p, tmp_path, calls):
    model = NpuModel(save("qwen3@16", tmp_path, "float16"), "float16")
    made = [arguments[0] for name, arguments in calls if name == "format_cast" and arguments[0].ndim == 3]
    assert len(made) == 2 * model.config.num_hidden_layers
    assert sum(cache.nbytes for cache in made) == sum(model.pool.get_kv_size_bytes())
    assert all(buffer.is_meta for buffer in (*model.pool.k_buffer, *model.pool.v_buffer))
    assert not model.caches.stale()


def test_pools_of_other_chips_and_of_latent_rows_are_sglangs(model_of, chip_310p, tmp_path):
    assert (
        device_layout_cache.pool_class(
            cache_specs(NpuModel(save("gpt_oss@16", tmp_path, "float16"), "float16").network)
        )
        is MHATokenToKVPool
    )
    kernels.soc = lambda: "ascend910b"
    assert device_layout_cache.pool_class(cache_specs(model_of("qwen3@16").network)) is MHATokenToKVPool


def test_sglang_chooses_its_own_pool_where_it_is_another(chip_310p):
    layer = SimpleNamespace(layer_id=0, cache_spec=FullAttentionSpec(2, 16))
    network = SimpleNamespace(cells_and_names=lambda: [("", layer), ("", object())])
    configurator = SimpleNamespace(model=SimpleNamespace(network=network))

    def chosen(default):
        return device_layout_cache.choose_pool(
            lambda _, kind, default: default, configurator, kind="mha", default=default
        )

    assert issubclass(chosen(MHATokenToKVPool), device_layout_cache.MetaKVPool) and chosen(dict) is dict


@pytest.mark.parametrize(
    "name", ["get_cpu_copy", "load_cpu_copy", "move_kv_cache", "set_kv_buffer", "get_contiguous_buf_infos"]
)
def test_what_sglang_would_read_of_a_cache_on_the_host_is_refused_by_name(name):
    assert callable(getattr(MHATokenToKVPool, name))
    pool = object.__new__(device_layout_cache.MetaKVPool)
    with pytest.raises(NotImplementedError, match=f"{name}: MindSpore has caches of this pool in a layout"):
        getattr(pool, name)(torch.zeros(1), 2, k_scale=None)


def pool_of(rounds, head_num=2, head_dim=16, page_size=PAGE):
    made = type("Pool", (device_layout_cache.MetaKVPool,), {"blockwise": rounds})
    sizes = dict(size=SLOTS - page_size, page_size=page_size, head_num=head_num, head_dim=head_dim)
    return made(**sizes, dtype=torch.float16, layer_num=len(rounds), device="cpu", enable_memory_saver=False)


@pytest.mark.parametrize(
    "sizes, message",
    [
        (dict(head_num=3, head_dim=8), "3 key/value heads of 8 values: ascend310p caches rows of a multiple of 16"),
        (dict(page_size=8), "--page-size 8: PagedAttention reads pages of"),
        (dict(head_dim=256, page_size=128), "--page-size 128 with heads of 256 values: at most 64"),
    ],
)
def test_sizes_that_have_no_such_layout_are_refused(chip_310p, sizes, message):
    pool = pool_of((False,), **sizes)
    with pytest.raises(NotImplementedError, match=message):
        KVCaches(pool, {0: FullAttentionSpec(pool.head_num, pool.head_dim)})


def test_a_plain_cache_that_is_written_value_by_value_has_a_largest_size(chip_310p, monkeypatch):
    monkeypatch.setattr(host, "LARGEST_CACHE", SLOTS * 32)
    with pytest.raises(NotImplementedError, match="k_cache_0 of 32768 values: on ascend310p .* below 1024"):
        KVCaches(pool_of((True,)), {0: FullAttentionSpec(2, 16, blockwise=True)})
    monkeypatch.setattr(host, "LARGEST_CACHE", SLOTS * 32 + 1)
    caches = KVCaches(pool_of((True,)), {0: FullAttentionSpec(2, 16, blockwise=True)})
    assert caches.k_caches[0].shape == (SLOTS // PAGE, PAGE, 2, 16)


# ---- what the kernels that check refuse ----


def fractal(blocks=4, block=16, width=32):
    return dense.format_cast(dense.zeros((blocks, block, width), F16), kernels.NZ)


def plain(*shape):
    return dense.zeros(shape or (4, 16, 2, 16), F16)


def write(k_cache, v_cache):
    rows, slots = ms.Tensor(np.ones((3, 32), np.float16)), ms.Tensor(np.array([3, 17, -1], np.int32))
    attention.reshape_and_cache(rows, rows, k_cache, v_cache, slots)


def attend(k_cache, v_cache):
    lengths = ms.Tensor(np.array([3], np.int32)), ms.Tensor(np.array([1], np.int32))
    tables = ms.Tensor(np.array([[0]], np.int32))
    query = ms.Tensor(np.ones((1, 64), np.float16))
    attention.paged_attention(query, k_cache, v_cache, tables, *lengths, 4, 2, 0.25, "MASK_DEFAULT")


@pytest.mark.parametrize("use", [write, attend])
def test_a_cache_in_another_layout_is_refused(chip_310p, monkeypatch, use):
    use(fractal(), fractal())
    same_shape = plain(4, 16, 32)
    for caches in ((plain(), plain()), (fractal(), plain()), (same_shape, fractal()), (fractal(), same_shape)):
        with pytest.raises(ContractError, match="has shape|not in NZ"):
            use(*caches)
    with pytest.raises(ContractError):
        use(fractal(width=48), fractal(width=48))
    monkeypatch.setattr(kernels, "soc", lambda: "ascend910b")
    use(plain(), plain())
    with pytest.raises(ContractError):
        use(fractal(), fractal())


def test_rows_of_a_cache_in_nz_are_not_gathered(chip_310p):
    with pytest.raises(ContractError, match="Gather: rows of a matrix in NZ"):
        gathered.kernels.gather(fractal(1, 16, 32).reshape(16, 32), ms.Tensor(np.zeros(1, np.int32)))


PUT = dict(cache=(F16, 4, 16, 2, 16), places=[[0, 1], [9, 8]], new=(F16, 2, 2))


@pytest.mark.parametrize(
    "wrong",
    [
        dict(cache=(ms.float32, 4, 16, 2, 16)),
        dict(places=[[0, 1], [9, 2048]]),
        dict(places=[[0, 1], [9, -1]]),  # a padding row would be the last value of the cache
        dict(places=[[0, 1], [9, 1]]),
        dict(places=[[0, 1]]),
        dict(new=(ms.float32, 2, 2)),
        dict(new=(F16, 2, 3)),
    ],
)
def test_what_put_would_misread_is_caught(checked, wrong):
    def put(cache, places, new):
        cache = ms.Tensor(np.zeros(cache[1:], np.float32)).astype(cache[0])
        values = ms.Tensor(np.arange(1, 1 + np.prod(new[1:]), dtype=np.float32).reshape(new[1:])).astype(new[0])
        attention.put(cache, ms.Tensor(np.array(places, np.int32)), values)
        return cache.asnumpy().reshape(-1)

    assert put(**PUT)[[0, 1, 9, 8]].tolist() == [1, 2, 3, 4] and put(**PUT).sum() == 10
    with pytest.raises(ContractError, match="InplacePut"):
        put(**(PUT | wrong))
    with pytest.raises(ContractError, match="a cache in NZ is no row"):
        attention.put(fractal(), *tensors_of([(I32, 1, 1), (F16, 1, 1)]))


# ---- MindSpore's inference ----


def paged(qkv, positions, slots, query_lens, seq_lens, tables, k_cache, v_cache, kind, heads, kv_heads, head_dim):
    step = step_of(kind, positions, slots, query_lens, seq_lens, tables)
    sizes = (kv_heads, head_dim)
    q, k_cache, v_cache = operators.qkv_to_cache(
        qkv, None, None, 1e-6, 0.0, None, None, False, k_cache, v_cache, step, *sizes
    )
    return operators.paged_attention(q, k_cache, v_cache, step, *sizes, head_dim**-0.5)


@pytest.fixture
def own_kernels(monkeypatch, tmp_path):
    """MindSpore's, as on a 310P; MindSpore writes what it refuses into the current folder."""
    monkeypatch.chdir(tmp_path)
    kernels.bind()
    monkeypatch.setattr(kernels, "soc", lambda: "ascend310p")
    yield
    monkeypatch.undo()
    ops.start([0])


@pytest.mark.parametrize("kind", [host.FRESH, host.CHUNK, host.DECODE])
@pytest.mark.parametrize("heads, kv_heads", [(32, 8), (4, 1)])
def test_caches_of_real_models_get_through_inference(checked, own_kernels, heads, kv_heads, kind):
    inputs = [like(F16, 33, (heads + 2 * kv_heads) * 128), *[like(I32, 33)] * 2, *[like(I32, 3)] * 2, like(I32, 3, 8)]
    caches = [like(F16, 1000, 128, kv_heads * 128)] * 2
    first = {"CumsumExt"} if kind == host.CHUNK else {"Contiguous", "ReshapeAndCache"}  # of the mask
    assert lacking(paged, inputs, caches, (kind, heads, kv_heads, 128)) in first


def masked(query, key_cache, value_cache, tables, context_lens, query_lens, mask, heads, kv_heads):
    return kernels.paged_attention(
        query, key_cache, value_cache, tables, context_lens, query_lens, heads, kv_heads, 0.1, "TRAPEZOIDAL", mask
    )


def test_kernels_of_a_cache_in_nz_are_ones_that_only_the_device_is_lacking_for(checked, own_kernels):
    rows, cache, lengths = like(F16, 33, 1024), like(F16, 1000, 128, 1024), like(I32, 33)
    assert lacking(kernels.reshape_and_cache, (), [rows, rows, cache, cache, lengths]) == "ReshapeAndCache"
    inputs = [like(F16, 33, 4096), cache, cache, like(I32, 33, 8), lengths, lengths]
    assert lacking(kernels.paged_attention, (), inputs, (32, 8, 0.1, "MASK_DEFAULT")) == "PagedAttention"
    assert lacking(masked, (), [*inputs, like(F16, 33, 1024)], (32, 8)) == "PagedAttention"
    assert lacking(kernels.put, (), [like(F16, 9, 128, 8, 128), like(I32, 33, 1024), rows]) == "InplacePut"
    assert lacking(kernels.format_cast, (), [cache], (kernels.NZ,)) == "FormatCast"


# ---- what else differs on the host ----


def test_mindspore_may_take_what_is_free_where_it_has_the_caches():
    assert memory_cap(44 * GB, 43 * GB, 0.8, 16 * GB) == "25.6GB"
    assert memory_cap(44 * GB, 43 * GB, 0.8, 16 * GB, caches=True) == "43.0GB"


@pytest.mark.parametrize(
    "chip, replicas, cap", [("ascend310p", 1, "43.0GB"), ("ascend910b", 1, "25.6GB"), ("ascend910b", 2, "42.4GB")]
)
def test_a_card_is_taken_with_the_memory_that_caches_and_attention_replicas_want(monkeypatch, chip, replicas, cap):
    started, card = [], SimpleNamespace(mem_get_info=lambda: (43 * GB, 44 * GB), current_device=lambda: 3)
    monkeypatch.setattr(torch, "npu", card, raising=False)
    monkeypatch.setattr(kernels, "soc", lambda: started.append("chip") or chip)
    monkeypatch.setattr(start, "weights_on_card", lambda *given: 16 * GB * given[-1])
    monkeypatch.setattr(start, "graph_cache", lambda *_: "folder")
    monkeypatch.setattr(eplb, "model_config_for_expert_location", lambda config: None)
    device = dict(loads=lambda: None, keep_compiled_graphs=lambda _: None)
    device |= dict(start=started.append, limit_memory=started.append)
    for name, double in device.items():
        monkeypatch.setattr(mindspore_device, name, double)
    sizes = dict(tp_size=replicas, pp_size=1, attn_dp_size=replicas)
    alone = dict(enable_lora=False, speculative_algorithm=None, speculative_draft_model_path=None)
    context = mock.MagicMock(nnodes=1, mem_fraction_static=0.8, **alone, **sizes)
    for name in ("get_exec", "get_lora", "get_model", "get_parallel", "get_schedule", "get_server_args", "get_spec"):
        monkeypatch.setattr(runtime_context, name, lambda: context)
    start.take_card(mock.MagicMock(), (), False)
    assert started[0] == 3 and started[-1] == cap and set(started[1:-1]) == {"chip"}


@pytest.fixture
def allocator(monkeypatch):
    """What hands out pages on a 310P, and SGLang's own for CPUs; both of 64 pages of 16 tokens."""
    from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator

    sizes = dict(page_size=16, dtype=torch.float16, device="cpu", kvcache=None, need_sort=False)
    own, sglangs = allocation._without_triton()(1024, **sizes), PagedTokenToKVPoolAllocator(1024, **sizes)
    own.use_triton_kernels, sglangs.use_triton_kernels = True, False  # as SGLang has it for an NPU
    return own, sglangs


def test_pages_are_handed_out_without_triton(allocator):
    prefixes, lengths = torch.tensor([0, 20, 0]), torch.tensor([13, 40, 70])
    last, new = torch.tensor([-1, 35, -1]), 13 + 20 + 70
    own, sglangs = (one.alloc_extend(prefixes, prefixes, lengths, lengths, last, new) for one in allocator)
    assert own.dtype == torch.int32 and own.tolist() == sglangs.tolist()
    assert torch.equal(allocator[0].free_pages, allocator[1].free_pages)
    many = torch.tensor([2000]), torch.tensor([2000])
    assert allocator[0].alloc_extend(prefixes[:1], prefixes[:1], *many, last[:1], 2000) is None


@pytest.mark.parametrize("chip, there", [("ascend310p", False), ("ascend910b", True)])
def test_sglang_fills_its_tables_without_triton_where_there_is_none(monkeypatch, chip, there):
    monkeypatch.setattr(kernels, "soc", lambda: chip)
    assert allocation.support_triton(lambda backend: backend == "mindspore", "mindspore") is there
    assert not allocation.support_triton(lambda backend: False, "mindspore")

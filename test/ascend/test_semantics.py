"""Semantics: models on the Ascend table, whose kernels check all that they are given, against Hugging Face."""

import mindspore as ms
import numpy as np
import pytest
import torch
from ascend.doubles import wrapped
from models.harness import Requests, assert_logits_close
from models.int8 import reference, to_int8
from models.test_logits import LIMITS, WAYS, mixed_batch, prompts
from models.tiny import TINY, reference_logits, save

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.model_executor_ms.runner import device, graphs
from sglang.srt.model_executor_ms.runner.step import step_layout
from sglang.srt.model_executor_ms.runner.step_inputs import step_inputs
from sglang.srt.model_loader_ms.weight_slice import restore_host

from .model import PAGE, NpuModel

SECONDS = 20

# Heads of a multiple of 16 values, as the kernels want. llama3 and the yarn ones scale their rotary embedding, tied
# ones score with the embedding, which is padded: 131 rows are no multiple of anything.
VARIANTS = [
    *("llama-mha@32", "llama-mqa@16", "llama-bias@16", "llama-mlp-bias@16", "llama-gelu@16", "llama-gelu-tanh@16"),
    *("llama-tied@16", "llama-linear@16", "llama3@16", "llama-yarn@16", "mistral@48", "qwen2@16", "qwen2-tied@16"),
    *("qwen3-tied@16", "qwen3-bias@32", "gemma@16", "gemma-legacy@16", "stablelm@h192", "stablelm-parallel@h192"),
    *("cohere@16", "cohere-qk-norm@16", "granite@16", "granite-bias@16", "olmo2@16", "olmo2-bias@16", "glm@32"),
    *("glm4@32", "glm4-no-bias@32", "minicpm@h96", "internlm2@h96", "internlm3@16", "exaone@h96", "phi3@h96"),
    *("baichuan@h96", "qwen@h96", "chatglm@h192", "seed_oss@16", "smollm3@16", "ernie4_5@16"),
    *("arcee@16", "apertus@16", "starcoder2@16", "olmo-clip@16", "hunyuan_v1_dense@16", "ministral3@32", "phi@h192"),
    *("youtu@16", "gpt2@h96", "gpt_bigcode@h96", "gptj@h192", "codegen@h128", "gpt_neox@h192", "opt@h96", "falcon@h96"),
    *("nemotron@32", "jais2@16", "helium@h96"),
]


def compare(found, variant, ids, dtype):
    wanted = {request: reference_logits(variant, ids[request], dtype) for request in found}
    assert_logits_close(found, wanted, LIMITS[dtype])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", ["llama@32", "qwen3@16"])
def test_logits_equal_hugging_face_however_a_prompt_is_served(model_of, variant, way, dtype):
    ids = prompts()
    compare(WAYS[way](Requests(model_of(variant, dtype), PAGE), ids), variant, ids, dtype)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_of_fresh_chunked_and_decoding_requests_equals_hugging_face(model_of, variant):
    ids = prompts()
    compare(mixed_batch(Requests(model_of(variant), PAGE), ids), variant, ids, "float16")


@pytest.mark.parametrize("variant", ["qwen3@16", "qwen3_moe@16", "deepseek_v3@16"])
def test_padding_rows_change_neither_logits_nor_cache(checked, monkeypatch, tmp_path, variant):
    ids, buckets = prompts(), (4, 8)
    model = NpuModel(save(variant, tmp_path, "float16"), "float16", PAGE, buckets)
    requests = Requests(model, PAGE)
    first = requests.step({name: ids[name][:-1] for name in ("short", "long")})
    model.pool.get_key_buffer(0)[:PAGE] = 7.0  # the spare page
    sizes, runner = [], model.graph.runner
    captured = runner.captured
    counted = wrapped(captured, lambda arrays: sizes.append(len(arrays["seq_lens"])) or captured(arrays))
    monkeypatch.setattr(runner, "captured", counted)
    last = requests.step({name: ids[name][-1:] for name in ("short", "long")})
    assert sizes == [4]
    compare({name: np.concatenate([first[name], last[name]]) for name in last}, variant, ids, "float16")
    assert (model.pool.get_key_buffer(0)[:PAGE] == 7.0).all()


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("variant", ["qwen3@16", "deepseek_v3@16"])
def test_prompts_of_as_many_tokens_as_there_are_positions_begin_at_0(checked, monkeypatch, tmp_path, variant, more):
    positions, (name, _, size) = 64, variant.partition("@")
    monkeypatch.setitem(TINY, f"{name}-short", TINY[name] | dict(max_position_embeddings=positions))
    variant = f"{name}-short@{size}"
    requests = Requests(NpuModel(save(variant, tmp_path, "float16"), "float16", PAGE), PAGE)
    ids = {"a": np.arange(30) % 131, "b": np.arange(positions - 30 + more + 2) * 5 % 131}
    first = requests.step({name: row[:-1] for name, row in ids.items()})
    assert sum(map(len, first.values())) == positions + more
    last = requests.step({name: row[-1:] for name, row in ids.items()})
    compare({name: np.concatenate([first[name], last[name]]) for name in ids}, variant, ids, "float16")


@pytest.mark.parametrize("variant", ["qwen3@16", "deepseek_v3@16", "gemma2@16"])
def test_prompts_of_one_token_go_with_other_fresh_ones_where_a_step_is_one_run(model_of, monkeypatch, variant):
    model, ids = model_of(variant), prompts()
    monkeypatch.setattr(
        model.graph.runner, "split_by_forward_mode", lambda *lengths: host.split_by_forward_mode(*lengths[:2], True)
    )
    requests = Requests(model, PAGE)
    steps = [requests.step({"long": ids["long"][:-1], "short": ids["short"][:1]})]
    steps.append(requests.step({"long": ids["long"][-1:], "short": ids["short"][1:]}))
    found = {name: np.concatenate([step[name] for step in steps]) for name in ("long", "short")}
    compare(found, variant, ids, "float16")


# ---- what other backends got wrong, where the table could ----


def names(calls):
    return {name for name, _ in calls}


def test_each_part_of_a_mixed_batch_has_its_own_kernel(model_of, calls):
    model, ids = model_of("qwen3@16"), prompts()
    requests = Requests(model, PAGE)
    requests.step({"long": ids["long"][:33], "short": ids["short"][:-1]})
    assert "paged_attention" not in names(calls)
    calls.clear()
    requests.step({"short": ids["short"][-1:], "two": ids["long"][:2], "long": ids["long"][33:]})
    fresh = [arguments[0].shape[0] for name, arguments in calls if name == "flash_attention"]
    paged = [(arguments[0].shape[0], arguments[9]) for name, arguments in calls if name == "paged_attention"]
    assert fresh == [2] * model.config.num_hidden_layers
    assert paged == [(38, "TRAPEZOIDAL")] * model.config.num_hidden_layers


def test_no_kernel_is_given_a_mask_as_large_as_the_context(model_of, calls):
    requests = Requests(model_of("llama@32"), PAGE)
    tokens, context = 100, 250
    ids = np.arange(context) % 131
    requests.step({"a": ids[: context - tokens]})
    requests.step({"a": ids[context - tokens :]})
    masks = [arguments[5].shape for name, arguments in calls if name == "flash_attention"]
    assert set(masks) == {(128, 128)}
    arguments = [argument for name, found in calls if name == "paged_attention" for argument in found[3:]]
    sizes = [np.prod(argument.shape) for argument in arguments if isinstance(argument, ms.Tensor)]
    assert max(sizes) == -(-context // PAGE)  # the block table; lengths are smaller


def test_what_a_step_tells_the_graph_does_not_grow_with_tokens_times_context(checked):
    table = np.arange(8192).reshape(1, -1)
    step = step_inputs([512], [8192], np.arange(512), table, 128)
    # Positions, slots, and the row of each token in the blocks of queries; lengths, pages, four numbers a block.
    arrays = sum(step_layout().rows({"input_ids": np.zeros(0, np.int32)} | step.arrays), [])
    assert sum(array.size for array in arrays) == 3 * 512 + 2 + 64 + 4


def test_a_plain_decode_step_moves_no_cache_and_makes_no_mask(model_of, calls):
    requests, ids = Requests(model_of("qwen3@16"), PAGE), prompts()
    requests.step({"short": ids["short"]})
    calls.clear()
    requests.step({"short": ids["one"]})
    layers = 2
    count = {name: sum(found == name for found, _ in calls) for name in names(calls)}
    assert count["paged_attention"] == count["reshape_and_cache"] == count["swiglu"] == layers
    assert all(arguments[9] == "MASK_DEFAULT" for name, arguments in calls if name == "paged_attention")
    # A layer: four products, two norms of the row and two of heads, of which the first layer's and ours add nothing.
    assert count["matmul"] == 4 * layers + 1
    assert count["rms_norm"] + count["add_rms_norm"] == 4 * layers + 1
    assert "cat" not in count


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_vocabulary_that_ranks_do_not_divide_adds_up(checked, size):
    weight = np.random.default_rng(0).standard_normal((131, 16)).astype(np.float16)
    rows = -(-131 // 64) * 64 // size
    ids, whole = np.arange(131, dtype=np.int32), np.zeros((rows * size, 16), np.float16)
    whole[:131] = weight
    found = [
        ops.embedding(ms.Tensor(ids), ms.Tensor(whole[rank * rows :][:rows]), rank * rows).asnumpy()
        for rank in range(size)
    ]
    np.testing.assert_array_equal(sum(found), weight)


def test_logits_reach_the_sampler_in_float32(model_of):
    model = model_of("qwen3@16", "bfloat16")
    states = torch.randn(3, model.config.hidden_size, dtype=torch.bfloat16)
    assert model.head.apply(model.head, states).dtype == torch.float32


def test_operators_that_no_model_here_has(checked):
    x, y = (np.random.default_rng(seed).standard_normal((5, 16)).astype(np.float16) for seed in (1, 2))
    x_, y_ = ms.Tensor(x), ms.Tensor(y)
    np.testing.assert_array_equal(ops.clip(x_, 0.5).asnumpy(), x.clip(-0.5, 0.5))
    np.testing.assert_allclose(ops.add(x_, y_, 0.3).asnumpy(), x + np.float32(0.3) * y, atol=2e-3)
    wide = ops.linear_fp32(x_, y_, ms.Tensor(y[:, 0]))
    assert wide.dtype == ms.float32
    np.testing.assert_allclose(wide.asnumpy(), x.astype(np.float64) @ y.T.astype(np.float64) + y[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    "variant, lacking",
    [
        ("llama", "heads of 10 values"),
        ("glm@16", "rotary embedding of 8 values"),
    ],
)
def test_a_model_that_the_kernels_cannot_compute_is_refused_when_it_is_built(model_of, variant, lacking):
    with pytest.raises(NotImplementedError, match=lacking):
        model_of(variant)


@pytest.mark.parametrize("page_size, head_dim", [(1, 64), (8, 64), (256, 64), (128, 256)])
def test_pages_that_paged_attention_cannot_read_are_refused(checked, page_size, head_dim):
    with pytest.raises(NotImplementedError, match=f"--page-size {page_size}"):
        ops.cache_view(ms.Tensor(np.zeros((512, 1, head_dim), np.float16)), "cache", page_size)


def test_a_cache_that_has_pages_already_is_read_as_it_is(checked):
    cache = ms.Tensor(np.zeros((4, 32, 2, 16), np.float16))
    view = ops.cache_view(cache, "cache", 32)
    assert view.shape == cache.shape and view.data_ptr() == cache.data_ptr()


@pytest.mark.parametrize("chip, table", [("npu", "ascend_reference"), ("npu", "cpu"), ("cpu", "ascend")])
def test_a_table_of_another_device_is_refused_with_those_there_are(chip, table):
    with pytest.raises(device.UnsupportedDevice, match=f"SGLANG_MS_OPS={table}: device '{chip}' has the tables"):
        device.start(chip, table)


def test_float32_is_refused_with_the_dtypes_there_are(checked):
    with pytest.raises(NotImplementedError, match="bfloat16 or float16"):
        ops.compute_dtype("float32")


def test_kinds_of_steps(checked):
    def kinds(queries, lengths):
        return [(kind, rows.tolist()) for kind, rows in ops.split_by_forward_mode(np.array(queries), np.array(lengths))]

    assert kinds([3, 5], [3, 5]) == [("fresh", [0, 1])]
    assert kinds([1, 1], [1, 9]) == [("decode", [0, 1])]
    assert kinds([3, 1], [7, 9]) == [("chunk", [0, 1])]
    assert kinds([1, 4, 2], [9, 4, 8]) == [("fresh", [1]), ("chunk", [0, 2])]
    assert kinds([1, 4, 2, 1], [1, 4, 8, 9]) == [("fresh", [1]), ("chunk", [0, 2, 3])]  # one token needs no graph more
    assert kinds([1, 4, 1], [9, 4, 3]) == [("fresh", [1]), ("decode", [0, 2])]
    assert kinds([1, 1], [5, 0]) == [("decode", [0, 1])]  # a row of padding


def test_a_310p_computes_in_float16_only(chip_310p):
    assert ops.compute_dtype("float16") == "float16"
    with pytest.raises(NotImplementedError, match="ascend310p computes in float16"):
        ops.compute_dtype("bfloat16")


def test_a_310p_has_linear_weights_in_fractal_layout_and_vocabularies_row_by_row(chip_310p, tmp_path, calls):
    model, ids = NpuModel(save("llama-tied@16", tmp_path, "float16"), "float16", PAGE), prompts()
    layers = model.config.num_hidden_layers
    assert [arguments[1] for name, arguments in calls if name == "format_cast" and arguments[0].ndim == 2] == [
        kernels.NZ
    ] * 4 * layers
    compare(mixed_batch(Requests(model, PAGE), ids), "llama-tied@16", ids, "float16")
    gate_up = model.network.model.layers[0].mlp.gate_up_proj
    restore_host(gate_up.weight)
    gate_up.weight.host[:] = 0.5  # as a second load would
    model.network.process_weights_after_loading()
    assert (gate_up.weight.asnumpy() == 0.5).all()


def test_routers_of_a_310p_multiply_in_float16(chip_310p, calls):
    x, weight = (np.random.default_rng(seed).standard_normal((5, 16)).astype(np.float16) for seed in (1, 2))
    found = ops.linear_fp32(ms.Tensor(x), ms.Tensor(weight), None)
    assert found.dtype == ms.float32
    assert [one.dtype for name, arguments in calls if name == "matmul" for one in arguments] == [ms.float16] * 2
    np.testing.assert_allclose(found.asnumpy(), x.astype(np.float32) @ weight.T, atol=1e-2)


def test_int8_weights_are_refused_on_a_310p(chip_310p, tmp_path):
    to_int8(save("qwen2@16", tmp_path / "source"), tmp_path / "int8", "w8a8_int8")
    with pytest.raises(NotImplementedError, match="int8 weights: .* on ascend310p; give a checkpoint in float16"):
        NpuModel(tmp_path / "int8", "float16")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_int8_weights_in_mixed_batches(checked, calls, tmp_path, dtype):
    source, folder, ids = save("qwen2@16", tmp_path / "source", dtype), tmp_path / "int8", prompts()
    to_int8(source, folder, "modelslim")
    found = WAYS["mixed_batch"](Requests(NpuModel(folder, dtype), PAGE), ids)
    model = reference(source, folder)
    with torch.no_grad():
        wanted = {name: model(torch.as_tensor(ids[name])[None]).logits[0].numpy() for name in found}
    # A value half way between two of the 255 steps may be rounded to the other one; test_exact.py has less of them.
    with torch.no_grad():
        model.to(getattr(torch, dtype))
        rough = {name: model(torch.as_tensor(ids[name])[None]).logits[0].float().numpy() for name in found}
    largest = max(np.abs(logits).max() for logits in wanted.values())
    own = max(np.abs(rough[name] - wanted[name]).max() for name in found) / largest
    assert_logits_close(found, wanted, max(LIMITS[dtype], 2 * own))
    assert {"dynamic_quant", "quant_matmul"} <= names(calls)


def test_experts_of_int8(checked, calls, tmp_path):
    source, folder, ids = save("qwen3_moe@16", tmp_path / "source", "bfloat16"), tmp_path / "int8", prompts()
    to_int8(source, folder, "w8a8_int8")
    found = WAYS["mixed_batch"](Requests(NpuModel(folder, "bfloat16"), PAGE), ids)
    model = reference(source, folder)
    with torch.no_grad():
        wanted = {name: model(torch.as_tensor(ids[name])[None]).logits[0].numpy() for name in found}
    assert "grouped_quant_matmul" in names(calls)
    # Of a few tokens other experts are chosen, where scores are as close as bfloat16 is rough.
    largest = max(np.abs(logits).max() for logits in wanted.values())
    errors = np.concatenate([np.abs(found[name] - wanted[name]).max(-1) for name in found]) / largest
    assert np.sort(errors)[: -len(errors) // 10].max() < LIMITS["bfloat16"], errors


def test_experts_of_int8_are_refused_in_float16(checked, tmp_path):
    to_int8(save("qwen3_moe@16", tmp_path / "source"), tmp_path / "int8", "w8a8_int8")
    with pytest.raises(NotImplementedError, match="int8 experts: .* give --dtype bfloat16"):
        NpuModel(tmp_path / "int8", "float16")


def test_profiles_are_those_of_the_chips(monkeypatch):
    for chip, dtypes in (("ascend910b", 2), ("ascend910_93", 2), ("ascend310p", 1)):
        monkeypatch.setattr(kernels, "soc", lambda chip=chip: chip)
        assert len(host.profile().dtypes) == dtypes


def test_a_table_that_looks_at_values_runs_uncompiled(model_of):
    model, before = model_of("qwen3@16"), graphs.compilations()
    Requests(model, PAGE).step({"one": prompts()["one"]})
    assert graphs.compilations() == before


def test_two_models_in_one_process_step_by_turns_and_each_says_what_it_says_alone(checked, tmp_path):
    variants, ids = ("qwen3@16", "gemma2@16"), prompts()["long"]

    def steps(variant):
        model = NpuModel(save(variant, tmp_path / variant, "float16"), "float16", PAGE, (2, 4))
        requests = Requests(model, PAGE)
        for step in ({"a": ids[:7], "b": ids[:4]}, {"a": ids[7:8], "b": ids[4:5]}, {"b": ids[5:8], "a": ids[8:9]}):
            yield np.concatenate(list(requests.step(step).values()))

    alone = [list(steps(variant)) for variant in variants]
    by_turns = zip(*map(steps, variants), strict=True)
    for found, *wanted in zip(by_turns, *alone, strict=True):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)

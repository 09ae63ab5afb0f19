"""SGLang's own resolution of a server's arguments for an NPU, from ServerArgs on, on a platform that plays one."""

import functools
import inspect
import os
import sys
from types import ModuleType, SimpleNamespace
from unittest import mock

import pytest
import torch
from models.tiny import save

from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.model_executor_ms import plugin
from sglang.srt.model_executor_ms.environment import PLATFORM
from sglang.srt.model_executor_ms.npu import causal_lm, mindspore_device, start
from sglang.srt.model_executor_ms.npu.buckets import decode_buckets, most_graphs
from sglang.srt.model_executor_ms.server import framework
from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag
from sglang.srt.runtime_context import override_platform
from sglang.srt.server_args import ServerArgs

SECONDS = 8


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Function of a variant -> its folder."""
    return functools.cache(lambda variant: save(variant, tmp_path_factory.mktemp("checkpoint"), "bfloat16"))


@pytest.fixture
def resolve(monkeypatch, checkpoints):
    """Function of a variant, the gigabytes of a card and arguments -> what SGLang and this backend make of them."""
    monkeypatch.setitem(sys.modules, "torch_npu", ModuleType("torch_npu"))

    def resolved(variant="qwen3@16", gigabytes=64, **arguments):
        card = SimpleNamespace(is_available=lambda: True, mem_get_info=lambda: (gigabytes * 2**30,) * 2)
        monkeypatch.setattr(torch, "npu", card, raising=False)
        folder = str(checkpoints(variant))
        args = plugin._server_args_with_framework("mindspore", model_path=folder, device="npu", **arguments)
        with override_platform(is_npu=True):
            plugin._resolve_with_framework(inspect.unwrap(ServerArgs.resolve_once), args)
            return resolving_view(args)

    with mock.patch.dict(os.environ):  # what is exported is taken back
        for name in ("HCCL_DETERMINISTIC", PLATFORM):
            os.environ.pop(name, None)
        yield resolved


def test_the_defaults_of_a_card_of_64_gigabytes(resolve):
    view = resolve()
    assert (view.page_size, view.chunked_prefill_size) == (128, 8192)
    assert (view.attention_backend, view.prefill_attention_backend, view.decode_attention_backend) == ("mindspore",) * 3
    assert (view.sampling_backend, view.disable_custom_all_reduce, view.model_impl) == ("pytorch", True, "mindspore")
    sizes = view.cuda_graph_config.decode.bs
    assert sizes[0] == 1 and sizes[-1] == 64  # SGLang's list, although its own graphs are disabled
    assert decode_buckets(sizes, 64, most_graphs(36))[-1] == 64


def test_the_defaults_of_a_card_of_32_gigabytes_and_of_four_ranks(resolve):
    small, wide = resolve(gigabytes=32), resolve(tp_size=4)
    assert (small.chunked_prefill_size, small.cuda_graph_config.decode.bs[-1]) == (4096, 16)
    assert wide.cuda_graph_config.decode.bs[-1] == 256


def test_sglang_keeps_memory_for_captured_decode_graphs_although_its_own_are_disabled(resolve):
    captured, uncaptured = resolve(tp_size=4), resolve(tp_size=4, disable_decode_cuda_graph=True)
    kept = (uncaptured.mem_fraction_static - captured.mem_fraction_static) * 64 * 1024
    # Megabytes; SGLang rounds the fraction to a thousandth.
    assert kept == pytest.approx(framework.GRAPH_MB * captured.cuda_graph_config.decode.bs[-1], abs=66)


@pytest.mark.parametrize("asked, found", [(None, 64), (32, 32)])
def test_pages_of_a_model_with_heads_of_256_are_smaller_unless_they_were_asked_for(resolve, asked, found):
    assert resolve("qwen3@256", page_size=asked).page_size == found


def test_rows_of_mla_have_pages_of_128(resolve):
    assert resolve("deepseek_v3@16").page_size == 128


def test_the_sampler_of_npus_can_be_chosen_on_an_npu_only(resolve):
    assert resolve(sampling_backend="ascend").sampling_backend == "ascend"
    with pytest.raises(UnsupportedFlag, match="--sampling-backend ascend is a kernel of torch_npu's.* is cpu"):
        framework.verify(ServerArgs(model_path="none", device="cpu", sampling_backend="ascend"))


def test_a_float8_cache_is_refused_with_the_reason():
    with pytest.raises(UnsupportedFlag, match="--kv-cache-dtype fp8_e4m3 with --device npu: .* dtype of queries only"):
        framework.verify(ServerArgs(model_path="none", device="npu", kv_cache_dtype="fp8_e4m3"))


def test_deterministic_inference_is_served_with_sums_of_hccl_in_one_order(resolve):
    view = resolve(enable_deterministic_inference=True)
    assert view.attention_backend == "mindspore" and view.sampling_backend == "pytorch"
    assert os.environ["HCCL_DETERMINISTIC"] == "true"


def test_chains_of_drafts_are_served_and_trees_are_not(resolve, checkpoints, monkeypatch):
    draft = dict(speculative_algorithm="STANDALONE", speculative_draft_model_path=str(checkpoints("qwen3@16")))
    view = resolve(**draft)
    assert (view.speculative_eagle_topk, view.speculative_num_draft_tokens) == (1, 4)
    assert not view.disable_overlap_schedule and view.max_running_requests == 48
    tree = dict(speculative_num_steps=3, speculative_eagle_topk=4, speculative_num_draft_tokens=8)
    with pytest.raises(UnsupportedFlag, match="--speculative-eagle-topk 4 makes trees of drafts"):
        resolve(page_size=1, **draft, **tree)
    with pytest.raises(ValueError, match="Ngram speculative decoding only supports CUDA, CPU, or XPU"):
        resolve(speculative_algorithm="NGRAM")


def test_tokens_are_not_dispatched_and_the_reason_is_told(resolve):
    with pytest.raises(UnsupportedFlag, match="MoeDistributeDispatch is for 16 or more ranks"):
        resolve("qwen3_moe@16", tp_size=2, ep_size=2, moe_a2a_backend="deepep")


# ---- deterministic inference, in the process of a rank ----


@pytest.fixture
def asked_for(monkeypatch):
    """Function of whether --enable-deterministic-inference was given."""

    def ask(deterministic):
        flags = SimpleNamespace(deterministic=SimpleNamespace(enable_deterministic_inference=deterministic))
        monkeypatch.setattr("sglang.srt.runtime_context.get_exec", lambda: flags)

    return ask


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_kernel_that_adds_up_in_no_order_is_not_used_then(asked_for, monkeypatch, deterministic):
    asked_for(deterministic)
    monkeypatch.setattr("sglang.srt.model_executor_ms.runner.causal_lm.hosts.stages_span", lambda: False)
    adapters = SimpleNamespace(enable_lora=False)
    monkeypatch.setattr("sglang.srt.model_executor_ms.runner.causal_lm.get_lora", lambda: adapters)
    drafts = SimpleNamespace(speculative_algorithm=None)
    monkeypatch.setattr("sglang.srt.model_executor_ms.runner.causal_lm.get_spec", lambda: drafts)
    model = object.__new__(causal_lm.NpuForCausalLM)
    assert model.fuses_allreduce(SimpleNamespace(allreduce_fusion=True)) is not deterministic
    assert not model.fuses_allreduce(SimpleNamespace(allreduce_fusion=False))
    adapters.enable_lora = True  # which add to a product before it is summed
    assert not model.fuses_allreduce(SimpleNamespace(allreduce_fusion=True))
    adapters.enable_lora, drafts.speculative_algorithm = False, "EAGLE3"  # which reads sums
    assert not model.fuses_allreduce(SimpleNamespace(allreduce_fusion=True))


@pytest.mark.parametrize("deterministic", [False, True])
def test_kernels_add_up_in_one_order_once_the_card_is_taken(asked_for, monkeypatch, deterministic):
    asked_for(deterministic)
    done = []
    monkeypatch.setattr(start, "take_card", lambda *_: done.append("card"))
    monkeypatch.setattr(mindspore_device.ms, "set_deterministic", lambda value: done.append(value))
    causal_lm.NpuForCausalLM.take_device(object.__new__(causal_lm.NpuForCausalLM), None, (), False)
    assert done == (["card", True] if deterministic else ["card"])


def test_a_310p_has_no_hash_of_seeds_and_says_so(monkeypatch):
    monkeypatch.setattr(kernels, "soc", lambda: "ascend310p")
    with pytest.raises(start.NpuUnavailable, match="--enable-deterministic-inference on ascend310p: .* Triton"):
        start.compute_deterministically()

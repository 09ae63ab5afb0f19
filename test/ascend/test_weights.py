"""Weights on the way to a card: filled on the host, packed, moved before SGLang measures the memory, and freed there.

The double of the move, in ascend_reference, leaves garbage where the weights were on the host.
"""

import gc
import json
import math
import sys
import weakref
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
import torch
from models.float8 import to_float8
from models.harness import Requests
from models.test_logits import prompts
from models.tiny import TINY, save
from safetensors.torch import load_file, save_file

from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.mem_cache import kv_cache_configurator
from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator
from sglang.srt.model_executor_ms.npu.memory import GB, weights_on_card
from sglang.srt.model_executor_ms.parallel import agreement
from sglang.srt.model_executor_ms.runner import named_weights
from sglang.srt.model_executor_ms.runner.lm_head import TorchLMHead
from sglang.srt.model_executor_ms.runner.named_weights import NamedWeights
from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights
from sglang.srt.model_loader_ms import weight_slice
from sglang.srt.model_loader_ms.files import CheckpointError

from .model import PAGE, NpuModel

SECONDS = 10
pytestmark = pytest.mark.usefixtures("checked")
VARIANTS = ["qwen3@16", "qwen3-tied@16", "qwen3_moe@16", "deepseek_v3@16"]


def logits(model):
    return Requests(model, PAGE).step({"a": prompts()["short"]})["a"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_memory_that_was_filled_on_the_host_is_free_once_a_model_is_loaded(monkeypatch, tmp_path, variant):
    made, zeros = [], weight_slice._zeros

    def noted(shape, dtype):
        host = zeros(shape, dtype)
        made.append((dtype, weakref.ref(host)))
        return host

    monkeypatch.setattr(weight_slice, "_zeros", noted)
    model = NpuModel(save(variant, tmp_path, "float16"), "float16", PAGE)
    head = TorchLMHead(model.network)
    head.bind()
    gc.collect()
    assert made and not [dtype for dtype, host in made if host() is not None and dtype != np.int32]
    assert head.weight.data_ptr() == model.network.head().data_ptr()


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_that_are_loaded_again_are_served_from_where_the_old_ones_were(tmp_path, variant):
    first, second = save(variant, tmp_path / "first", "float16"), save(variant, tmp_path / "second", "float16")
    tensors = load_file(second / "model.safetensors")
    changed = {name: (weight.flip(0) if weight.ndim > 1 else weight) for name, weight in tensors.items()}
    save_file(changed, second / "model.safetensors", {"format": "pt"})
    model, other = (NpuModel(folder, "float16", PAGE) for folder in (first, second))
    before, wanted = logits(model), logits(other)
    assert np.abs(before - wanted).max() > 0.1
    parameters = list(model.network.get_parameters())
    places = [parameter.data_ptr() for parameter in parameters]
    for folder, right in ((second, wanted), (first, before)):
        load_weights(model.network, check_weights(model.network, folder), progress=False)
        np.testing.assert_array_equal(logits(model), right)
    assert [parameter.data_ptr() for parameter in parameters] == places
    assert not [parameter.name for parameter in parameters if hasattr(parameter, "host")]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_trainers_tensors_are_served_from_where_the_old_weights_were(monkeypatch, tmp_path, variant):
    """In buckets that part what one parameter has; what is not given is fetched from the card."""
    alone = SimpleNamespace(pp_rank=0, pp_size=1, tp_size=1, attn_tp_rank=0, attn_cp_rank=0, world_group=None)
    for module in (agreement, named_weights):
        monkeypatch.setattr(module, "get_parallel", lambda: alone)
    first, second = save(variant, tmp_path / "first", "float16"), save(variant, tmp_path / "second", "float16")
    tensors = load_file(second / "model.safetensors")
    changed = {name: (weight.flip(0) if weight.ndim > 1 else weight) for name, weight in tensors.items()}
    save_file(changed, second / "model.safetensors", {"format": "pt"})
    model, other = (NpuModel(folder, "float16", PAGE) for folder in (first, second))
    before, wanted = logits(model), logits(other)
    parameters = list(model.network.get_parameters())
    places = [parameter.data_ptr() for parameter in parameters]
    weights, items = NamedWeights(model.network, lambda: None), list(changed.items())
    for start in range(3):
        assert weights.update(lambda start=start: items[start::3]) == (True, "Success")
    np.testing.assert_array_equal(logits(model), wanted)
    assert [parameter.data_ptr() for parameter in parameters] == places
    assert not [parameter.name for parameter in parameters if hasattr(parameter, "host")]
    assert weights.update(lambda: [("nothing", torch.ones(1))]) == (False, "unexpected: nothing")
    assert weights.update(lambda: load_file(first / "model.safetensors").items())[0]
    np.testing.assert_array_equal(logits(model), before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_that_have_memory_of_the_card_before_they_are_filled(monkeypatch, tmp_path, variant):
    """MindSpore may copy what a parameter is made of at once: what the host is filled with is not there then."""
    folder = save(variant, tmp_path, "float16")
    wanted = logits(NpuModel(folder, "float16", PAGE))

    made = weight_slice.parameter

    def copied(*given, **named):
        parameter = made(*given, **named)
        parameter.assign_value(parameter.value().copy())
        return parameter

    class Copying(ms.Tensor):
        @staticmethod
        def from_numpy(array):
            return ms.Tensor.from_numpy(array.copy())

    for module in [module for module in list(sys.modules.values()) if vars(module).get("parameter") is made]:
        monkeypatch.setattr(module, "parameter", copied)
    monkeypatch.setattr(host, "Tensor", Copying)  # of which weights are renewed
    model = NpuModel(folder, "float16", PAGE)
    np.testing.assert_array_equal(logits(model), wanted)
    # This table's operators do not read the weight that is made of another one; it is there all the same.
    latent = [cell for _, cell in model.network.cells_and_names() if hasattr(cell, "w_uk_t")]
    assert bool(latent) == variant.startswith("deepseek")
    for cell in latent:
        np.testing.assert_array_equal(cell.w_uk_t.asnumpy(), cell.w_uk.asnumpy().transpose(0, 2, 1))


def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path):
    model = NpuModel(save("qwen3@16", tmp_path, "float16"), "float16", PAGE)
    before = logits(model)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="missing: model.norm.weight"):
        check_weights(model.network, tmp_path)
    np.testing.assert_array_equal(logits(model), before)


# ---- the memory of a card ----


class Card:
    """Knows what was put on it: parameters, and later the caches that SGLang makes as large as it may."""

    def __init__(self, monkeypatch, total):
        self.total, self.taken, to_device = total, 0, kernels.to_device

        def counted(tensor):
            self.taken += tensor.size * tensor.itemsize
            return to_device(tensor)

        monkeypatch.setattr(kernels, "to_device", counted)
        monkeypatch.setattr(
            kv_cache_configurator, "get_available_gpu_memory", lambda *_, **__: (self.total - self.taken) / GB
        )

    def pool(self, monkeypatch, fraction) -> int:
        """Bytes of the caches that SGLang would make now, for --mem-fraction-static; the card was empty at first."""
        none = dict(prefill_max_requests=None, max_mamba_cache_size=None)
        prefill = SimpleNamespace(full_prefill_max_req=None, backend=None)
        graph = SimpleNamespace(cuda_graph_config=SimpleNamespace(prefill=prefill))
        given = dict(
            get_schedule=SimpleNamespace(mem_fraction_static=fraction, **none),
            get_parallel=SimpleNamespace(launch_world_size=1, world_group=SimpleNamespace(cpu_group=None)),
            get_exec=SimpleNamespace(graph=graph),
            get_disagg=SimpleNamespace(disaggregation_mode="null"),
            get_mm=SimpleNamespace(mm_feature_transport=None),
        )
        for name, value in given.items():
            monkeypatch.setattr(kv_cache_configurator, name, lambda value=value: value)
        config = SimpleNamespace(is_multimodal=False)
        configurator = SimpleNamespace(device="npu", gpu_id=0, mambaish_config=None, model_config=config)
        return KVCacheConfigurator._profile_available_bytes(configurator, self.total / GB)


def as_float8(source, folder):
    to_float8(source, folder, folder.parent / "products")


def as_mxfp4(source, folder):
    """gpt-oss's checkpoint with its experts in codes, of whatever values."""
    tensors, config = load_file(source / "model.safetensors"), json.loads((source / "config.json").read_text())
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        count, columns, rows = tensors.pop(name).shape
        codes = torch.randint(0, 256, (count, rows, columns // 32, 16), dtype=torch.uint8)
        tensors |= {f"{name}_blocks": codes, f"{name}_scales": torch.full(codes.shape[:3], 126, dtype=torch.uint8)}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mxfp4"}}))


CHECKPOINTS = {
    "bfloat16": ("qwen3@16", None),
    "float8": ("qwen3@16", as_float8),
    "mxfp4": ("gpt_oss-even", as_mxfp4),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_card_has_room_for_weights_head_caches_captures_and_activations(monkeypatch, tmp_path, kind):
    monkeypatch.setitem(TINY, "gpt_oss-even", TINY["gpt_oss"] | dict(hidden_size=96, head_dim=16, intermediate_size=64))
    variant, quantized = CHECKPOINTS[kind]
    folder = save(variant, tmp_path / "source", "float32" if quantized else "bfloat16")
    if quantized:
        quantized(folder, tmp_path / kind)
        folder = tmp_path / kind
    total, fraction = 8 << 20, 0.75
    card = Card(monkeypatch, total)
    model = NpuModel(folder, "bfloat16", PAGE)
    held = sum(math.prod(parameter.shape) * parameter.itemsize for parameter in model.network.get_parameters())
    head = model.network.head()
    assert head.size * head.itemsize < held == card.taken
    others = total * (1 - fraction)  # captured graphs and activations, which SGLang reserves
    assert card.pool(monkeypatch, fraction) + held + others == pytest.approx(total, rel=1e-6)
    # What MindSpore is allowed to take is known before the weights are read.
    assert 0.85 * held < weights_on_card(folder, "auto", 1) < 1.2 * held  # the vocabulary is padded by half of it

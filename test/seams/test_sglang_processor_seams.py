"""What we rely on in SGLang 0.5.23 where it imports processors of images, and what we work around; a test names one.

A workaround's test is expected to fail: where it passes, with a later SGLang, the workaround can go.
"""

import importlib
import inspect
import sys
from types import SimpleNamespace

import pytest
from seams.contract import assert_in_order, names, parameters, works_around

from sglang.srt.model_executor_ms.seams import processors

SECONDS = 6
OWN = "sglang.srt.model_executor_ms.processors"
THEIRS = "sglang.srt.multimodal.processors"
PIXELS = "InternVLProcessor.process_qwen_mm_data_async"
SERVED = "Qwen2_5_VLForConditionalGeneration"


@pytest.fixture
def known(monkeypatch):
    """What SGLang fills with processors, empty; of the served model they are to be."""
    module = importlib.import_module(processors.PROCESSORS)
    monkeypatch.setattr(module, "PROCESSOR_MAPPING", {})
    monkeypatch.setattr(processors, "_served", [SERVED])
    return module.PROCESSOR_MAPPING


def original():
    return inspect.unwrap(importlib.import_module(processors.PROCESSORS).import_processors)


def of(known, name):
    return [one for model, one in known.items() if model.__name__ == name]


@pytest.mark.parametrize("target", [processors.TOKENIZER, processors.SCHEDULER])
def test_processors_are_imported_where_the_architecture_is_known(target):
    """processors.import_served_only"""
    module, owner, method = target.removeprefix("sglang.").rsplit(".", 2)
    assert_in_order(names(module, f"{owner}.{method}"), "model_config", "import_processors", "get_mm_processor")
    assert parameters(original()) == ["package_name", "overwrite"]


def test_the_served_models_processor_is_the_one_that_sglang_would_take(known):
    """processors.import_served_only"""
    processors._import_served(original(), THEIRS)
    few, (found,) = len(known), of(known, SERVED)
    processors._import_served(original(), OWN, overwrite=True)
    assert of(known, SERVED) == [found] and f"{OWN}.qwen" in sys.modules
    assert few < 20 and not of(known, "Gemma3ForConditionalGeneration")


def test_a_processor_of_ours_takes_the_place_of_sglangs(known, monkeypatch):
    monkeypatch.setattr(processors, "_served", ["Gemma3ForConditionalGeneration"])
    for package, overwrite in ((THEIRS, False), (OWN, True)):
        processors._import_served(original(), package, overwrite)
    assert [one.__module__ for one in of(known, "Gemma3ForConditionalGeneration")] == [f"{OWN}.gemma3"]


def test_without_a_model_all_are_imported(known, monkeypatch):
    monkeypatch.setattr(processors, "_served", [])
    processors._import_served(lambda *given: known.update({"all": given}), THEIRS)
    assert known == {"all": (THEIRS, False)}


@works_around("imports every processor, and torch's model with it: processors.import_served_only")
def test_sglang_imports_what_is_served():
    assert "architectures" in names("srt.managers.multimodal_processor", "import_processors")


def test_a_registry_of_other_classes_is_asked_by_the_model_type(monkeypatch):
    """processors.tokenize_llavas_alone"""
    module = importlib.import_module("sglang.srt.multimodal.customized_mm_processor_utils")
    assert_in_order(names("srt.utils.hf_transformers.processor", "get_processor"), "_CUSTOMIZED_MM_PROCESSOR")
    monkeypatch.setattr(module, "_CUSTOMIZED_MM_PROCESSOR", {})
    processors.tokenize_llavas_alone()
    assert {"llava": processors.ProcessorOfLlava} == module._CUSTOMIZED_MM_PROCESSOR


@works_around("asks for an accelerator: processors.compute_pixels_on_cpus")
def test_pixels_of_internvl_are_computed_where_no_accelerator_is_asked_for():
    assert "get_device" not in names("srt.multimodal.processors.internvl", PIXELS)


def test_pixels_of_internvl_are_computed_on_the_servers_cpu(monkeypatch):
    """processors.compute_pixels_on_cpus"""
    assert "get_device" in names("srt.multimodal.processors.internvl", PIXELS)
    context = importlib.import_module("sglang.srt.runtime_context")
    for device, found in (("cpu", "cpu"), ("npu", "theirs")):
        monkeypatch.setattr(context, "get_device", lambda device=device: SimpleNamespace(device=device))
        assert processors._device(lambda device_id: "theirs") == found

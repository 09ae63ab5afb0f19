"""SGLang's processors of images: which modules of them are imported, and what LLaVA's tokenizer comes by."""

import importlib
import logging
import re
import sys
from pathlib import Path

from sglang.srt.model_executor_ms.seams import hooks

logger = logging.getLogger(__name__)

PROCESSORS = "sglang.srt.managers.multimodal_processor"
TOKENIZER = "sglang.srt.managers.tokenizer_manager.TokenizerManager.init_tokenizer_and_processor"
SCHEDULER = "sglang.srt.managers.scheduler.Scheduler.init_tokenizer"
INTERNVL = "sglang.srt.multimodal.processors.internvl"
_served: list[str] = []  # architectures of the model that this process starts with


def import_served_only(scheduler: bool) -> None:
    """Import processors of the served model alone, in a scheduler's process or in that of the tokenizer.

    SGLang 0.5.23 imports all, each with torch's model, in the process of the tokenizer and in each scheduler. That is
    seconds of a start.
    """
    hooks.before(SCHEDULER if scheduler else TOKENIZER, _note)
    hooks.around(f"{PROCESSORS}.import_processors", _import_served)


def _note(owner, *_, **__) -> None:
    _served[:] = owner.model_config.hf_config.architectures or []


def _import_served(original, package_name: str, overwrite: bool = False) -> None:
    """As import_processors, of modules in whose text the name of an architecture is that is served."""
    if not _served:
        original(package_name, overwrite)
        return
    known, named = sys.modules[PROCESSORS].PROCESSOR_MAPPING, re.compile(rf"\b({'|'.join(map(re.escape, _served))})\b")
    package = importlib.import_module(package_name)
    for path in sorted(path for folder in package.__path__ for path in Path(folder).glob("*.py")):
        if path.stem == "__init__" or not named.search(path.read_text(encoding="utf-8")):
            continue
        try:
            module = importlib.import_module(f"{package_name}.{path.stem}")
        except Exception as error:  # of packages that are not installed, for other models of the module
            logger.warning("%s.%s cannot be imported: %s", package_name, path.stem, error)
            continue
        for model, processor in _processors_of(module):
            if overwrite:
                for before in [one for one in known if one.__name__ == model.__name__]:
                    del known[before]
            known[model] = processor


def _processors_of(module):
    """(model, processor) of each class that a module defines."""
    base = sys.modules[PROCESSORS].BaseMultimodalProcessor
    for one in list(vars(module).values()):
        if isinstance(one, type) and issubclass(one, base) and one.__module__ == module.__name__:
            yield from ((model, one) for model in one.models)


def compute_pixels_on_cpus() -> None:
    """Let InternVL's processor compute on a CPU where the server does.

    SGLang 0.5.23 raises there: the process of the tokenizer has imported it before a platform was selected.
    """
    hooks.around(f"{INTERNVL}.get_device", _device)


def _device(original, device_id: int | None = None) -> str:
    from sglang.srt.runtime_context import get_device

    return "cpu" if get_device().device == "cpu" else original(device_id)


def tokenize_llavas_alone() -> None:
    """Give a tokenizer to LLaVA's own format in the place of a processor, which was not published with the models.

    SGLang takes transformers' class by the model_type, "llava", and that wants a preprocessor_config.json. It has a
    registry of other classes by model_type.
    """
    from sglang.srt.multimodal import customized_mm_processor_utils

    customized_mm_processor_utils._CUSTOMIZED_MM_PROCESSOR["llava"] = ProcessorOfLlava


class ProcessorOfLlava:
    """What SGLang asks for LLaVA's processor in the place of AutoProcessor."""

    @staticmethod
    def from_pretrained(name: str, *args, **options):
        """A tokenizer, or a processor where transformers has it: of its own format."""
        from transformers import AutoProcessor, AutoTokenizer, PretrainedConfig

        written, _ = PretrainedConfig.get_config_dict(name, revision=options.get("revision"))
        architectures = written.get("architectures") or [""]
        alone = architectures[0].endswith("ForCausalLM")  # and not ForConditionalGeneration
        return (AutoTokenizer if alone else AutoProcessor).from_pretrained(name, *args, **options)

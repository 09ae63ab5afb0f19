"""Lets torchvision be imported where its C library cannot be loaded beside the installed torch.

torchvision's x86 wheel is built for CUDA. Beside a CPU build of torch its `_C.so` does not load, `torchvision::nms` and
`torchvision::qnms` are never declared, and `import torchvision` (hence every transformers model) stops with
"operator torchvision::nms does not exist". The two schemas have to be there before torchvision's first import in each
process, so `sglang_mindspore_torchvision.pth` calls `install()` when the interpreter starts. Nothing is imported then;
where `_C.so` loads, nothing is declared either. The operators stay uncallable: torchvision itself says so when asked.
"""

import sys
from importlib.machinery import PathFinder, SourceFileLoader

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class TorchvisionLoader(SourceFileLoader):
    """Runs torchvision's `__init__.py` after declaring the operators that its C library would have declared."""

    def exec_module(self, module):
        if not _c_library_loads(module.__spec__.submodule_search_locations):
            from torch.library import Library

            self.library = Library("torchvision", "DEF")  # the schemas live as long as this object
            for schema in SCHEMAS:
                self.library.define(schema)
        super().exec_module(module)


class TorchvisionFinder:
    """Finds torchvision as Python does, and gives its spec our loader."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = TorchvisionLoader(spec.loader.name, spec.loader.path)
        return spec


def install():
    """Put the finder before Python's own, once."""
    if TorchvisionFinder not in sys.meta_path:
        sys.meta_path.insert(0, TorchvisionFinder)


def _c_library_loads(directories):
    """Load torchvision's C library as torchvision is about to do itself; the second load finds the first."""
    import torch

    library = PathFinder.find_spec("_C", directories)
    if library is None:
        return False
    try:
        torch.ops.load_library(library.origin)
    except OSError:
        return False
    return True

"""A checkpoint in GGUF's blocks, by llama.cpp's own quantizer: python quantized_gguf.py FOLDER Q4_K_M.

The last line is the path of the file, which is written once, beside the checkpoint or in the temporary folder.
"""

import ctypes
import os
import sys
from pathlib import Path

from llama_cpp_bf16 import converted


def quantized(model: Path, name: str) -> Path:
    import llama_cpp

    source = converted(model)
    file = source.with_name(f"{model.name}-{name}.gguf")
    if file.exists():
        return file
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    parameters.nthread = len(os.sched_getaffinity(0))
    part = file.with_suffix(".part")
    llama_cpp.llama_backend_init()
    if llama_cpp.llama_model_quantize(str(source).encode(), str(part).encode(), ctypes.byref(parameters)):
        raise RuntimeError(f"llama.cpp cannot write {source} in {name}")
    part.rename(file)
    return file


if __name__ == "__main__":
    print(quantized(Path(sys.argv[1]), sys.argv[2]))

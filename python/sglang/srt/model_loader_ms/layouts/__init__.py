"""How tensors of a checkpoint hold the codes and scales of a matrix; a file a layout, and a line here.

Imports torch and nothing of the other rooms.
"""

from sglang.srt.model_loader_ms.layouts.awq import Awq
from sglang.srt.model_loader_ms.layouts.bitsandbytes import NF4, Int8
from sglang.srt.model_loader_ms.layouts.gguf import Gguf
from sglang.srt.model_loader_ms.layouts.gptq import Gptq, GptqV1
from sglang.srt.model_loader_ms.layouts.made import Float8Rows, Int8RowsOrPlain, NF4Blocks
from sglang.srt.model_loader_ms.layouts.modelslim import ModelSlim, ModelSlimStatic
from sglang.srt.model_loader_ms.layouts.modelslim_int4 import ModelSlimInt4, ModelSlimInt4Bytes
from sglang.srt.model_loader_ms.layouts.packed import Packed
from sglang.srt.model_loader_ms.layouts.plain import Plain

LAYOUTS = {
    "plain": Plain,
    "awq": Awq,
    "bitsandbytes": NF4,
    "bitsandbytes_int8": Int8,
    "float8_rows": Float8Rows,
    "gguf": Gguf,
    "gptq": GptqV1,
    "gptq_v2": Gptq,
    "int8_rows": Int8RowsOrPlain,
    "modelslim": ModelSlim,
    "modelslim_int4": ModelSlimInt4,
    "modelslim_int4_bytes": ModelSlimInt4Bytes,
    "modelslim_static": ModelSlimStatic,
    "nf4_blocks": NF4Blocks,
    "packed": Packed,
}

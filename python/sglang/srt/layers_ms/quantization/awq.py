"""AWQ: four bits, a zero point and a scale for each group of columns; multiplied with activations as they are.

Lin et al., 2023. As autoawq writes it; model_loader_ms/layouts/awq.py has the tensors.
"""

from sglang.srt.layers_ms.quantization.config import QuantizationConfig, but_parts, group_size, wanted
from sglang.srt.layers_ms.quantization.formats import INT4_GROUP, Encoding

OLDER = {"w_bit": "bits", "q_group_size": "group_size"}  # names of keys


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of config.json's quantization_config. Its versions gemv, gemv_fast and marlin have other orders of codes."""
    found = {OLDER.get(key, key): value for key, value in found.items()}
    wanted("awq", found, version=("gemm", "GEMM"))
    return QuantizationConfig("awq", but_parts(encoding(found), found.get("modules_to_not_convert")), towers=False)


def encoding(found: dict) -> Encoding:
    wanted("awq", found, bits=(4,))
    form = INT4_GROUP._replace(block=(1, group_size("awq", found)), offset="zero_point")
    return Encoding(form, "awq")

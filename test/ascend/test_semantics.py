"""Net 2: models on the Ascend table, whose kernels check all that they are given, against Hugging Face."""

import pytest
from models.harness import Requests, assert_logits_close
from models.test_logits import LIMITS, WAYS, prompts
from models.tiny import reference_logits

from .conftest import PAGE

# Heads of multiples of 16 values, as the kernels want; each variant in one way, plain ones in all.
VARIANTS = ["llama@16", "llama-mha@32", "llama-mqa@16", "llama-bias@16", "llama-gelu@16", "llama-gelu-tanh@16"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", ["llama@32", "qwen3@16"])
def test_logits_equal_hugging_face_however_a_prompt_is_served(model_of, variant, way, dtype):
    ids = prompts()
    found = WAYS[way](Requests(model_of(variant, dtype), PAGE), ids)
    wanted = {request: reference_logits(variant, ids[request], dtype) for request in found}
    assert_logits_close(found, wanted, LIMITS[dtype])

"""Pipeline stages on the Ascend table: a stage begins with what the one before passes on, in captured steps too."""

import numpy as np
import pytest
from models.harness import Requests, assert_logits_close
from models.test_logits import LIMITS, WAYS, prompts
from models.tiny import reference_logits, save

from .model import PAGE, NpuStages

SECONDS = 2
pytestmark = pytest.mark.usefixtures("checked")


@pytest.mark.parametrize("variant", ["qwen3-tied@16", "olmo2@16", "deepseek_v3@16"])
def test_two_stages_give_the_logits_of_hugging_face(variant, tmp_path):
    ids, requests = prompts(), Requests(NpuStages(save(variant, tmp_path, "float16"), dtype="float16"), PAGE)
    found = WAYS["mixed_batch"](requests, ids)
    ids = {name: np.concatenate([ids[name], ids["short"][:2]]) for name in found}
    for place in (-2, -1):  # in a bucket, padded
        more = requests.step({name: tokens[place:][:1] for name, tokens in ids.items()})
        found = {name: np.concatenate([logits, more[name]]) for name, logits in found.items()}
    wanted = {name: reference_logits(variant, ids[name], "float16") for name in found}
    assert_logits_close(found, wanted, LIMITS["float16"])

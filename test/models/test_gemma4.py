"""What the layers of Gemma 3n and 4, some of which share keys and values, do not go with is refused by name."""

import contextlib

import pytest
from models.tiny import save

from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.models_ms.config import Runtime, UnsupportedConfig
from sglang.srt.models_ms.registry import model_class
from sglang.srt.utils.hf_transformers_utils import get_config

SECONDS = 2


@pytest.mark.parametrize(
    "runtime, message",
    [
        (Runtime(stage=Stage(0, 2)), "--pp-size 2: layers see keys, values and embeddings that other stages"),
        (Runtime(max_positions=9), "--context-length 9: it has to be more than the sliding_window, 9"),
        (Runtime(max_positions=10), None),
    ],
)
def test_stages_and_contexts_in_which_layers_cannot_share_keys_are_refused(tmp_path, runtime, message):
    save("gemma4-shared", tmp_path)
    text = get_config(str(tmp_path), trust_remote_code=True).text_config.to_dict()
    refused = pytest.raises(UnsupportedConfig, match=message) if message else contextlib.nullcontext()
    with refused:
        model_class(["Gemma4ForCausalLM"]).config_class.read(text, runtime=runtime)


@pytest.mark.parametrize(
    "wrong, runtime, message",
    [
        (dict(num_experts=None), Runtime(), "enable_moe_block = True needs num_experts and moe_intermediate_size"),
        (dict(moe_intermediate_size=None), Runtime(), "enable_moe_block = True needs num_experts and moe_interm"),
        (dict(top_k_experts=8), Runtime(), "each token goes to 8 of 5 experts"),
        ({}, Runtime(stage=Stage(0, 2)), "--pp-size 2: keys of layers with a window have a pool of their own"),
        ({}, Runtime(), None),
    ],
)
def test_experts_that_cannot_be_and_stages_with_two_pools_are_refused(tmp_path, wrong, runtime, message):
    save("gemma4-experts", tmp_path)
    text = get_config(str(tmp_path), trust_remote_code=True).text_config.to_dict() | wrong
    refused = pytest.raises(UnsupportedConfig, match=message) if message else contextlib.nullcontext()
    with refused:
        model_class(["Gemma4ForCausalLM"]).config_class.read(text, runtime=runtime)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(altup_active_idx=3), "altup_active_idx = 3 of 3 streams"),
        (dict(intermediate_size=[76, 76]), "intermediate_size has 2 values for 5 layers"),
        (dict(activation_sparsity_pattern=[0.5, 0.5]), "activation_sparsity_pattern has 2 values for 5 layers"),
        (dict(activation_sparsity_pattern=1.0), r"activation_sparsity_pattern = \[1.0\]: shares are from 0 to less"),
        (dict(altup_correct_scale=False), "altup_correct_scale = False"),
        ({}, None),
    ],
)
def test_streams_and_layers_that_do_not_fit_are_refused(tmp_path, wrong, message):
    save("gemma3n", tmp_path)
    text = get_config(str(tmp_path), trust_remote_code=True).text_config.to_dict() | wrong
    refused = pytest.raises(UnsupportedConfig, match=message) if message else contextlib.nullcontext()
    with refused:
        model_class(["Gemma3nForCausalLM"]).config_class.read(text, runtime=Runtime())

"""What configs of latent attention say, and what of it is refused."""

import pytest
from models.test_config import config_of, read
from models.variants.mla import YARN

from sglang.srt.layers_ms.mla import mla_scale
from sglang.srt.models_ms.config import UnsupportedConfig

SECONDS = 1


@pytest.mark.parametrize(
    "variant, changes, message",
    [
        ("deepseek_v2", dict(norm_topk_prob=True), "DeepseekV2ForCausalLM: norm_topk_prob = True is not supported"),
        ("deepseek_v2", dict(scoring_func="sigmoid"), "scoring_func = 'sigmoid' is not supported"),
        ("deepseek_v2", dict(topk_method="noaux_tc"), "topk_method = 'noaux_tc' is not supported"),
        ("deepseek_v3", dict(topk_method="greedy"), "DeepseekV3ForCausalLM: topk_method = 'greedy' is not supported"),
        ("deepseek_v3", dict(scoring_func="softmax"), "scoring_func = 'softmax' is not supported"),
        ("deepseek_v3", dict(kv_lora_rank=None), "config.json has no 'kv_lora_rank'"),
        ("glm_moe_dsa", dict(layer_types=["other"] * 3), "layer_types has .'other'., only 'indexed_attention'"),
        ("minicpm3", dict(v_head_dim=None), "MiniCPM3ForCausalLM: config.json has no 'v_head_dim'"),
    ],
)
def test_what_is_not_computed_is_refused(variant, changes, message):
    with pytest.raises(UnsupportedConfig, match=message):
        read(config_of(variant, **changes))


def test_every_so_many_layers_have_experts():
    config = read(config_of("deepseek_v2", num_hidden_layers=9, first_k_dense_replace=3, moe_layer_freq=2))
    assert config.dense_layers == {0, 1, 2, 3, 5, 7}


def test_published_keys_are_understood():
    """Of DeepSeek V3's config.json, beside those of transformers' class."""
    published = dict(
        aux_loss_alpha=0.001,
        ep_size=1,
        moe_layer_freq=1,
        num_nextn_predict_layers=1,
        quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]},
        scoring_func="sigmoid",
        seq_aux=True,
        topk_method="noaux_tc",
    )
    assert read(config_of("deepseek_v3", **published)).routing.scoring == "sigmoid"


def test_scores_are_scaled_by_the_square_of_yarns_mscale():
    config = read(config_of("deepseek_v3", rope_parameters=YARN))
    # 0.1 * 1.3 * ln 5 + 1 = 1.20923...
    assert mla_scale(config.rope, 22) == pytest.approx(22**-0.5 * 1.2092269**2, rel=1e-6)
    assert mla_scale(read(config_of("deepseek_v3")).rope, 22) == 22**-0.5

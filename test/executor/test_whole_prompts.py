"""Which arguments a server changes where each prompt has to be one step."""

import json
from types import SimpleNamespace

import pytest

from sglang.srt.model_executor_ms.server import framework

SECONDS = 1
WHOLE = dict(chunked_prefill_size=-1, disable_radix_cache=True)


@pytest.mark.parametrize(
    "architecture, config, pooling, changed",
    [
        ("BertModel", {}, None, WHOLE),
        (
            "XLMRobertaModel",
            dict(max_position_embeddings=8194, pad_token_id=1),
            None,
            WHOLE | dict(context_length=8192),
        ),
        ("Gemma3TextModel", dict(use_bidirectional_attention=True), "mean", WHOLE),
        ("Qwen3Model", {}, "mean", WHOLE),
        ("Qwen3Model", {}, "cls", WHOLE),
        ("Qwen3Model", {}, "lasttoken", {}),
        ("Qwen3Model", {}, None, {}),
        ("LlamaForSequenceClassification", {}, "mean", {}),  # scores are of the last token
    ],
)
def test_prompts_are_whole_where_tokens_see_later_ones_or_all_are_pooled(
    tmp_path, architecture, config, pooling, changed
):
    if pooling:
        modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
        listed = [dict(path=path, type=f"sentence_transformers.models.{kind}") for path, kind in modules]
        (tmp_path / "modules.json").write_text(json.dumps(listed))
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling/config.json").write_text(json.dumps(dict(pooling_mode=pooling)))
    hf_config = SimpleNamespace(architectures=[architecture], **config)
    model = SimpleNamespace(model_path=str(tmp_path), revision=None, hf_config=hf_config, is_generation=False)
    assert framework.for_whole_prompts(model, SimpleNamespace(context_length=None)) == changed
    given = framework.for_whole_prompts(model, SimpleNamespace(context_length=100))
    assert "context_length" not in given

"""What sentence-transformers' files ask for is what SGLang gives, or it is refused by name."""

import json
import logging

import pytest

from sglang.srt.model_executor_ms.server.sentence_transformers import problems

SECONDS = 1
TRANSFORMER, POOLING = ("Transformer", ""), ("Pooling", "1_Pooling")
NORMALIZE, DENSE = ("Normalize", "2_Normalize"), ("Dense", "3_Dense")


def write(folder, *modules, **pooling):
    """As sentence-transformers saves a model."""
    listed = [dict(path=path, type=f"sentence_transformers.models.{kind}") for kind, path in modules]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps(dict(word_embedding_dimension=60, **pooling)))
    return str(folder)


@pytest.mark.parametrize(
    "pooling", [dict(pooling_mode_lasttoken=True, pooling_mode_mean_tokens=False), dict(pooling_mode="lasttoken")]
)
def test_the_last_token_normalized_is_served(tmp_path, caplog, pooling):
    assert problems(write(tmp_path, TRANSFORMER, POOLING, NORMALIZE, **pooling)) == []
    assert caplog.text == ""


def test_a_checkpoint_without_these_files_is_served(tmp_path):
    assert problems(str(tmp_path)) == []


@pytest.mark.parametrize(
    "pooling, modes",
    [
        (dict(pooling_mode_mean_tokens=True, pooling_mode_lasttoken=False), "['mean']"),
        (dict(pooling_mode_cls_token=True, pooling_mode_lasttoken=True), "['cls', 'lasttoken']"),
        (dict(pooling_mode="weightedmean"), "['weightedmean']"),
        (dict(), "[]"),
    ],
)
def test_another_pooling_is_refused(tmp_path, pooling, modes):
    [problem] = problems(write(tmp_path, TRANSFORMER, POOLING, NORMALIZE, **pooling))
    assert problem == f"1_Pooling/config.json pools {modes}, and only the last token ('lasttoken') is pooled"


def test_another_module_is_refused(tmp_path):
    [problem] = problems(write(tmp_path, TRANSFORMER, POOLING, DENSE, NORMALIZE, pooling_mode="lasttoken"))
    assert problem == "modules.json asks for Dense, and only Normalize, Pooling, Transformer are computed"


def test_embeddings_that_are_not_to_be_normalized_are_announced(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert problems(write(tmp_path, TRANSFORMER, POOLING, pooling_mode="lasttoken")) == []
    assert "modules.json has no Normalize" in caplog.text

"""What sentence-transformers' files ask for is computed, or it is refused by name."""

import json
import logging

import pytest

from sglang.srt.model_executor_ms.runner.sentence_transformers import Dense, Recipe, problems, recipe

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


IDENTITY = "torch.nn.modules.linear.Identity"


@pytest.mark.parametrize(
    "pooling, mode",
    [
        (dict(pooling_mode_lasttoken=True, pooling_mode_mean_tokens=False), "lasttoken"),
        (dict(pooling_mode="lasttoken"), "lasttoken"),
        (dict(pooling_mode_mean_tokens=True, pooling_mode_lasttoken=False), "mean"),
        (dict(pooling_mode_cls_token=True), "cls"),
    ],
)
def test_one_pooling_normalized_is_served(tmp_path, caplog, pooling, mode):
    folder = write(tmp_path, TRANSFORMER, POOLING, NORMALIZE, **pooling)
    assert problems(folder) == []
    assert recipe(folder, None, "of the model") == Recipe(mode)
    assert caplog.text == ""


def test_a_checkpoint_without_these_files_is_served_as_its_model_says(tmp_path):
    assert problems(str(tmp_path)) == []
    assert recipe(str(tmp_path), None, "cls") == Recipe("cls")


@pytest.mark.parametrize(
    "pooling, modes",
    [
        (dict(pooling_mode_cls_token=True, pooling_mode_lasttoken=True), "['cls', 'lasttoken']"),
        (dict(pooling_mode="weightedmean"), "['weightedmean']"),
        (dict(), "[]"),
    ],
)
def test_another_pooling_is_refused(tmp_path, pooling, modes):
    [problem] = problems(write(tmp_path, TRANSFORMER, POOLING, NORMALIZE, **pooling))
    wanted = "and only one of ['lasttoken', 'mean', 'cls'] is computed"
    assert problem == f"1_Pooling/config.json pools {modes}, {wanted}"


def test_a_pooling_without_the_prompt_is_refused(tmp_path):
    [problem] = problems(write(tmp_path, TRANSFORMER, POOLING, NORMALIZE, pooling_mode="mean", include_prompt=False))
    assert "leaves out the tokens of prompts" in problem


def write_dense(folder, **config):
    (folder / "3_Dense").mkdir()
    (folder / "3_Dense/config.json").write_text(json.dumps(config))


def test_products_behind_the_pooling_are_served(tmp_path):
    folder = write(tmp_path, TRANSFORMER, POOLING, DENSE, NORMALIZE, pooling_mode="mean")
    write_dense(tmp_path, in_features=60, out_features=7, bias=False, activation_function=IDENTITY)
    assert problems(folder) == []
    assert recipe(folder, None, "cls") == Recipe("mean", (Dense("3_Dense", 60, 7, False, None),))


def test_products_with_other_activations_or_without_sizes_are_refused(tmp_path):
    folder = write(tmp_path, TRANSFORMER, POOLING, DENSE, NORMALIZE, pooling_mode="mean")
    write_dense(tmp_path, in_features=60, activation_function="torch.nn.modules.activation.ReLU")
    sizes, activation = problems(folder)
    assert sizes == "3_Dense/config.json has no out_features"
    assert "asks for torch.nn.modules.activation.ReLU, and only" in activation


@pytest.mark.parametrize(
    "modules, reason",
    [
        ((TRANSFORMER, POOLING, ("LayerNorm", "3_LayerNorm"), NORMALIZE), "asks for LayerNorm"),
        ((TRANSFORMER, POOLING, NORMALIZE, ("Normalize", "4"), POOLING), "in this order"),
        ((TRANSFORMER, NORMALIZE), "in this order"),
    ],
)
def test_other_modules_and_orders_are_refused(tmp_path, modules, reason):
    found = problems(write(tmp_path, *modules, pooling_mode="lasttoken"))
    assert any(reason in problem for problem in found)


def test_embeddings_that_are_not_to_be_normalized_are_announced(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert problems(write(tmp_path, TRANSFORMER, POOLING, pooling_mode="lasttoken")) == []
    assert "modules.json has no Normalize" in caplog.text

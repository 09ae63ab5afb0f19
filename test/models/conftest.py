"""Compiled models, one for all tests that want the same; and what became of the tests of each architecture."""

import functools

import pytest
from models.harness import PagedModel
from models.results import RESULTS
from models.tiny import TINY, save


@pytest.fixture(scope="session")
def paged_model(table, tmp_path_factory):
    """Function of a variant of tiny.TINY and a dtype -> its checkpoint of that dtype, served in that dtype."""

    @functools.cache
    def load(variant: str, dtype: str = "float32") -> PagedModel:
        return PagedModel(save(variant, tmp_path_factory.mktemp(f"{variant}-{dtype}"), dtype), dtype)

    def get(variant: str, dtype: str = "float32") -> PagedModel:
        model = load(variant, dtype)
        RESULTS.computes(model.architecture, against(variant))
        return model

    return get


@pytest.fixture
def served(table):
    """Function of a checkpoint's folder and of what it is compared with -> the checkpoint, served in float32."""

    def get(folder, against: str) -> PagedModel:
        model = PagedModel(folder)
        RESULTS.computes(model.architecture, against)
        return model

    return get


def against(variant: str) -> str:
    return "a statement of its paper" if TINY[variant].get("statement") else "transformers"


def pytest_runtest_logreport(report):
    if report.when == "call" and not report.skipped:
        RESULTS.finished(report.passed)


def pytest_sessionfinish():
    RESULTS.write()

"""Compiled models, one for all tests that want the same; and what the models of each test are compared with."""

import functools

import pytest
from models.harness import PagedModel
from models.results import PROPERTY
from models.tiny import COMPILED, TINY, save

KEPT = 4  # compiled models; the tests of a variant follow each other


@pytest.fixture
def computes(request):
    """Function of an architecture and of what it is compared with: notes that this test computes it."""
    return lambda architecture, against: request.node.user_properties.append((PROPERTY, (architecture, against)))


@pytest.fixture(scope="session")
def load(table, tmp_path_factory):
    @functools.lru_cache(KEPT)
    def load(variant: str, dtype: str) -> PagedModel:
        folder = save(variant, tmp_path_factory.mktemp(f"{variant}-{dtype}"), dtype)
        return PagedModel(folder, dtype, compiled=variant in COMPILED and dtype == "float32")

    return load


@pytest.fixture
def paged_model(load, computes):
    """Function of a variant of tiny.TINY and a dtype -> its checkpoint of that dtype, served in that dtype."""

    def get(variant: str, dtype: str = "float32") -> PagedModel:
        model = load(variant, dtype)
        computes(model.architecture, against(variant))
        return model

    return get


@pytest.fixture
def served(table, computes):
    """Function of a checkpoint's folder and of what it is compared with -> the checkpoint, served in float32."""

    def get(folder, against: str) -> PagedModel:
        model = PagedModel(folder, compiled=False)
        computes(model.architecture, against)
        return model

    return get


def against(variant: str) -> str:
    return "a reference model, from its paper" if TINY[variant].get("statement") else "transformers"

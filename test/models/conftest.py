"""Compiled models, one for all tests that want the same."""

import functools

import pytest
from models.harness import PagedModel
from models.tiny import save


@pytest.fixture(scope="session")
def paged_model(table, tmp_path_factory):
    """Function of a variant of tiny.TINY and a dtype -> its checkpoint of that dtype, served in that dtype."""

    @functools.cache
    def load(variant: str, dtype: str = "float32") -> PagedModel:
        return PagedModel(save(variant, tmp_path_factory.mktemp(f"{variant}-{dtype}"), dtype), dtype)

    return load

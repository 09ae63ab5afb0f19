"""A comparison that fails says where."""

import numpy as np
import pytest
from models.harness import assert_logits_close

SECONDS = 1


def test_the_worst_error_is_named_by_request_and_token():
    wanted = {"a": np.full((3, 5), 4.0), "b": np.zeros((7, 5))}
    found = {request: logits.copy() for request, logits in wanted.items()}
    found["a"][0, 0] += 0.1
    found["b"][6, 2] -= 0.4
    with pytest.raises(pytest.fail.Exception, match=r"1\.00e-01 > 5e-02, worst in request 'b' at its token 6"):
        assert_logits_close(found, wanted, 5e-2)


def test_a_value_that_is_not_a_number_is_an_error():
    wanted = {"a": np.ones((3, 5))}
    found = {"a": np.where(np.arange(3)[:, None] == 1, np.nan, wanted["a"])}
    with pytest.raises(pytest.fail.Exception, match="request 'a' at its token 1"):
        assert_logits_close(found, wanted, 1e-4)


def test_errors_within_the_limit_pass():
    wanted = {"a": np.full((3, 5), 4.0)}
    assert_logits_close({"a": wanted["a"] + 0.1}, wanted, 5e-2)

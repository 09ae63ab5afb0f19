"""A config that declares its keys reads them strictly, and names all that is wrong with a config.json at once."""

import json
import re

import pytest

from sglang.srt.models_ms.config_keys import KeyedConfig, UnsupportedConfig, computed, key

SECONDS = 3


class Small(KeyedConfig):
    hidden_size: int = key("hidden_size")
    heads: int = key("num_heads", aliases=("n_heads",))
    head_dim: int = key("head_dim", lambda config: config.hidden_size // config.heads)
    act: str = key("hidden_act", "silu", accepted=("silu", "gelu"), convert=str.upper)
    factors: tuple = key("factors", (), convert=tuple)
    dtype: str
    expected = {"causal": True, "method": ("a", "b", None)}
    ignored = {"architectures": "chose the class", "_name": "provenance", "dropout": "training"}

    @computed
    def halves(self):
        if self.head_dim % 2:
            raise UnsupportedConfig(f"head_dim = {self.head_dim} is odd")
        return self.head_dim // 2

    def problems(self):
        yield from super().problems()
        if self.heads > 64:
            yield f"{self.heads} heads are too many"


class Nested(Small):
    heads: int = key("attn.heads")
    norm: bool = key("ffn.norm", True, null=False)
    factors: tuple = (1.0,)
    expected = {"ffn.uniform": False}
    ignored = {"ffn.loss": "training"}


GOOD = {"architectures": ["SmallModel"], "hidden_size": 12, "num_heads": 3}


def read(changes=(), kind=Small):
    return kind.read({**GOOD, **dict(changes)} if kind is Small else dict(changes), dtype="float32")


def refused(changes, kind=Small):
    with pytest.raises(UnsupportedConfig) as error:
        read(changes, kind)
    return error.value.problems


def test_fields_come_from_their_keys_and_defaults():
    config = read()
    assert (config.hidden_size, config.heads, config.head_dim, config.act) == (12, 3, 4, "silu")
    assert (config.dtype, config.halves, config.factors) == ("float32", 2, ())


def test_values_are_converted_and_defaults_are_not():
    config = read({"hidden_act": "gelu", "factors": [1, 2], "head_dim": 6})
    assert (config.act, config.factors, config.halves) == ("GELU", (1, 2), 3)


def test_null_and_empty_count_as_absent():
    config = read({"hidden_act": None, "factors": [], "head_dim": None})
    assert (config.act, config.factors, config.head_dim) == ("silu", (), 4)


def test_zero_and_false_are_values():
    assert read({"head_dim": 0}).head_dim == 0


def test_a_key_may_be_given_by_any_of_its_names_and_by_several_with_the_same_value():
    assert read({"num_heads": None, "n_heads": 2}).heads == 2
    assert read({"num_heads": 2, "n_heads": 2}).heads == 2
    with pytest.raises(UnsupportedConfig, match="gives num_heads = 3 and n_heads = 2, which are names of the same"):
        read({"num_heads": 3, "n_heads": 2})


def test_keys_of_sub_configs_have_dotted_names():
    config = read({"hidden_size": 8, "attn": {"heads": 2, "_name": "x", "dropout": 0.1}, "ffn": {"loss": 0.1}}, Nested)
    assert (config.heads, config.norm, config.factors) == (2, True, (1.0,))


def test_a_null_may_mean_something_of_its_own():
    assert read({"hidden_size": 8, "attn": {"heads": 2}, "ffn": {"norm": None}}, Nested).norm is False


def test_missing_keys_are_refused_by_name():
    assert refused({"num_heads": None, "hidden_size": None}) == (
        "SmallModel: config.json has no 'hidden_size', which this architecture needs",
        "SmallModel: config.json has no 'num_heads', which this architecture needs",
    )


@pytest.mark.parametrize("name, value", [("causal", False), ("method", "c"), ("hidden_act", "relu"), ("causal", 0)])
def test_values_that_are_not_computed_are_refused_by_name(name, value):
    (problem,) = refused({name: value})
    assert problem.startswith(f"SmallModel: {name} = {value!r} is not supported, only [")


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_an_unknown_key_that_is_switched_off_is_accepted(value):
    assert read({"mystery": value}) == read()


@pytest.mark.parametrize("value", [True, 0, 0.0, 1.5, "on", [0], {"a": None}])
def test_an_unknown_key_with_a_value_is_refused_by_name(value):
    (problem,) = refused({"mystery": value})
    assert f"does not know: mystery = {value!r}. " in problem


def test_the_overrides_of_the_message_make_the_config_readable():
    config = {"hidden_size": 8, "attn": {"heads": 2, "a": 1, "b": 2}, "ffn": {"c": [3]}, "d": 4, "e": {"f": 5}}
    (problem,) = refused(config, Nested)
    assert "attn.a = 1, attn.b = 2, d = 4, e = {'f': 5}, ffn.c = [3]" in problem
    overrides = json.loads(re.search(r"--json-model-override-args '(.*)'$", problem)[1])
    assert overrides == {"attn": {"heads": 2, "a": None, "b": None}, "d": None, "e": None, "ffn": {"c": None}}
    assert read(config | overrides, Nested).heads == 2


def test_all_problems_are_listed_at_once():
    found = refused({"num_heads": 100, "head_dim": 5, "causal": False, "hidden_act": "relu", "mystery": 1})
    wanted = ("hidden_act = 'relu'", "causal = False", "mystery = 1", "head_dim = 5 is odd", "100 heads are too many")
    assert [text in problem for text, problem in zip(wanted, found, strict=True)] == [True] * 5


def test_the_message_has_a_line_a_problem():
    assert str(UnsupportedConfig("a", "b")) == "a\nb"


def test_a_field_of_a_base_class_is_not_hidden_by_accident():
    with pytest.raises(TypeError, match="Hidden.heads hides a field of a base class"):
        type("Hidden", (Small,), {"heads": 2})


def test_a_field_of_a_common_base_does_not_win_over_a_nearer_one():
    class First(Small):
        width: int = key("width", 1)

    with pytest.raises(TypeError, match="Both.heads: list the base class Nested, which has it, first"):
        type("Both", (First, Nested), {})
    assert type("Both", (Nested, First), {}).keys()["attn.heads"]


def test_a_default_that_asks_for_a_later_field_is_an_error_that_names_it():
    class Early(KeyedConfig):
        first: int = key("first", lambda config: config.second)
        second: int = key("second", 2)

    assert Early.read({"first": 1}).first == 1
    with pytest.raises(TypeError, match=r"Early.first: its default asks for a field that is not declared above it"):
        Early.read({})

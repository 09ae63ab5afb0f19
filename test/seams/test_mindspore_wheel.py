"""MindSpore's libraries for Ascend have what the path of an NPU relies on; the check of it notices what is gone."""

from seams.mindspore_wheel import FACTS, Fact, installed, missing

SECONDS = 2


def test_the_installed_wheel_has_every_fact():
    assert missing(installed()) == []


def test_what_a_library_has_not_and_a_library_that_is_not_there_are_named(tmp_path):
    (tmp_path / "one.so").write_bytes(b"\0ABC\0")
    facts = [Fact("one.so", "ABC", "a"), Fact("one.so", "ABCD", "b"), Fact("two.so", "ABC", "c"), FACTS[0]]
    assert missing(tmp_path, facts) == [
        "one.so has no 'ABCD': b",
        "two.so is not there: c",
        f"{FACTS[0].library} is not there: {FACTS[0].because}",
    ]

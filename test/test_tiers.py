"""What make test leaves out, and in which order it runs; README's table is of what the tests found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from models import results
from rerun_failed import FLAKY, rerun
from tiers import SLOW, mostly_slow, offenders, seconds

SECONDS = 15, 25
TEST = Path(__file__).parent


def test_a_file_says_how_long_its_tests_take_with_and_without_slow_ones(tmp_path):
    one, two, none = (tmp_path / f"{name}.py" for name in ("one", "two", "none"))
    one.write_text("import os\nSECONDS = 40\n")
    two.write_text("SECONDS = 40, 300  # some are slow\n")
    none.write_text("def test():\n    SECONDS = 40\n")
    assert [seconds(one, slow) for slow in (False, True)] == [40, 40]
    assert [seconds(two, slow) for slow in (False, True)] == [40, 300]
    assert seconds(none, False) == 0


def test_every_test_file_says_how_long_its_tests_take():
    files = list(TEST.rglob("test_*.py"))
    wrong = [path.name for path in files if not 0 < seconds(path, False) <= seconds(path, True)]
    assert len(files) > 100
    assert not wrong, f"{wrong} want a line SECONDS = <seconds of a processor>"


def test_cases_that_are_not_quick_are_slow():
    first, second = mostly_slow([("a", 1), ("b", 2)], lambda name, _: name == "b")
    assert (first.values, first.marks) == (("a", 1), (SLOW,))
    assert (second.values, second.marks) == (("b", 2), ())
    with pytest.raises(AssertionError, match="none of them"):
        mostly_slow("ab", lambda name: name == "c")


def test_a_loop_tells_of_every_case_that_fails():
    def check(case):
        assert case < 2, "too large"
        if case == 1:
            pytest.fail("odd")

    assert offenders(check, [0, 1, 2]) == ["1: odd", "2: too large\nassert 2 < 2"]
    assert offenders(check, [0]) == []
    with pytest.raises(AssertionError, match="nothing to check"):
        offenders(check, [])


FILES = {  # of tests, in the order in which they run
    "serving/test_server.py": "SECONDS = 1\ndef test(): pass",
    "test_long.py": "SECONDS = 90\ndef test(): pass",
    "ops/test_usual.py": "SECONDS = 20, 40\ndef test(): pass\n@pytest.mark.slow\ndef test_slow(): pass",
    "test_quick.py": "SECONDS = 30\ndef test(): pass",
}


@pytest.mark.parametrize(
    "options", [pytest.param([], id="make test"), pytest.param(["-m", ""], id="make test-all", marks=SLOW)]
)
def test_servers_come_first_and_then_the_longest(tmp_path, options):
    for name in ("conftest.py", "tiers.py", "models/results.py"):
        (tmp_path / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / name).write_text((TEST / name).read_text())
    for name, text in FILES.items():
        (tmp_path / "test" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "test" / name).write_text(f"import pytest\n{text}\n")
    (tmp_path / "pyproject.toml").write_text((TEST.parent / "pyproject.toml").read_text())
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.removeprefix("test/") for line in listed if "::" in line]
    server, long, usual, quick = (f"{name}::test" for name in FILES)
    rest = [usual, f"{usual}_slow", quick] if options else [quick, usual]
    assert found == [server, long, *rest]


def test_results_of_a_run_are_added_to_those_of_earlier_ones(tmp_path):
    file, cache = tmp_path / "results.jsonl", tmp_path / "cache"
    file.write_text(json.dumps(["A", {"passed": True, "served": True}]) + "\n")
    found = results.Results()
    found.finished([(results.PROPERTY, ("A", "transformers")), (results.SERVED, "B")], True)
    found.finished([(results.PROPERTY, ("A", "transformers"))], False)
    (cache / "v/models").mkdir(parents=True)
    (cache / "v" / results.CACHED).write_text(json.dumps(results.merged({"B": {"passed": True}}, found.found)))
    results.write(cache, file)
    assert dict(map(json.loads, file.read_text().splitlines())) == {
        "A": {"against": "transformers", "passed": False, "served": True},
        "B": {"passed": True, "served": True},
    }


def run_beside_a_file(folder: Path, tests: str) -> int:
    """The status of a rerun after pytest has run these tests, while a file is missing that is then there."""
    (folder / "test_file.py").write_text(f"from pathlib import Path\n{tests}")
    subprocess.run([sys.executable, "-m", "pytest", "-q", "test_file.py"], cwd=folder, stdout=subprocess.DEVNULL)
    (folder / "file").touch()
    return rerun(folder)


FLAKY_TEST = "def test_{0}(): assert Path('file').exists()\n"


def test_a_test_that_fails_beside_others_and_passes_alone_is_named(tmp_path, capfd):
    assert run_beside_a_file(tmp_path, FLAKY_TEST.format("a") + "def test_b(): pass\n") == 0
    assert "flaky, as they failed beside others and pass alone:\n  test_file.py::test_a\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    "tests", ["def test(): assert 0\n" + FLAKY_TEST.format("a"), "".join(map(FLAKY_TEST.format, range(FLAKY + 1)))]
)
def test_what_fails_again_or_with_many_others_stays_failed(tmp_path, capfd, tests):
    assert run_beside_a_file(tmp_path, tests) == 1
    assert "flaky, as" not in capfd.readouterr().out

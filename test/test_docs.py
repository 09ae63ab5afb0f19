"""README and docs/: short sentences, links that lead somewhere, tables and pictures that are those of their data."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import lint
import models_table
import pictures
import pytest
import speed_tables
from test_layout import BELOW, ENVIRONMENT, room

SECONDS = 10
ROOT = Path(__file__).parents[1]
WORDS = " ".join(["word"] * lint.LONGEST)


def test_pages_keep_to_the_lint():
    assert lint.offences() == []


def test_there_are_pages():
    assert len(lint.pages()) > 10


@pytest.mark.parametrize(
    "text, lines",
    [
        (f"{WORDS}.", []),
        (f"{WORDS} more.", [1]),
        (f"Short. {WORDS} more. Short.", [1]),
        (f"Short.\nOne {WORDS} more.", [2]),
        (f"{WORDS}\nmore.", [1]),  # a sentence over two lines
        (f"{WORDS}\n\nmore.", []),
        (f"{WORDS}: more.", [1]),  # a colon ends no sentence
        (f"{WORDS}; more.", [1]),
        (f"* {WORDS}\n* more", []),
        (f"* Short\n  {WORDS}", [1]),
        (f"1. {WORDS} more", [1]),
        (f"| short | {WORDS} more |", [1]),
        (f"| {WORDS} | {WORDS} |", []),
        (f"# {WORDS} more", []),
        (f"    {WORDS} more", []),
        (f"* An item\n\n      {WORDS} more", [3]),  # goes on: no code
        (f"```\n{WORDS} more\n```\n\n{WORDS} more", [5]),
        (f"<!-- {WORDS} more -->\n{WORDS} more", [2]),
        (f"<!--\n{WORDS} more\n-->", []),
    ],
)
def test_long_sentences_are_found_where_they_begin(text, lines):
    assert [number for number, _ in lint.long_sentences(text)] == lines


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("MLA is multi-head latent attention.", []),
        ("`normalise` it in rounded parts.", []),
        (
            "Normalised rows.\nAttention in rounds, of latent attention.",
            ["Normalised", "in rounds", "latent attention"],
        ),
        ("```\nNormalised\n```", []),
        ("| a | the places of experts |", ["places of experts"]),
    ],
)
def test_words_of_our_own_are_found(text, wrong):
    found = [what.split(":")[0].strip("'") for _, what in lint.home_words(text)]
    assert found == wrong


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("[a](b.md)", []),
        ("[a](b.md#one-heading)", []),
        ("[a](#here)\n\n## Here", []),
        ("[a](https://example.org/none)", []),
        ("`[a](none.md)`", []),
        ("[a](none.md)", ["no such file: none.md"]),
        ("![a](none.png)", ["no such file: none.png"]),
        ("[![a](none.png)](b.md)", []),
        ("[a](b.md#another)", ["no such heading: b.md#another"]),
        ("[a](#here)", ["no such heading: #here"]),
    ],
)
def test_broken_links_are_found(tmp_path, text, wrong):
    (tmp_path / "b.md").write_text("# One `heading`\n")
    page = tmp_path / "a.md"
    page.write_text(text)
    assert [what for _, what in lint.broken_links(page, text)] == wrong


@pytest.mark.parametrize(
    "code, wrong",
    [
        ("one = 1\ntwo = 2", []),
        ("    one = 1\n    two = 2", []),
        ("one = 1\n...\nthree = 3", []),
        ("one = 1\nthree = 3", ["not in a.py: one = 1"]),
        ("one = 1\n...\nthree = 4", ["not in a.py: three = 4"]),
        ("one = ", ["not in a.py: one ="]),  # not a whole line
    ],
)
def test_excerpts_are_looked_up_in_the_sources(tmp_path, code, wrong):
    (tmp_path / "a.py").write_text("def f():\n    one = 1\n    two = 2\n    three = 3\n")
    found = lint.stale_excerpts(f"Text.\n\n<!-- from a.py -->\n```python\n{code}\n```\n", tmp_path)
    assert list(found) == [(3, what) for what in wrong]


def test_files_that_pages_name_are_there(tmp_path):
    (tmp_path / "test/ops").mkdir(parents=True)
    (tmp_path / "test/ops/a.py").touch()
    text = "`a.py`, `ops/a.py`, `config.json`\n`b.py`, `test/a.py` and `s/a.py`"
    assert [(number, what.split()[-1]) for number, what in lint.missing_files(text, tmp_path)] == [
        (2, "b.py"),
        (2, "test/a.py"),
        (2, "s/a.py"),
    ]


def test_an_excerpt_of_no_file_is_found(tmp_path):
    found = list(lint.stale_excerpts("<!-- from none.py -->\n\n```\n...\n```\n", tmp_path))
    assert found == [(1, "not in none.py: there is no such file")]


def test_an_offence_is_named_by_file_and_line(tmp_path):
    (tmp_path / "docs/deep").mkdir(parents=True)
    (tmp_path / "README.md").write_text("Short.\n\n[a](none.md)\n")
    (tmp_path / "docs/deep/page.md").write_text(f"{WORDS} more\n")
    found = lint.offences(tmp_path)
    assert found[0] == "README.md:3: no such file: none.md"
    assert found[1].startswith("docs/deep/page.md:1: 31 words: word ")


def test_the_table_of_models_is_that_of_the_registry():
    assert models_table.page() == models_table.PAGE.read_text(encoding="utf-8"), "run `make models-table`"


def test_tables_of_speed_are_those_of_the_data():
    wrong = [page.name for page, text in speed_tables.pages().items() if page.read_text(encoding="utf-8") != text]
    assert not wrong, "run `make speed-tables`"


def test_figures_of_a_benchmark_come_into_a_table():
    data, row = speed_tables.read(), ["prefill 1x1024 (tok/s)", 1.0, [2.0, 0.5]]
    assert json.loads(speed_tables.dumped(data)) == data
    results = {"machine": "a machine", "command": "python x.py", "table": {"ours": "us", "peers": ["b"], "rows": [row]}}
    for name in ("gguf", "quantized: 8 bits"):
        speed_tables.take(data, name, results)
    rows = {name: figures for name, *figures in data["tables"]["gguf"]["rows"]}
    assert len(rows) == len(speed_tables.read()["tables"]["gguf"]["rows"]) and [row[0], *rows[row[0]]] == row
    assert f"        {json.dumps(row)}\n" in speed_tables.dumped(data)
    assert "**8 bits**, on a machine:" in speed_tables.titled("8 bits", data["tables"]["quantized: 8 bits"])
    with pytest.raises(ValueError, match=r"peers has columns for .*, not for \['b'\]"):
        speed_tables.take(data, "peers", results)


def test_pictures_are_those_of_the_data():
    assert not pictures.stale(), "run `make pictures`"


def test_a_stale_picture_is_found(tmp_path, monkeypatch):
    assert pictures.stale(tmp_path) == list(pictures.PICTURES)
    monkeypatch.setattr(pictures, "DATA", pictures.ROOT / "README.md")  # other data
    assert pictures.stale() == list(pictures.PICTURES)


def test_the_picture_of_rooms_is_that_of_the_layout():
    drawn = {name: number for number, row in enumerate(pictures.ROOMS) for name in row}
    rooms = {name: below for name, below in BELOW.items() if name != ENVIRONMENT}
    assert drawn.keys() == rooms.keys()
    del rooms[pictures.EXECUTOR]  # it enters by all others
    below = [(name, other) for name, others in rooms.items() for other in others if other != ENVIRONMENT]
    upward = [(name, other) for name, other in below if drawn[room(other)] <= drawn[name]]
    assert not upward


def commands() -> set[str]:
    """Scripts and modules that pages tell their reader to run."""
    text = "".join(page.read_text(encoding="utf-8") for page in lint.pages())
    modules = set(re.findall(r"python -m (sglang[\w.]+)", text))
    return modules | set(re.findall(r"\b((?:benchmark|ms_example|test)/[\w/]+\.py)\b", text))


def test_what_pages_tell_to_run_exists():
    found = commands()
    assert len(found) > 10
    wrong = [name for name in found if not ((ROOT / name).exists() if "/" in name else find_spec(name))]
    assert not wrong


def test_targets_that_pages_name_are_in_the_makefile():
    text = "".join(page.read_text(encoding="utf-8") for page in lint.pages())
    named = {
        target for targets in re.findall(r"(?:^|`)make ((?:[a-z-]+ ?)+)", text, re.M) for target in targets.split()
    }
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {"demo", "serve", "site"} <= named
    assert not named - targets

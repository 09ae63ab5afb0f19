"""What runs of test/models and test/serving found of each architecture, for README's table (docs/models_table.py).

Tests note it in pytest's cache. Run as a program, this file adds what is there to the file that the table is made of.
"""

import json
from pathlib import Path

FILE = Path(__file__).with_suffix(".jsonl")
CACHED = "models/results"  # in pytest's cache
PROPERTY = "computes"  # of a test: [architecture, what its model is compared with]
SERVED = "serves"  # of a test: the architecture that it takes through SGLang's Engine


class Results:
    """The outcome of each architecture whose models this run compared with something, or served."""

    def __init__(self):
        # architecture -> {"against": what it was compared with, "passed": whether all those tests did, "served":
        # whether all tests with an Engine did}, as far as this run has such tests
        self.found = {}

    def finished(self, properties: list, passed: bool) -> None:
        """A test with these properties has finished."""
        for name, value in properties:
            if name == PROPERTY:
                architecture, against = value
                self._note(architecture, "passed", passed)["against"] = against
            elif name == SERVED:
                self._note(value, "served", passed)

    def _note(self, architecture: str, key: str, passed: bool) -> dict:
        result = self.found.setdefault(architecture, {})
        result[key] = result.get(key, True) and passed
        return result


def merged(before: dict, later: dict) -> dict:
    """What was not tested later stays as it was found before."""
    return {**before, **{name: {**before.get(name, {}), **result} for name, result in later.items()}}


def write(cache: Path, file: Path = FILE) -> None:
    """Add the results in pytest's cache, a folder, to the file."""
    later = cache / "v" / CACHED
    before = dict(map(json.loads, file.read_text(encoding="utf-8").splitlines())) if file.exists() else {}
    after = merged(before, json.loads(later.read_text(encoding="utf-8")) if later.exists() else {})
    lines = [json.dumps([name, dict(sorted(after[name].items()))]) for name in sorted(after)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(FILE.parents[2] / ".pytest_cache")

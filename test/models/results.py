"""What runs of test/models and test/serving found of each architecture, for README's table (docs/models_table.py)."""

import json
from pathlib import Path

FILE = Path(__file__).with_suffix(".jsonl")
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

    def write(self) -> None:
        """What was not tested in this run stays as an earlier one found it."""
        before = dict(map(json.loads, FILE.read_text(encoding="utf-8").splitlines())) if FILE.exists() else {}
        after = {**before, **{name: {**before.get(name, {}), **result} for name, result in self.found.items()}}
        if after != before:
            lines = [json.dumps([name, dict(sorted(after[name].items()))]) for name in sorted(after)]
            FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")

"""What a run of test/models found of each architecture, for README's table (docs/models_table.py)."""

import json
from pathlib import Path

FILE = Path(__file__).with_suffix(".jsonl")
PROPERTY = "computes"  # of a test: [architecture, what its model is compared with]


class Results:
    """The outcome of each architecture whose models this run compared with something."""

    def __init__(self):
        self.found = {}  # architecture -> {"against": what it was compared with, "passed": whether all tests did}

    def finished(self, properties: list, passed: bool) -> None:
        """A test with these properties has finished."""
        for architecture, against in (value for name, value in properties if name == PROPERTY):
            result = self.found.setdefault(architecture, {"against": against, "passed": True})
            result["passed"] &= passed

    def write(self) -> None:
        """Architectures that were not tested in this run keep what an earlier one found."""
        before = dict(map(json.loads, FILE.read_text(encoding="utf-8").splitlines())) if FILE.exists() else {}
        after = {**before, **self.found}
        if after != before:
            lines = [json.dumps([name, after[name]]) for name in sorted(after)]
            FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")

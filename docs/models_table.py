"""Writes the table of docs/models.md, from the registry and from what the last runs of the tests found.

Both are plain data: neither MindSpore nor SGLang is imported.
"""

import json
import runpy
from pathlib import Path

from marked import replace, table

ROOT = Path(__file__).parent.parent
REGISTRY = ROOT / "python/sglang/srt/models_ms/registry.py"
RESULTS = ROOT / "test/models/results.jsonl"  # written by test/models/results.py
PAGE = ROOT / "docs/models.md"
HEADER = ("architecture", "models", "features", "logits compared with", "through the Engine")


def rows(models: dict, results: dict):
    """One row an architecture, in the registry's order."""
    for architecture, model in models.items():
        result = results.get(architecture, {})
        yield f"`{architecture}`", model.models, model.features or "-", compared(result), served(result)


def compared(result: dict) -> str:
    """Of models driven step by step, test/models."""
    if "passed" not in result:
        return "**not tested**"
    return result["against"] if result["passed"] else f"**differs from {result['against']}**"


def served(result: dict) -> str:
    """Behind sglang.Engine, test/serving/test_families.py."""
    if "served" not in result:
        return "**not tested**"
    return "passes" if result["served"] else "**fails**"


def page() -> str:
    """The page as it should be."""
    models = runpy.run_path(str(REGISTRY))["MODELS"]
    results = dict(map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines()))
    return replace(PAGE.read_text(encoding="utf-8"), "models-table", table(HEADER, rows(models, results)))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

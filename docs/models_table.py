"""Writes README's table of models, from the registry and from what the last runs of the tests found.

Both are plain data: neither MindSpore nor SGLang is imported.
"""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
REGISTRY = ROOT / "python/sglang/srt/models_ms/registry.py"
RESULTS = ROOT / "test/models/results.jsonl"  # written by test/conftest.py
README = ROOT / "README.md"
BEGIN, END = "<!-- make models-table: begin -->\n", "<!-- make models-table: end -->\n"
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


def table(models: dict, results: dict) -> str:
    lines = [HEADER, ["---"] * len(HEADER), *rows(models, results)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def readme() -> str:
    """README as it should be."""
    models = runpy.run_path(str(REGISTRY))["MODELS"]
    results = dict(map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines()))
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table(models, results) + END + after


if __name__ == "__main__":
    README.write_text(readme(), encoding="utf-8")

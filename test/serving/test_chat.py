"""The example that talks to a model in the terminal: it streams, remembers, and stops an answer."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 15
EXAMPLES = Path(__file__).parents[2] / "ms_example"


@pytest.fixture
def chat(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("chat_example", EXAMPLES / "chat.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_conversation_streams_and_is_remembered(server, chat):
    conversation, pieces = chat.Conversation(server.url, system="Be brief.", max_tokens=12), []
    answer = conversation.ask("What does shutil.copy do?", pieces.append)
    assert len(pieces) > 2
    assert "".join(pieces) == answer
    conversation.ask("And os.remove?", pieces.append)
    roles = [message["role"] for message in conversation.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert conversation.messages[2]["content"] == answer
    conversation.forget()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]


def test_ctrl_c_stops_an_answer_and_what_came_is_kept(server, chat):
    conversation, pieces = chat.Conversation(server.url, max_tokens=400), []

    def show(text):
        pieces.append(text)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    answer = conversation.ask("Return a list of", show)
    assert pieces[3:] == [" [stopped]"]
    assert answer == "".join(pieces[:3])
    assert conversation.messages[-1] == {"role": "assistant", "content": answer}
    assert conversation.ask("Go on", pieces.append)  # the server answers the next one


def test_it_runs_in_a_terminal_until_an_empty_line(server):
    command = [sys.executable, EXAMPLES / "chat.py", "--url", server.url, "--max-tokens", "8"]
    done = subprocess.run(command, input="Return a list of\n/new\n\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("> ") == 3
    assert len(done.stdout) > 20

"""Talks to a model in the terminal: answers stream, and the conversation goes on. Ctrl-C stops an answer.

    python ms_example/chat.py [MODEL]                      # starts a server for as long as the conversation lasts
    python ms_example/chat.py --url http://127.0.0.1:30000 # talks to a server that runs

An empty line, or Ctrl-C or Ctrl-D where you write, ends it. /new begins another conversation.
"""

import argparse
import contextlib
from collections.abc import Callable

import openai
import smollm2
from local_server import serve

with contextlib.suppress(ImportError):
    import readline  # noqa: F401 - lines can be edited, and earlier ones called back


class Conversation:
    """With the model of a server. messages: all of it, as the server's API has them."""

    def __init__(self, url: str, system: str | None = None, max_tokens: int = 512, temperature: float = 0.0):
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        self.model = self.client.models.list().data[0].id
        self.options = dict(max_tokens=max_tokens, temperature=temperature)
        self.system = [{"role": "system", "content": system}] if system else []
        self.messages = [*self.system]

    def forget(self) -> None:
        self.messages = [*self.system]

    def ask(self, question: str, show: Callable[[str], None]) -> str:
        """Pass each piece of the answer to `show` -> the answer. KeyboardInterrupt ends it, and what came is kept."""
        self.messages.append({"role": "user", "content": question})
        answer = ""
        stream = self.client.chat.completions.create(
            model=self.model, messages=self.messages, stream=True, **self.options
        )
        try:
            for piece in stream:
                text = piece.choices[0].delta.content if piece.choices else None
                if text:
                    answer += text
                    show(text)
        except KeyboardInterrupt:
            show(" [stopped]")
        finally:
            stream.close()  # the server stops there
            self.messages.append({"role": "assistant", "content": answer})
        return answer


def talk(conversation: Conversation) -> None:
    """Until the user ends it."""
    while True:
        try:
            question = input("\n> ").strip()
        except (KeyboardInterrupt, EOFError):
            print()
            return
        if not question:
            return
        if question == "/new":
            conversation.forget()
            continue
        conversation.ask(question, lambda text: print(text, end="", flush=True))
        print()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a GGUF file or a Hugging Face model; default: SmolLM2-135M-Instruct")
    parser.add_argument("--url", help="of a server that runs; default: start one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--system", help="a message that comes before the conversation")
    parser.add_argument("--max-tokens", type=int, default=512, help="of an answer; default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (the default) is greedy")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    options = (arguments.system, arguments.max_tokens, arguments.temperature)
    if arguments.url:
        talk(Conversation(arguments.url, *options))
        return
    model = arguments.model or str(smollm2.path())
    print(f"starting a server of {model} ...", flush=True)
    with serve(model, device=arguments.device) as server:
        print(f"ready after {server.seconds:.1f} s; an empty line ends the conversation, Ctrl-C an answer")
        talk(Conversation(server.url, *options))


if __name__ == "__main__":
    main()

"""Ask a model that sees about images: files of this machine, or addresses that the server may fetch.

python ms_example/image_question.py MODEL "What is this?" IMAGE [IMAGE ...]  # starts a server for the question
python ms_example/image_question.py --url http://127.0.0.1:30000 "What is this?" IMAGE
"""

import argparse
import base64
import contextlib
import mimetypes
from pathlib import Path

import openai
from local_server import serve


def content(question: str, images: list[str]) -> list[dict]:
    """A message as OpenAI's API has it: the images, then the question."""
    addresses = [image if "://" in image else _encoded(Path(image)) for image in images]
    parts = [{"type": "image_url", "image_url": {"url": address}} for address in addresses]
    return [*parts, {"type": "text", "text": question}]


def _encoded(image: Path) -> str:
    kind = mimetypes.guess_type(image.name)[0] or "image/png"
    return f"data:{kind};base64," + base64.b64encode(image.read_bytes()).decode()


def ask(url: str, question: str, images: list[str], max_tokens: int) -> None:
    """Print the answer of the server at `url` as it comes."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    stream = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": content(question, images)}],
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
    )
    for piece in stream:
        print(piece.choices[0].delta.content or "" if piece.choices else "", end="", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="[MODEL] QUESTION IMAGE", help="the model only without --url")
    parser.add_argument("--url", help="of a server that runs")
    parser.add_argument("--max-tokens", type=int, default=64)
    given = parser.parse_args()
    model, question, *images = given.words if given.url is None else [None, *given.words]
    if not images:
        parser.error("give a question, and an image at least")
    with contextlib.ExitStack() as running:
        url = given.url or running.enter_context(serve(model)).url
        ask(url, question, images, given.max_tokens)


if __name__ == "__main__":
    main()

"""A short conversation that streams, an answer held to a JSON schema, and what it took.

    python ms_example/demo.py [MODEL] [--profile]

--profile prints a line for each forward pass, with its time.
"""

import argparse
import json
import time

import smollm2
from chat import Conversation
from local_server import Server, serve

QUESTIONS = ("Name the capital of France.", "And of Italy?")
RECORD = "The Eiffel Tower in Paris is 330 meters tall and was opened in 1889. Give its name, city, height and year."
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "city": {"type": "string", "maxLength": 40},
        "height_in_meters": {"type": "integer"},
        "year": {"type": "integer"},
    },
    "required": ["name", "city", "height_in_meters", "year"],
    "additionalProperties": False,
}


class Times:
    """Of answers that stream: seconds to the first piece, and pieces and seconds after it."""

    def __init__(self):
        self.first, self.pieces, self.seconds = [], 0, 0.0
        self.asked = self.begun = 0.0

    def ask(self) -> None:
        self.asked, self.begun = time.perf_counter(), 0.0

    def show(self, text: str) -> None:
        now = time.perf_counter()
        if not self.begun:
            self.begun = now
            self.first.append(now - self.asked)
        else:
            self.pieces += 1
        print(text, end="", flush=True)

    def end(self) -> None:
        if self.begun:
            self.seconds += time.perf_counter() - self.begun


def converse(conversation: Conversation, times: Times) -> None:
    for question in QUESTIONS:
        print(f"\n> {question}")
        times.ask()
        conversation.ask(question, times.show)
        times.end()
        print()


def answer_in_json(conversation: Conversation) -> dict:
    """The answer, checked against the schema's keys."""
    print(f"\n> {RECORD}")
    schema = {"type": "json_schema", "json_schema": {"name": "building", "schema": SCHEMA, "strict": True}}
    answer = conversation.client.chat.completions.create(
        model=conversation.model,
        messages=[{"role": "user", "content": RECORD}],
        response_format=schema,
        max_tokens=128,
        temperature=0,
    )
    record = json.loads(answer.choices[0].message.content)
    print(json.dumps(record, ensure_ascii=False))
    if record.keys() != SCHEMA["properties"].keys():
        raise ValueError(f"the answer has other keys than the schema: {sorted(record)}")
    return record


def print_table(server: Server, times: Times) -> None:
    rows = {
        "server ready (s)": f"{server.seconds:.1f}",
        "time to first token, median (ms)": f"{sorted(times.first)[len(times.first) // 2] * 1000:.0f}",
        "tokens/s, one conversation": f"{times.pieces / times.seconds:.1f}" if times.seconds else "-",
        "memory of all processes (GiB)": f"{server.memory() / 2**30:.2f}",
    }
    print("\n| | |\n| --- | ---: |")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a GGUF file or a Hugging Face model; default: SmolLM2-135M-Instruct")
    parser.add_argument("--profile", action="store_true", help="print the time of each forward pass")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    model = arguments.model or str(smollm2.path())
    print(f"starting a server of {model} ...", flush=True)
    with serve(model, device=arguments.device, profile=arguments.profile) as server:
        conversation, times = Conversation(server.url, max_tokens=128), Times()
        converse(conversation, times)
        answer_in_json(conversation)
        print_table(server, times)


if __name__ == "__main__":
    main()

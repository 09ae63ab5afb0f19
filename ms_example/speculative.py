"""Completes prompts with and without speculative decoding: same tokens, fewer steps.

    python ms_example/speculative.py [MODEL] [--draft DRAFT_MODEL]

Drafts of n-grams want ninja and a C++ compiler on PATH: SGLang compiles its corpus of them once.
"""

import argparse
import time
from pathlib import Path

import sglang

DEMO_MODEL = Path(__file__).parent / "demo_model"
# What a text repeats is what n-grams of it can draft.
PROMPTS = ("for i in range(3):\n    print(i)\nfor i in range(3):\n    print(i)\nfor i in", "Return True if")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(DEMO_MODEL), help="a Hugging Face model; default: %(default)s")
    parser.add_argument("--draft", help="a smaller model with the same vocabulary, which drafts; default: n-grams do")
    parser.add_argument("--draft-tokens", type=int, default=4, help="that a step verifies; default: %(default)s")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    return parser.parse_args()


def speculation(arguments: argparse.Namespace) -> dict:
    """The arguments of an Engine that drafts."""
    if arguments.draft is None:
        return dict(speculative_algorithm="NGRAM", speculative_num_draft_tokens=arguments.draft_tokens)
    return dict(
        speculative_algorithm="STANDALONE",
        speculative_draft_model_path=arguments.draft,
        speculative_num_steps=arguments.draft_tokens - 1,
        speculative_eagle_topk=1,
        speculative_num_draft_tokens=arguments.draft_tokens,
    )


def complete(arguments: argparse.Namespace, more: dict) -> list[str]:
    """The completion of each prompt, one after another; prints how long they took, and what was accepted."""
    sampling = {"max_new_tokens": arguments.max_new_tokens, "temperature": 0}
    common = dict(model_path=arguments.model, framework="mindspore", device="cpu", max_total_tokens=8192)
    with sglang.Engine(**common, **more, max_running_requests=4, log_level="warning") as engine:
        started = time.perf_counter()
        answers = [engine.generate(prompt, sampling) for prompt in PROMPTS]
        elapsed = time.perf_counter() - started
    tokens = sum(answer["meta_info"]["completion_tokens"] for answer in answers)
    accepted = [answer["meta_info"].get("spec_accept_length", 1.0) for answer in answers]
    lengths = ", ".join(f"{length:.2f}" for length in accepted)
    name = more.get("speculative_algorithm", "no drafts")
    print(f"{name}: {tokens / elapsed:.1f} tokens/s; tokens a step: {lengths}")
    return [answer["text"] for answer in answers]


def main() -> None:
    arguments = parse_arguments()
    plain, drafted = complete(arguments, {}), complete(arguments, speculation(arguments))
    print("same text" if plain == drafted else "different text")


if __name__ == "__main__":  # SGLang starts its processes by importing this file again
    main()

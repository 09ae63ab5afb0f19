"""Completes prompts offline, with SGLang's Engine on MindSpore.

    python ms_example/offline_demo.py [MODEL] [--prompt TEXT ...]

With SGLANG_MS_PROFILE=1 the backend prints a line for each forward pass between start and result.
"""

import argparse
import time
from pathlib import Path

import sglang

DEMO_MODEL = Path(__file__).parent / "demo_model"
# The demo model was trained on Python's documentation.
PROMPTS = ("Return True if", "If the optional argument", 'A "for" loop', 'The "with" statement')


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(DEMO_MODEL), help="a Hugging Face model; default: %(default)s")
    parser.add_argument("--prompt", nargs="+", default=PROMPTS, help="what to complete, all in one batch")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (the default) is greedy")
    parser.add_argument("--framework", default="mindspore")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def complete(engine: sglang.Engine, arguments: argparse.Namespace) -> None:
    """Print each prompt with its completion, then tokens per second of the batch, prefill included."""
    sampling = {"max_new_tokens": arguments.max_new_tokens, "temperature": arguments.temperature}
    started = time.perf_counter()
    answers = engine.generate(list(arguments.prompt), sampling)
    elapsed = time.perf_counter() - started
    for prompt, answer in zip(arguments.prompt, answers, strict=True):
        print(f"\nprompt:     {prompt!r}\ncompletion: {answer['text']!r}")
    tokens = sum(answer["meta_info"]["completion_tokens"] for answer in answers)
    print(f"\n{len(answers)} prompts, {tokens} tokens in {elapsed:.2f} s: {tokens / elapsed:.1f} tokens/s")


def main() -> None:
    arguments = parse_arguments()
    # Without a limit SGLang's key/value pool takes most of the memory, which a demonstration does not need.
    with sglang.Engine(
        model_path=arguments.model,
        framework=arguments.framework,
        device=arguments.device,
        max_total_tokens=16384,
        log_level="warning",
    ) as engine:
        complete(engine, arguments)


if __name__ == "__main__":  # SGLang starts its processes by importing this file again
    main()
